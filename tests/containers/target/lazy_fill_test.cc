// Filling a tree's memory: every page is what was staged, or what the process made of it since.
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

TEST_F(LazyFillTest, EveryPageArrivesAsStaged) {
  constexpr std::uint64_t kPages = 20'000;
  FakeProcess process(kPages, [](const Life& life) {
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        std::minstd_rand random(t + 1);
        for (int i = 0; i < 4000; ++i) {
          const std::uint64_t page = random() % life.pages;
          if (!is_right(life.memory + page * 4096, page)) ++wrong;
        }
      });
    }
    for (auto& thread : threads) thread.join();
    return wrong + count_wrong(life.memory, life.pages);
  });
  stage_pages(kPages);
  begin(process);
  ASSERT_TRUE(fill_->memory_complete());
  ASSERT_TRUE(fill_->started());
  EXPECT_EQ(process.end(), 0);
}

TEST_F(LazyFillTest, FillsWhatNobodyTouchesThenEndsAndGivesTheStagingBack) {
  constexpr std::uint64_t kPages = 5'000;
  FakeProcess process(kPages, [](const Life& life) {
    life.wait();
    // Without a filler: what is wrong now was never filled.
    return count_wrong(life.memory, life.pages);
  });
  stage_pages(kPages);
  begin(process);
  const pid_t filler = fill_->filler();
  EXPECT_TRUE(is_running(filler));
  ASSERT_TRUE(fill_->started());
  ASSERT_TRUE(fill_->memory_complete());
  EXPECT_TRUE(wait_until([&] { return fill_->filled(); }));
  EXPECT_TRUE(wait_until([&] { return !is_running(filler); }));
  struct stat status {};
  ASSERT_EQ(::fstat(staging_->memfd(), &status), 0);
  EXPECT_EQ(status.st_blocks, 0);
  process.go();
  EXPECT_EQ(process.end(), 0);
  EXPECT_FALSE(fill_->lost());
}

TEST_F(LazyFillTest, FillsNothingBeforeTheTreeRuns) {
  constexpr std::uint64_t kPages = 100;
  FakeProcess process(kPages, [](const Life& life) {
    life.wait();
    const int wrong = is_right(life.memory + 4096 * 5, 5) ? 0 : 1;  // A fault, which is served.
    life.tell();
    life.wait();
    return wrong;
  });
  stage_pages(kPages);
  begin(process);
  ASSERT_TRUE(fill_->memory_complete());
  process.go();
  ASSERT_TRUE(process.told());
  struct stat status {};
  ASSERT_EQ(::fstat(staging_->memfd(), &status), 0);
  EXPECT_GT(status.st_blocks, 0);
  EXPECT_FALSE(fill_->filled());
  process.go();
  EXPECT_EQ(process.end(), 0);
  const pid_t filler = fill_->filler();
  fill_.reset();
  // Which end it hears of first, the process's or its owner's, decides whether it orders a kill.
  EXPECT_TRUE(wait_until([&] { return !is_running(filler); }));
}

TEST_F(LazyFillTest, WhatAProcessGivesUpNeverComesBack) {
  constexpr std::uint64_t kPages = 100'000;
  FakeProcess process(kPages, [](const Life& life) {
    life.wait();
    return give_up_pages(life);
  });
  stage_pages(kPages);
  begin(process);
  ASSERT_TRUE(fill_->memory_complete());
  process.go();
  ASSERT_TRUE(fill_->started());
  EXPECT_EQ(process.end(), 0);
}

/// Moves quarters about while they are filled, and unmaps one.
int move_memory(const Life& life) {
  const std::uint64_t quarter = life.pages / 4;
  const std::size_t bytes = quarter * 4096;
  std::byte* parts[4];
  for (std::uint64_t i = 0; i < 4; ++i) parts[i] = life.memory + i * bytes;
  std::byte* far = life.memory + 64 * bytes;
  int wrong = 0;
  for (int round = 0; round < 10; ++round) {
    for (std::uint64_t i = 0; i < 3; ++i) {
      std::byte* to = far + (static_cast<std::uint64_t>(round) * 4 + i) * 2 * bytes;
      void* at = ::mremap(parts[i], bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to);
      if (at == MAP_FAILED) return 99;
      parts[i] = to;
      const std::uint64_t page = static_cast<std::uint64_t>(round * 37) % quarter;
      if (!is_right(parts[i] + page * 4096, i * quarter + page)) ++wrong;
    }
  }
  // Grown: what is new reads as zero.
  void* grown = ::mremap(parts[0], bytes, 2 * bytes, MREMAP_MAYMOVE);
  if (grown == MAP_FAILED) return 98;
  parts[0] = static_cast<std::byte*>(grown);
  if (!is_zero(parts[0] + bytes) || !is_zero(parts[0] + 2 * bytes - 4096)) ++wrong;
  ::munmap(parts[3], bytes);
  void* fresh = ::mmap(parts[3], bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (fresh != parts[3]) return 97;
  for (std::uint64_t i = 0; i < 3; ++i) {
    for (std::uint64_t page = 0; page < quarter; ++page) {
      if (!is_right(parts[i] + page * 4096, i * quarter + page)) ++wrong;
    }
  }
  for (std::uint64_t page = 0; page < quarter; ++page) {
    if (!is_zero(parts[3] + page * 4096)) ++wrong;
  }
  return wrong;
}

TEST_F(LazyFillTest, FollowsMemoryThatIsMovedGrownAndUnmapped) {
  constexpr std::uint64_t kPages = 40'000;
  FakeProcess process(kPages, [](const Life& life) {
    life.wait();
    return move_memory(life);
  });
  stage_pages(kPages);
  begin(process);
  ASSERT_TRUE(fill_->memory_complete());
  process.go();
  ASSERT_TRUE(fill_->started());
  EXPECT_EQ(process.end(), 0);
}

TEST_F(LazyFillTest, ChildrenForkedWhileMemoryComesHaveAllOfIt) {
  constexpr std::uint64_t kPages = 20'000;
  FakeProcess process(kPages, [](const Life& life) {
    life.wait();
    return fork_children(life);
  });
  stage_pages(kPages);
  begin(process);
  ASSERT_TRUE(fill_->memory_complete());
  process.go();
  ASSERT_TRUE(fill_->started());
  EXPECT_EQ(process.end(), 0);
}

TEST_F(LazyFillTest, AProcessNobodyKnowsOfIsRefused) {
  FakeProcess process(100, [](const Life& life) {
    life.wait();
    return 0;
  });
  stage_pages(100);
  auto fill = LazyFill::launch();
  ASSERT_TRUE(fill);
  fill_ = *std::move(fill);
  ASSERT_TRUE(fill_->begin(plan_, *staging_, folder_));
  process.connect(folder_, kPid + 1);
  const Status came = fill_->wait_for_processes(Clock::now() + kLong);
  ASSERT_FALSE(came);
  EXPECT_EQ(came.error().code, ErrorCode::kIntegrity);
}

TEST_F(LazyFillTest, PagesThatHaveNotComeHoldUpOnlyWhoTouchesThem) {
  constexpr std::uint64_t kPages = 1000;
  constexpr std::uint64_t kMissing = 20;  // More than there are fetching threads at first.
  FakeProcess process(kPages, [](const Life& life) {
    life.wait();
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < kMissing; ++t) {
      threads.emplace_back(
          [&, t] { wrong += is_right(life.memory + t * 40 * 4096, t * 40) ? 0 : 1; });
    }
    for (std::uint64_t page = 0; page < life.pages; ++page) {
      if (page % 40 != 0) wrong += is_right(life.memory + page * 4096, page) ? 0 : 1;
    }
    life.tell();
    for (auto& thread : threads) thread.join();
    return wrong + count_wrong(life.memory, life.pages);
  });
  stage_pages(kPages);
  const auto memory = staging_->mapped(fake_region(kPages).id);
  std::vector<std::vector<std::byte>> contents;
  for (std::uint64_t t = 0; t < kPages / 40; ++t) {
    const std::byte* at = memory.data() + t * 40 * 4096;
    contents.emplace_back(at, at + 4096);
    ASSERT_TRUE(staging_->zero(fake_region(kPages).id, {{kFakeAddress / 4096 + t * 40}, 1}));
  }
  const Fd engine(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  uffdio_api api{UFFD_API, 0, 0};
  uffdio_register range{};
  range.range = {reinterpret_cast<std::uint64_t>(memory.data()), memory.size()};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  ASSERT_EQ(::ioctl(engine.get(), UFFDIO_API, &api), 0);
  ASSERT_EQ(::ioctl(engine.get(), UFFDIO_REGISTER, &range), 0);
  // Zeros among what is staged are the engine's to answer, too: only the pages above wait long.
  std::atomic<bool> done = false;
  std::thread zeros([&] {
    while (!done) {
      pollfd fd{engine.get(), POLLIN, 0};
      if (::poll(&fd, 1, 10) != 1) continue;
      uffd_msg message{};
      if (::read(engine.get(), &message, sizeof message) != sizeof message) continue;
      const std::uint64_t at = message.arg.pagefault.address & ~std::uint64_t{4095};
      const std::uint64_t page = (at - range.range.start) / 4096;
      if (page % 40 == 0) continue;
      uffdio_zeropage zero{};
      zero.range = {at, 4096};
      ::ioctl(engine.get(), UFFDIO_ZEROPAGE, &zero);
    }
  });
  begin(process);
  ASSERT_TRUE(fill_->started());
  process.go();
  EXPECT_TRUE(process.told());
  for (std::uint64_t t = 0; t < contents.size(); ++t) {
    uffdio_copy copy{};
    copy.dst = range.range.start + t * 40 * 4096;
    copy.src = reinterpret_cast<std::uint64_t>(contents[t].data());
    copy.len = 4096;
    EXPECT_EQ(::ioctl(engine.get(), UFFDIO_COPY, &copy), 0);
  }
  EXPECT_TRUE(fill_->memory_complete());
  EXPECT_EQ(process.end(), 0);
  done = true;
  zeros.join();
}

}  // namespace
}  // namespace migrate::containers
