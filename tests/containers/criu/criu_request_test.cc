// What is asked of CRIU, and how its answers are told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "base/event_fd.hpp"
#include "tests/containers/criu/criu_bed.hpp"

namespace migrate::containers {
namespace {

using testing::HasSubstr;

CriuVersion numbered(int major, int minor, int sublevel) {
  return {major, minor, sublevel, std::to_string(major) + "." + std::to_string(minor)};
}

TEST(CriuVersions, WhatIsTooOldIsRefusedWithWhatToInstall) {
  EXPECT_TRUE(check_criu_version(numbered(4, 1, 0)));
  EXPECT_TRUE(check_criu_version(numbered(4, 2, 1)));
  EXPECT_TRUE(check_criu_version(numbered(5, 0, 0)));
  for (const CriuVersion& old : {numbered(3, 19, 0), numbered(4, 0, 9)}) {
    const Status refused = check_criu_version(old);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
    EXPECT_THAT(refused.error().message, HasSubstr(old.text));
    EXPECT_THAT(refused.error().remedy, HasSubstr("4.1"));
  }
}

TEST(CriuVersions, MemoryIsHiddenOnlyFromVersionsThatWereTried) {
  EXPECT_TRUE(shim_works_with(numbered(4, 1, 1)));
  EXPECT_TRUE(shim_works_with(numbered(4, 2, 0)));
  EXPECT_TRUE(shim_works_with(numbered(4, 2, 1)));
  EXPECT_FALSE(shim_works_with(numbered(4, 1, 0)));
  EXPECT_FALSE(shim_works_with(numbered(4, 3, 0)));
}

TEST(CriuRequests, VersionAndFeaturesAreTold) {
  const CriuBed bed("version=3.19 lazy=0");
  auto worker = bed.worker();
  const auto version = worker->version(soon());
  ASSERT_TRUE(version) << version.error().to_text();
  EXPECT_EQ(version->text, "3.19");
  EXPECT_FALSE(check_criu_version(*version));
  const auto features = worker->features(soon());
  ASSERT_TRUE(features) << features.error().to_text();
  EXPECT_FALSE(features->lazy_pages);
  EXPECT_TRUE(features->pidfd_store);
  EXPECT_FALSE(features->mem_track);
}

TEST(CriuRequests, ADumpGoesThroughItsHooksInOrder) {
  const CriuBed bed;
  auto worker = bed.worker();
  ASSERT_TRUE(worker->begin_dump(bed.dump()));
  std::vector<std::string> hooks;
  const auto event = run_to_end(*worker, "", &hooks);
  ASSERT_TRUE(event) << event.error().to_text();
  EXPECT_TRUE(event->success);
  EXPECT_THAT(hooks,
              testing::ElementsAre("pre-dump", "network-lock", "query-ext-files", "post-dump"));
}

TEST(CriuRequests, ARefusedHookEndsTheRequestWithoutSuccess) {
  const CriuBed bed;
  auto worker = bed.worker();
  ASSERT_TRUE(worker->begin_dump(bed.dump()));
  const auto event = run_to_end(*worker, "query-ext-files");
  ASSERT_TRUE(event) << event.error().to_text();
  EXPECT_FALSE(event->success);
}

TEST(CriuRequests, AFailureIsToldInCriusWords) {
  const CriuBed bed("fail=Can't_lock_network log=iptables_is_missing");
  auto worker = bed.worker();
  ASSERT_TRUE(worker->begin_dump(bed.dump()));
  const auto event = run_to_end(*worker);
  ASSERT_TRUE(event) << event.error().to_text();
  ASSERT_FALSE(event->success);
  const Error error = worker->failure("CRIU did not dump the tree");
  EXPECT_EQ(error.code, ErrorCode::kGuest);
  EXPECT_EQ(error.sys_errno, EPERM);
  EXPECT_EQ(error.message, "CRIU did not dump the tree: Can't lock network; iptables is missing");
}

TEST(CriuRequests, ALazyDumpsServerIsToldToEndBeforeAnybodyAsks) {
  for (const char* version : {"version=4.1.1", "version=4.2"}) {
    const CriuBed bed(version);
    auto worker = bed.worker();
    CriuDump dump = bed.dump();
    dump.lazy_port = free_port();
    ASSERT_TRUE(worker->begin_dump(dump));
    const auto event = run_to_end(*worker);
    ASSERT_TRUE(event) << event.error().to_text();
    EXPECT_TRUE(event->success) << version;
    EXPECT_EQ(bed.report("config"), "address 127.0.0.1") << "the server must be this host's only";
  }
}

TEST(CriuRequests, ARestoredRootIsOursToWaitFor) {
  const CriuBed bed;
  auto worker = bed.worker();
  ASSERT_TRUE(worker->begin_restore(bed.restore()));
  const auto event = run_to_end(*worker);
  ASSERT_TRUE(event) << event.error().to_text();
  ASSERT_TRUE(event->success);
  ASSERT_GT(event->pid, 0);
  worker.reset();
  ASSERT_EQ(::kill(event->pid, SIGTERM), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(event->pid, &status, 0), event->pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

TEST(CriuRequests, AFailedRestoreLeavesNoZombie) {
  const CriuBed bed;
  auto worker = bed.worker();
  ASSERT_TRUE(worker->begin_restore(bed.restore()));
  const auto event = run_to_end(*worker, "post-restore");
  ASSERT_TRUE(event) << event.error().to_text();
  ASSERT_FALSE(event->success);
  ASSERT_GT(event->pid, 0);
  worker.reset();
  EXPECT_EQ(::waitpid(event->pid, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(CriuRequests, SilenceEndsAtTheDeadlineAndAnInterruptAtOnce) {
  const CriuBed bed("at=pre-dump:silent");
  auto worker = bed.worker();
  ASSERT_TRUE(worker->begin_dump(bed.dump()));
  const auto late = worker->next(std::chrono::steady_clock::now() + std::chrono::milliseconds(20));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, ErrorCode::kTimeout);
  auto interrupt = EventFd::create();
  ASSERT_TRUE(interrupt);
  std::thread other([&interrupt] { interrupt->set(); });
  const auto cancelled = worker->next(soon(), interrupt->fd());
  other.join();
  ASSERT_FALSE(cancelled);
  EXPECT_EQ(cancelled.error().code, ErrorCode::kCancelled);
}

TEST(CriuRequests, WhatIsNoMessageIsRefused) {
  for (const char* act : {"garbage", "long", "unnamed"}) {
    for (const char* place : {"pre-dump", "end"}) {
      const CriuBed bed(std::string("at=") + place + ":" + act);
      auto worker = bed.worker();
      ASSERT_TRUE(worker->begin_dump(bed.dump()));
      const auto event = run_to_end(*worker);
      ASSERT_FALSE(event) << act;
      EXPECT_EQ(event.error().code, ErrorCode::kProtocol) << event.error().to_text();
    }
  }
}

}  // namespace
}  // namespace migrate::containers
