// Filling a tree's memory when somebody dies over it: no page turns to zeros.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/containers/target/fill_bed.hpp"

namespace migrate::containers {
namespace {

using LazyFillLossTest = LazyFillTest;

TEST_F(LazyFillLossTest, AllMemoryComesAfterTheFillingProcessWasDestroyed) {
  constexpr std::uint64_t kPages = 50'000;
  FakeProcess process(kPages, [](const Life& life) {
    life.wait();
    return count_wrong(life.memory, life.pages);
  });
  stage_pages(kPages);
  begin(process);
  const pid_t filler = fill_->filler();
  ASSERT_TRUE(fill_->memory_complete());
  ASSERT_TRUE(fill_->started());
  fill_.reset();
  staging_.reset();
  process.go();
  EXPECT_EQ(process.end(), 0);
  EXPECT_TRUE(wait_until([&] { return !is_running(filler); }));
  EXPECT_FALSE(told_to_kill());
}

/// The process that a migration runs in, to be killed with SIGKILL.
class Owner {
 public:
  explicit Owner(const std::function<void()>& run) {
    EXPECT_EQ(::pipe2(ready_.data(), O_CLOEXEC), 0);
    pid_ = ::fork();
    if (pid_ != 0) return;
    run();
    [[maybe_unused]] const auto told = ::write(ready_[1], "r", 1);
    for (;;) ::pause();
  }
  ~Owner() {
    kill();
    for (const int fd : ready_) ::close(fd);
  }
  bool ready() {
    pollfd fd{ready_[0], POLLIN, 0};
    char byte = 0;
    return ::poll(&fd, 1, 60'000) == 1 && ::read(ready_[0], &byte, 1) == 1;
  }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(std::exchange(pid_, 0), nullptr, 0);
  }

 private:
  pid_t pid_ = 0;
  std::array<int, 2> ready_{};
};

TEST_F(LazyFillLossTest, NoPageTurnsToZerosWhenTheOwnerIsKilledMidway) {
  constexpr std::uint64_t kPages = 30'000;
  for (const int after_us : {0, 500, 5'000, 15'000, 30'000, 100'000}) {
    FakeProcess process(kPages, [after_us](const Life& life) {
      life.wait();
      return after_us % 10'000 == 0 ? fork_children(life) : give_up_pages(life);
    });
    stage_pages(kPages);
    Owner owner([&] {
      begin(process);
      if (!fill_->memory_complete() || !fill_->started()) ::_exit(1);
    });
    ASSERT_TRUE(owner.ready());
    staging_.reset();  // Nobody else has it.
    process.go();
    ::usleep(static_cast<useconds_t>(after_us));  // Another moment of it; any will do.
    owner.kill();
    EXPECT_EQ(process.end(), 0) << after_us;
    std::filesystem::remove(folder_ + "/lazy-pages.socket");
  }
  EXPECT_FALSE(told_to_kill());
}

TEST_F(LazyFillLossTest, AnOwnerKilledBeforeTheTreeRunsTakesItAlong) {
  FakeProcess process(100, [](const Life& life) {
    life.wait();
    return 0;
  });
  stage_pages(100);
  Owner owner([&] {
    begin(process);
    if (!fill_->memory_complete()) ::_exit(1);
  });
  ASSERT_TRUE(owner.ready());
  EXPECT_FALSE(told_to_kill());
  owner.kill();
  EXPECT_TRUE(wait_until([&] { return told_to_kill(); }));
}

TEST_F(LazyFillLossTest, AnOwnerKilledWithPagesStillToComeKillsTheTreeInsteadOfServingZeros) {
  FakeProcess process(100, [](const Life& life) {
    life.wait();
    life.tell();
    const bool zero = is_zero(life.memory + 5 * 4096);
    life.tell();
    return zero ? 1 : 2;
  });
  stage_pages(100);
  const RegionId region = fake_region(100).id;
  ASSERT_TRUE(staging_->zero(region, {{kFakeAddress / 4096 + 5}, 1}));
  Owner owner([&] {
    // As the engine does for what is to come.
    const int fd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC));
    uffdio_api api{UFFD_API, 0, 0};
    uffdio_register range{};
    range.range = {reinterpret_cast<std::uint64_t>(staging_->mapped(region).data()), 100 * 4096};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (::ioctl(fd, UFFDIO_API, &api) != 0 || ::ioctl(fd, UFFDIO_REGISTER, &range) != 0) ::_exit(1);
    begin(process);
    if (!fill_->started()) ::_exit(1);
  });
  ASSERT_TRUE(owner.ready());
  process.go();
  ASSERT_TRUE(process.told());
  owner.kill();
  EXPECT_TRUE(wait_until([&] { return told_to_kill(); }));
  process.kill();
}

TEST_F(LazyFillLossTest, ADeadFillerKillsTheTree) {
  FakeProcess process(100, [](const Life& life) {
    life.wait();
    return 0;
  });
  stage_pages(100);
  begin(process);
  ASSERT_TRUE(fill_->started());
  ::kill(fill_->filler(), SIGKILL);
  EXPECT_TRUE(wait_until([&] { return fill_->lost(); }));
  EXPECT_TRUE(told_to_kill());
}

}  // namespace
}  // namespace migrate::containers
