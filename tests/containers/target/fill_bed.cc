#include "tests/containers/target/fill_bed.hpp"

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

namespace migrate::containers {

bool wait_until(const std::function<bool()>& condition) {
  const auto deadline = Clock::now() + kLong;
  while (!condition()) {
    if (Clock::now() > deadline) return false;
    ::poll(nullptr, 0, 2);
  }
  return true;
}

bool is_running(pid_t pid) { return ::kill(pid, 0) == 0; }

int count_wrong(const std::byte* memory, std::uint64_t pages) {
  int wrong = 0;
  for (std::uint64_t i = 0; i < pages; ++i) wrong += is_right(memory + i * 4096, i) ? 0 : 1;
  return wrong;
}

int give_up_pages(const Life& life) {
  std::vector<std::atomic<bool>> given(life.pages);
  std::atomic<int> wrong = 0;
  std::atomic<bool> done = false;
  std::vector<std::thread> readers;
  for (unsigned t = 0; t < 3; ++t) {
    readers.emplace_back([&, t] {
      std::minstd_rand random(t + 10);
      while (!done) {
        const std::uint64_t page = random() % life.pages;
        const bool was_given = given[page];
        const std::byte* at = life.memory + page * 4096;
        const bool zero = is_zero(at);
        if (was_given ? !zero : !zero && !is_right(at, page) && !given[page]) ++wrong;
      }
    });
  }
  std::minstd_rand random(5);
  for (int i = 0; i < 1500; ++i) {
    const std::uint64_t first = random() % life.pages;
    const std::uint64_t count = std::min<std::uint64_t>(random() % 64 + 1, life.pages - first);
    ::madvise(life.memory + first * 4096, count * 4096, MADV_DONTNEED);
    for (std::uint64_t page = first; page < first + count; ++page) given[page] = true;
    if (!is_zero(life.memory + first * 4096)) ++wrong;
  }
  done = true;
  for (auto& reader : readers) reader.join();
  for (std::uint64_t page = 0; page < life.pages; ++page) {
    const std::byte* at = life.memory + page * 4096;
    if (given[page] ? !is_zero(at) : !is_right(at, page)) ++wrong;
  }
  return wrong;
}

int fork_children(const Life& life) {
  std::vector<pid_t> children;
  const std::uint64_t eighth = life.pages / 8;
  for (std::uint64_t i = 0; i < 6; ++i) {
    ::madvise(life.memory + i * eighth * 4096, 4096 * 16, MADV_DONTNEED);
    const pid_t child = ::fork();
    if (child == 0) {
      int wrong = 0;
      if (i % 2 == 0 && ::fork() == 0) ::_exit(0);  // A child's child, which ends at once.
      for (std::uint64_t page = 0; page < life.pages; ++page) {
        const bool given = page / eighth <= i && page % eighth < 16;
        const std::byte* at = life.memory + page * 4096;
        if (given ? !is_zero(at) : !is_right(at, page)) ++wrong;
      }
      ::_exit(wrong > 100 ? 100 : wrong);
    }
    children.push_back(child);
  }
  int wrong = 0;
  for (std::uint64_t page = 0; page < life.pages; ++page) {
    const bool given = page / eighth < 6 && page % eighth < 16;
    const std::byte* at = life.memory + page * 4096;
    if (given ? !is_zero(at) : !is_right(at, page)) ++wrong;
  }
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    wrong += WIFEXITED(status) ? WEXITSTATUS(status) : 50;
  }
  return wrong;
}

void LazyFillTest::SetUp() {
  // The tests' cgroup.kill is a pipe, which may be closed when its word comes.
  ::signal(SIGPIPE, SIG_IGN);
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  std::string name = (std::filesystem::temp_directory_path() / "fill-XXXXXX").string();
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  folder_ = name;
  ASSERT_EQ(::pipe2(killed_.data(), O_CLOEXEC | O_NONBLOCK), 0);
}

void LazyFillTest::TearDown() {
  if (!folder_.empty()) std::filesystem::remove_all(folder_);
  for (const int fd : killed_) ::close(fd);
}

void LazyFillTest::stage_pages(std::uint64_t pages) {
  auto staging = StagedMemory::create();
  ASSERT_TRUE(staging);
  staging_ = *std::move(staging);
  ASSERT_TRUE(staging_->update_regions({{fake_region(pages)}, {}}));
  stage(staging_->mapped(fake_region(pages).id));
  plan_.extents = {
      {kPid, kFakeAddress, kFakeAddress + pages * 4096, staging_->regions()[0].offset}};
  plan_.pids = {kPid};
  plan_.kill_fd = killed_[1];
}

void LazyFillTest::begin(FakeProcess& process) {
  auto fill = LazyFill::launch();
  ASSERT_TRUE(fill) << fill.error().to_text();
  fill_ = *std::move(fill);
  ASSERT_TRUE(fill_->begin(plan_, *staging_, folder_));
  process.connect(folder_, kPid);
  const Status came = fill_->wait_for_processes(Clock::now() + kLong);
  ASSERT_TRUE(came) << came.error().to_text();
}

bool LazyFillTest::told_to_kill() const {
  char byte = 0;
  return ::read(killed_[0], &byte, 1) == 1 && byte == '1';
}

}  // namespace migrate::containers
