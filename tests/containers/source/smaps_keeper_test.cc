// Whether what smaps said of a process still holds.
#include "adapters/containers/source/smaps_keeper.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fcntl.h>

#include <array>
#include <chrono>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace migrate::containers {
namespace {

constexpr std::size_t kBytes = 64 * 4096;

/// A process that does to an area of its memory what it is told, and nothing else.
class Obedient {
 public:
  Obedient() {
    MIGRATE_CHECK(::pipe2(to_.data(), O_CLOEXEC) == 0 && ::pipe2(from_.data(), O_CLOEXEC) == 0);
    area_ = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pid_ = ::fork();
    MIGRATE_CHECK(pid_ >= 0);
    if (pid_ == 0) obey();
  }
  ~Obedient() {
    ::close(to_[1]);
    ::waitpid(pid_, nullptr, 0);
    ::close(to_[0]);
    ::close(from_[0]);
    ::close(from_[1]);
    ::munmap(area_, kBytes);
  }
  Obedient(const Obedient&) = delete;
  Obedient& operator=(const Obedient&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  /// w: writes; f: not for children; n: maps another in its place; p: maps one more, elsewhere.
  void tell(char word) {
    MIGRATE_CHECK(::write(to_[1], &word, 1) == 1);
    MIGRATE_CHECK(::read(from_[0], &word, 1) == 1);
  }

 private:
  [[noreturn]] void obey() {
    ::close(to_[1]);
    char word = 0;
    while (::read(to_[0], &word, 1) == 1) {
      if (word == 'w') static_cast<char*>(area_)[5000] = 1;
      if (word == 'f') ::madvise(area_, kBytes, MADV_DONTFORK);
      if (word == 'n') {
        ::munmap(area_, kBytes);
        ::mmap(area_, kBytes, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE | MAP_LOCKED, -1, 0);
      }
      if (word == 'p') ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
      if (::write(from_[1], &word, 1) != 1) break;
    }
    ::_exit(0);
  }

  std::array<int, 2> to_{};
  std::array<int, 2> from_{};
  void* area_ = nullptr;
  pid_t pid_ = -1;
};

/// Waits for the look to be over; nothing where it found nothing that holds.
std::optional<std::string> looked(SmapsKeeper& keeper, pid_t pid) {
  keeper.look({pid});
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < deadline) {
    if (auto text = keeper.text_that_holds(pid)) return text;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return std::nullopt;
}

/// Of smaps what CRIU uses: the mappings and their flags. How much is in memory, and of it shared,
/// changes by itself.
std::string mappings_and_flags(std::istream&& smaps) {
  std::string found;
  for (std::string line; std::getline(smaps, line);) {
    const bool of_mapping = !line.empty() && (line[0] < 'A' || line[0] > 'Z');
    if (of_mapping || line.starts_with("VmFlags")) found += line + "\n";
  }
  return found;
}

std::string kept(const std::string& text) { return mappings_and_flags(std::istringstream(text)); }
std::string now(pid_t pid) {
  return mappings_and_flags(std::ifstream("/proc/" + std::to_string(pid) + "/smaps"));
}

class SmapsKeeperTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto flags = AreaFlags::create();
    if (!flags) GTEST_SKIP() << flags.error().to_text();
    const auto text = looked(keeper_, process_.pid());
    ASSERT_TRUE(text);
    EXPECT_EQ(kept(*text), now(process_.pid()));
  }
  [[nodiscard]] bool holds() const { return keeper_.text_that_holds(process_.pid()).has_value(); }

  Obedient process_;
  SmapsKeeper keeper_;
};

TEST_F(SmapsKeeperTest, HoldsWhereOnlyContentHasChanged) {
  process_.tell('w');
  EXPECT_TRUE(holds());
}

TEST_F(SmapsKeeperTest, AnAdviceThatMapsDoesNotShowEndsIt) {
  process_.tell('f');
  EXPECT_FALSE(holds());
  const auto anew = looked(keeper_, process_.pid());
  ASSERT_TRUE(anew);
  EXPECT_EQ(kept(*anew), now(process_.pid()));
}

TEST_F(SmapsKeeperTest, AnotherMappingAtTheSameAddressesEndsIt) {
  process_.tell('n');
  EXPECT_FALSE(holds());
}

TEST_F(SmapsKeeperTest, AMappingMoreEndsIt) {
  process_.tell('p');
  EXPECT_FALSE(holds());
}

TEST_F(SmapsKeeperTest, OfAnotherProcessNothingIsKnown) {
  const Obedient other;
  EXPECT_FALSE(keeper_.text_that_holds(other.pid()));
}

}  // namespace
}  // namespace migrate::containers
