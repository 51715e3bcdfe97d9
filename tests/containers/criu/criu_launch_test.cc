// How a CRIU is started: what it inherits, and what is said where it cannot be.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "adapters/containers/criu/hidden_areas.hpp"
#include "tests/containers/criu/criu_bed.hpp"

namespace migrate::containers {
namespace {

using testing::HasSubstr;

TEST(CriuLaunch, AMissingProgramIsToldWithWhatToInstall) {
  CriuLaunch launch;
  for (const char* path : {"criu-that-nobody-has", "/nowhere/criu"}) {
    launch.program.path = path;
    const auto worker = CriuWorker::launch(launch);
    ASSERT_FALSE(worker) << path;
    EXPECT_EQ(worker.error().code, ErrorCode::kNotFound) << worker.error().to_text();
    EXPECT_THAT(worker.error().message, HasSubstr(path));
    EXPECT_THAT(worker.error().remedy, HasSubstr("install CRIU 4.1"));
  }
}

TEST(CriuLaunch, AFileThatMayNotRunIsToldAsThat) {
  const CriuBed bed;
  CriuLaunch launch;
  launch.program.path = bed.folder() + "/criu";
  std::ofstream(launch.program.path) << "nothing";
  const auto worker = CriuWorker::launch(launch);
  ASSERT_FALSE(worker);
  EXPECT_EQ(worker.error().code, ErrorCode::kPermission) << worker.error().to_text();
}

TEST(CriuLaunch, AProgramThatIsNoCriuIsToldWithWhatItSaid) {
  const CriuBed bed;
  CriuLaunch launch;
  launch.program.path = bed.folder() + "/criu";
  std::ofstream(launch.program.path) << "#!/bin/sh\necho 'libnl-3.so.200: not found' >&2\nexit 5\n";
  ASSERT_EQ(::chmod(launch.program.path.c_str(), 0700), 0);
  const auto worker = CriuWorker::launch(launch);
  ASSERT_TRUE(worker) << worker.error().to_text();
  const auto version = (*worker)->version(soon());
  ASSERT_FALSE(version);
  EXPECT_EQ(version.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(version.error().message, HasSubstr("ended with status 5"));
  EXPECT_THAT(version.error().message, HasSubstr("libnl-3.so.200: not found"));
}

TEST(CriuLaunch, ItInheritsWhatWasNamedAndNothingElse) {
  const CriuBed bed;
  const Fd stray(::open("/dev/null", O_RDONLY));  // Without close-on-exec.
  const Fd one(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  CriuLaunch launch = CriuBed::launch();
  // The second's number is where the first's copy might have been put.
  launch.descriptors = {{one.get(), 101}, {bed.images(), 100}, {one.get(), 130}};
  auto worker = CriuWorker::launch(launch);
  ASSERT_TRUE(worker) << worker.error().to_text();
  ASSERT_TRUE((*worker)->begin_dump(bed.dump()));
  ASSERT_TRUE(run_to_end(**worker));
  EXPECT_EQ(bed.report("descriptors"), "0 1 2 3 4 100 101 130");
  EXPECT_EQ(bed.report("LD_PRELOAD"), "none");
  EXPECT_EQ(bed.report("session"), "1");
}

TEST(CriuLaunch, BlockedAndIgnoredSignalsAreNotInherited) {
  const CriuBed bed;
  sigset_t blocked;
  sigset_t before;
  ::sigfillset(&blocked);
  ::pthread_sigmask(SIG_SETMASK, &blocked, &before);
  const auto ignored = ::signal(SIGUSR1, SIG_IGN);
  auto worker = bed.worker();
  ::signal(SIGUSR1, ignored);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ASSERT_TRUE(worker->begin_dump(bed.dump()));
  ASSERT_TRUE(run_to_end(*worker));
  EXPECT_EQ(bed.report("SigBlk"), "0000000000000000");
  EXPECT_EQ(bed.report("SigIgn"), "0000000000000000");
}

TEST(CriuLaunch, TheShimIsLoadedOnlyWhereMemoryIsHidden) {
  const CriuBed bed;
  auto areas = HiddenAreas::create();
  ASSERT_TRUE(areas);
  CriuLaunch launch = CriuBed::launch();
  launch.program.shim = MIGRATE_SHIM;
  launch.hidden_areas_fd = areas->fd();
  auto worker = CriuWorker::launch(launch);
  ASSERT_TRUE(worker) << worker.error().to_text();
  ASSERT_TRUE((*worker)->begin_dump(bed.dump()));
  ASSERT_TRUE(run_to_end(**worker));
  EXPECT_THAT(bed.report("LD_PRELOAD"), testing::StartsWith(MIGRATE_SHIM));
  EXPECT_EQ(bed.report("MIGRATE_CRIU_HIDDEN"), "5");
  EXPECT_EQ(bed.report("descriptors"), "0 1 2 3 4 5");
}

TEST(CriuLaunch, AShimThatIsNotThereIsAnErrorAndNotAQuietSlowDump) {
  auto areas = HiddenAreas::create();
  ASSERT_TRUE(areas);
  CriuLaunch launch = CriuBed::launch();
  launch.program.shim = "/nowhere/libmigrate-criu-shim.so";
  launch.hidden_areas_fd = areas->fd();
  const auto worker = CriuWorker::launch(launch);
  ASSERT_FALSE(worker);
  EXPECT_EQ(worker.error().code, ErrorCode::kNotFound);
}

TEST(CriuLaunch, ItIsInItsCgroupBeforeItRuns) {
  const CriuBed bed;
  CriuLaunch launch = CriuBed::launch();
  // Any file that takes a zero will do to see who writes it, and when.
  launch.cgroup_procs = {bed.folder() + "/cgroup.procs"};
  const auto refused = CriuWorker::launch(launch);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNotFound) << refused.error().to_text();
  std::ofstream{launch.cgroup_procs[0]};
  auto worker = CriuWorker::launch(launch);
  ASSERT_TRUE(worker) << worker.error().to_text();
  std::string written;
  std::ifstream(launch.cgroup_procs[0]) >> written;
  EXPECT_EQ(written, "0");
}

TEST(CriuLaunch, DestroyingTheWorkerLeavesNoProcess) {
  pid_t pid = 0;
  {
    const CriuBed bed("at=begin:silent");
    auto worker = bed.worker();
    ASSERT_TRUE(worker->begin_dump(bed.dump()));
    pid = worker->pid();
    ASSERT_EQ(::kill(pid, 0), 0);
  }
  EXPECT_EQ(::waitpid(pid, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

}  // namespace
}  // namespace migrate::containers
