// The worker and the shim with a real CRIU, named by MIGRATE_CRIU.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "adapters/containers/criu/criu_images.hpp"
#include "adapters/containers/criu/hidden_areas.hpp"
#include "tests/containers/criu/criu_bed.hpp"

namespace migrate::containers {
namespace {

/// Sleeps in a session of its own, with nothing of this process's. Ends, whosever child it is.
class Sleeper {
 public:
  explicit Sleeper(bool listens = false) {
    pid_ = ::fork();
    MIGRATE_CHECK(pid_ >= 0);
    if (pid_ != 0) {
      // All of its memory is there once it sleeps.
      const Deadline deadline = soon();
      while (!sleeps() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
      MIGRATE_CHECK(sleeps());
      return;
    }
    ::setsid();
    const int nothing = ::open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; ++fd) ::dup2(nothing, fd);
    ::close_range(3, ~0U, 0);
    if (listens && ::listen(::socket(AF_INET, SOCK_STREAM, 0), 1) != 0) ::_exit(125);
    if (::chdir("/") != 0) ::_exit(126);
    ::execl("/bin/sleep", "sleep", "1000", nullptr);
    ::_exit(127);
  }
  ~Sleeper() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  /// "S" while it sleeps; "" without it.
  [[nodiscard]] std::string state() const { return field("State:"); }
  [[nodiscard]] std::string tracer() const { return field("TracerPid:"); }
  /// Its private anonymous memory.
  [[nodiscard]] std::vector<HiddenArea> areas() const {
    std::vector<HiddenArea> found;
    std::ifstream maps("/proc/" + std::to_string(pid_) + "/maps");
    for (std::string line; std::getline(maps, line);) {
      unsigned long begin = 0;
      unsigned long end = 0;
      char rights[5] = {};
      unsigned long inode = 1;
      std::sscanf(line.c_str(), "%lx-%lx %4s %*x %*s %lu", &begin, &end, rights, &inode);
      if (inode == 0 && rights[1] == 'w') found.push_back({pid_, begin, end});
    }
    return found;
  }

 private:
  [[nodiscard]] bool sleeps() const {
    std::ifstream file("/proc/" + std::to_string(pid_) + "/wchan");
    std::string place;
    return file >> place && place.find("nanosleep") != std::string::npos;
  }
  [[nodiscard]] std::string field(const std::string& name) const {
    std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
    for (std::string word; status >> word;) {
      if (word == name && status >> word) return word;
    }
    return "";
  }
  pid_t pid_ = -1;
};

std::vector<std::byte> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

class RealCriu : public testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("MIGRATE_CRIU");
    if (path == nullptr || ::access(path, X_OK) != 0) GTEST_SKIP() << "no CRIU here (MIGRATE_CRIU)";
    if (::geteuid() != 0) GTEST_SKIP() << "CRIU needs root";
    launch_.program.path = path;
    auto worker = CriuWorker::launch(launch_);
    ASSERT_TRUE(worker) << worker.error().to_text();
    const auto version = (*worker)->version(soon());
    ASSERT_TRUE(version) << version.error().to_text();
    if (const Status fits = check_criu_version(*version); !fits) {
      GTEST_SKIP() << fits.error().to_text();
    }
    version_ = *version;
  }
  std::unique_ptr<CriuWorker> worker() const {
    auto worker = CriuWorker::launch(launch_);
    MIGRATE_CHECK(worker.has_value());
    return *std::move(worker);
  }
  CriuDump dump_of(const Sleeper& sleeper) const {
    CriuDump dump = bed_.dump();
    dump.root = sleeper.pid();
    return dump;
  }
  /// Dumps as far as that goes, and lets the sleeper run on.
  void dump_and_let_go(CriuWorker& criu, const Sleeper& sleeper, const CriuDump& dump) const {
    ASSERT_TRUE(criu.begin_dump(dump));
    std::vector<std::string> hooks;
    const auto event = run_to_end(criu, "post-dump", &hooks);
    ASSERT_TRUE(event) << event.error().to_text();
    EXPECT_FALSE(event->success);
    ASSERT_FALSE(hooks.empty());
    EXPECT_EQ(hooks.back(), "post-dump") << criu.failure("dump").to_text();
    expect_undisturbed(sleeper);
  }
  void expect_undisturbed(const Sleeper& sleeper) const {
    // It has been let go, and takes up its sleep again.
    const Deadline deadline = soon();
    while ((sleeper.state() != "S" || sleeper.tracer() != "0") &&
           std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(sleeper.state(), "S");
    EXPECT_EQ(sleeper.tracer(), "0");
  }
  /// Pages of `areas` that the images hold.
  std::uint64_t pages_in_images(const Sleeper& sleeper, const std::vector<HiddenArea>& areas) {
    const auto runs = parse_pagemap(
        read_file(bed_.folder() + "/pagemap-" + std::to_string(sleeper.pid()) + ".img"));
    MIGRATE_CHECK(runs.has_value());
    std::uint64_t count = 0;
    for (const ImagePages& run : *runs) {
      for (const HiddenArea& area : areas) {
        const std::uint64_t begin = std::max(run.address, area.begin);
        const std::uint64_t end = std::min(run.address + run.pages * 4096, area.end);
        if (begin < end) count += (end - begin) / 4096;
      }
    }
    return count;
  }
  CriuBed bed_;
  CriuLaunch launch_;
  CriuVersion version_;
};

TEST_F(RealCriu, TellsItsVersionAndFeaturesAndThenDumps) {
  const Sleeper sleeper;
  auto criu = worker();
  ASSERT_TRUE(criu->version(soon()));
  const auto features = criu->features(soon());
  ASSERT_TRUE(features) << features.error().to_text();
  EXPECT_TRUE(features->lazy_pages);
  dump_and_let_go(*criu, sleeper, dump_of(sleeper));
  const auto tree = parse_pstree(read_file(bed_.folder() + "/pstree.img"));
  ASSERT_TRUE(tree) << tree.error().to_text();
  ASSERT_EQ(tree->size(), 1u);
  EXPECT_EQ(tree->at(0).pid, sleeper.pid());
  const auto areas =
      parse_areas(read_file(bed_.folder() + "/mm-" + std::to_string(sleeper.pid()) + ".img"));
  ASSERT_TRUE(areas) << areas.error().to_text();
  EXPECT_TRUE(std::any_of(areas->begin(), areas->end(), [](const auto& a) { return a.lazy; }));
}

TEST_F(RealCriu, MemoryIsInTheImagesUnlessItIsHidden) {
  if (!shim_works_with(version_))
    GTEST_SKIP() << "hiding was not tried with CRIU " << version_.text;
  const Sleeper sleeper;
  const std::vector<HiddenArea> areas = sleeper.areas();
  auto list = HiddenAreas::create();
  ASSERT_TRUE(list);
  launch_.program.shim = MIGRATE_SHIM;
  launch_.hidden_areas_fd = list->fd();
  for (const bool hidden : {false, true}) {
    auto criu = worker();
    ASSERT_TRUE(criu->begin_dump(dump_of(sleeper)));
    const auto first = criu->next(soon());
    ASSERT_TRUE(first) << first.error().to_text();
    if (hidden) {
      ASSERT_TRUE(list->set(areas));
    }
    ASSERT_TRUE(criu->answer(true));
    const auto event = run_to_end(*criu, "post-dump");
    ASSERT_TRUE(event) << event.error().to_text();
    expect_undisturbed(sleeper);
    if (hidden) {
      EXPECT_EQ(pages_in_images(sleeper, areas), 0u);
    } else {
      EXPECT_GT(pages_in_images(sleeper, areas), 5u);
    }
  }
}

TEST_F(RealCriu, ALazyDumpEndsWithoutAnybodyWhoFetches) {
  const Sleeper sleeper;
  CriuDump dump = dump_of(sleeper);
  dump.lazy_port = free_port();
  auto refused = worker();
  dump_and_let_go(*refused, sleeper, dump);
  auto criu = worker();
  ASSERT_TRUE(criu->begin_dump(dump));
  const auto event = run_to_end(*criu);
  ASSERT_TRUE(event) << event.error().to_text();
  // It is no success, and the tree runs, where its server was not told to end in the right words.
  EXPECT_TRUE(event->success) << criu->failure("dump").to_text();
  EXPECT_NE(sleeper.state(), "S");
}

TEST_F(RealCriu, AnInternetSocketIsNoHindranceOnAnyKernel) {
  if (!shim_works_with(version_)) GTEST_SKIP() << "not tried with CRIU " << version_.text;
  const Sleeper listens(true);
  auto list = HiddenAreas::create();
  ASSERT_TRUE(list);
  launch_.program.shim = MIGRATE_SHIM;
  launch_.hidden_areas_fd = list->fd();
  auto criu = worker();
  dump_and_let_go(*criu, listens, dump_of(listens));
}

TEST_F(RealCriu, WhatWasDumpedRunsAgainAndIsOursToWaitFor) {
  Sleeper sleeper;
  {
    auto criu = worker();
    ASSERT_TRUE(criu->begin_dump(dump_of(sleeper)));
    const auto event = run_to_end(*criu);
    ASSERT_TRUE(event) << event.error().to_text();
    ASSERT_TRUE(event->success) << criu->failure("dump").to_text();
  }
  ASSERT_EQ(::waitpid(sleeper.pid(), nullptr, 0), sleeper.pid()) << "CRIU has killed it";
  auto criu = worker();
  ASSERT_TRUE(criu->begin_restore(bed_.restore()));
  const auto event = run_to_end(*criu);
  ASSERT_TRUE(event) << event.error().to_text();
  ASSERT_TRUE(event->success) << criu->failure("restore").to_text();
  EXPECT_EQ(event->pid, sleeper.pid());
  criu.reset();
  expect_undisturbed(sleeper);
  ASSERT_EQ(::kill(sleeper.pid(), SIGTERM), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(sleeper.pid(), &status, 0), sleeper.pid());
  EXPECT_TRUE(WIFSIGNALED(status));
}

TEST_F(RealCriu, WhatItCannotDumpIsToldInItsWords) {
  auto criu = worker();
  CriuDump dump = bed_.dump();
  dump.root = (1 << 22) + 1;  // Beyond what a process can have.
  ASSERT_TRUE(criu->begin_dump(dump));
  const auto event = run_to_end(*criu);
  ASSERT_TRUE(event) << event.error().to_text();
  ASSERT_FALSE(event->success);
  const std::string text = criu->failure("CRIU did not dump").message;
  EXPECT_THAT(text, testing::StartsWith("CRIU did not dump: "));
  EXPECT_THAT(text, testing::HasSubstr("4194305"));
}

}  // namespace
}  // namespace migrate::containers
