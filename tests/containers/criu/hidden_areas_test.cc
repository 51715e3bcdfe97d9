// What a program that the shim is loaded into hears of its memory.
#include "adapters/containers/criu/hidden_areas.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <string>
#include <thread>

namespace migrate::containers {
namespace {

constexpr std::uint64_t kBase = 0x7e0000000000;
constexpr std::uint64_t kPage = 4096;

/// shim_probe, with the shim and a list.
class Probe {
 public:
  explicit Probe(int list) {
    std::array<int, 2> in{};
    std::array<int, 2> out{};
    MIGRATE_CHECK(::pipe2(in.data(), O_CLOEXEC) == 0 && ::pipe2(out.data(), O_CLOEXEC) == 0);
    pid_ = ::fork();
    MIGRATE_CHECK(pid_ >= 0);
    if (pid_ == 0) {
      ::dup2(in[0], STDIN_FILENO);
      ::dup2(out[1], STDOUT_FILENO);
      ::dup2(list, 9);
      ::setenv("LD_PRELOAD", MIGRATE_SHIM, 1);
      ::setenv("MIGRATE_CRIU_HIDDEN", "9", 1);
      ::execl(MIGRATE_SHIM_PROBE, MIGRATE_SHIM_PROBE, nullptr);
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    to_ = ::fdopen(in[1], "w");
    from_ = ::fdopen(out[0], "r");
    MIGRATE_CHECK(answer() == "ready");
  }
  ~Probe() {
    std::fclose(to_);
    std::fclose(from_);
    ::waitpid(pid_, nullptr, 0);
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  std::string ask(const std::string& question) {
    std::fprintf(to_, "%s\n", question.c_str());
    std::fflush(to_);
    return answer();
  }

 private:
  std::string answer() {
    std::array<char, 65536> line{};
    if (std::fgets(line.data(), line.size(), from_) == nullptr) return "end";
    std::string text = line.data();
    return text.substr(0, text.find('\n'));
  }
  pid_t pid_ = -1;
  std::FILE* to_ = nullptr;
  std::FILE* from_ = nullptr;
};

class HiddenAreasTest : public testing::Test {
 protected:
  /// Pages [first, end) of the probe, or of another process.
  [[nodiscard]] HiddenArea pages(std::uint64_t first, std::uint64_t end, pid_t other = 0) const {
    return {other != 0 ? other : probe_.pid(), kBase + first * kPage, kBase + end * kPage};
  }
  void hide(const std::vector<HiddenArea>& areas) {
    const Status set = areas_.set(areas);
    ASSERT_TRUE(set) << set.error().to_text();
  }
  HiddenAreas areas_ = *HiddenAreas::create();
  Probe probe_{areas_.fd()};
};

TEST_F(HiddenAreasTest, SmapsThatWasReadForItIsWhatItReads) {
  const std::string own = probe_.ask("smaps");
  EXPECT_NE(own.find('-'), std::string::npos) << own;
  ASSERT_TRUE(areas_.await_smaps());
  ASSERT_TRUE(areas_.add_smaps(probe_.pid() + 1, "another's\n"));
  ASSERT_TRUE(areas_.add_smaps(probe_.pid(), "read for it\nand more\n"));
  EXPECT_EQ(probe_.ask("smaps"), "read for it") << "more is still being read, of others";
  areas_.end_smaps();
  EXPECT_EQ(probe_.ask("smaps"), "read for it");
  // The next stop's.
  ASSERT_TRUE(areas_.await_smaps());
  areas_.end_smaps();
  EXPECT_EQ(probe_.ask("smaps"), own) << "what is not there it reads for itself";
}

TEST_F(HiddenAreasTest, SmapsThatIsBeingReadIsWaitedFor) {
  ASSERT_TRUE(areas_.await_smaps());
  std::string heard;
  std::thread asks([&] { heard = probe_.ask("smaps"); });
  // Either order is right; that it waits shows in that it does not hear its own.
  ASSERT_TRUE(areas_.add_smaps(probe_.pid(), std::string(100'000, 'x') + "\n"));
  areas_.end_smaps();
  asks.join();
  EXPECT_EQ(heard, std::string(255, 'x'));
}

TEST_F(HiddenAreasTest, NothingIsHiddenUntilItIsListed) {
  EXPECT_EQ(probe_.ask("scan 0 512 100"), "0-512 walked 512");
  hide({pages(0, 512)});
  EXPECT_EQ(probe_.ask("scan 0 512 100"), "walked 512");
  hide({});
  EXPECT_EQ(probe_.ask("scan 0 512 100"), "0-512 walked 512");
}

TEST_F(HiddenAreasTest, ARangeWithinAnAreaHasNoPages) {
  hide({pages(100, 200)});
  EXPECT_EQ(probe_.ask("scan 100 200 100"), "walked 200");
  EXPECT_EQ(probe_.ask("scan 120 130 2"), "walked 130");
  EXPECT_EQ(probe_.ask("scan 200 300 100"), "200-300 walked 300");
  EXPECT_EQ(probe_.ask("scan 0 100 100"), "0-100 walked 100");
}

TEST_F(HiddenAreasTest, AWindowOverHiddenAndOtherMemoryHasTheOther) {
  hide({pages(10, 20), pages(30, 40), pages(500, 512)});
  EXPECT_EQ(probe_.ask("scan 0 512 100"), "0-10 20-30 40-500 walked 512");
  EXPECT_EQ(probe_.ask("scan 15 35 100"), "20-30 walked 35");
  EXPECT_EQ(probe_.ask("scan 10 40 100"), "20-30 walked 40");
}

TEST_F(HiddenAreasTest, WhereTheAnswerHasNoRoomTooMuchIsShownAndNeverTooLittle) {
  hide({pages(10, 20), pages(30, 40)});
  EXPECT_EQ(probe_.ask("scan 0 512 2"), "0-10 20-512 walked 512");
  EXPECT_EQ(probe_.ask("scan 0 20 2"), "0-10 walked 20");
}

TEST_F(HiddenAreasTest, AreasThatTouchOrOverlapAreOne) {
  hide({pages(60, 90), pages(10, 50), pages(50, 70)});
  EXPECT_EQ(probe_.ask("scan 10 90 100"), "walked 90");
  EXPECT_EQ(probe_.ask("scan 0 100 100"), "0-10 90-100 walked 100");
}

TEST_F(HiddenAreasTest, AnotherProcesssAreasHideNothing) {
  hide({pages(0, 512, ::getpid()), pages(0, 512, 1), pages(0, 512, 4'000'000)});
  EXPECT_EQ(probe_.ask("scan 0 512 100"), "0-512 walked 512");
}

TEST_F(HiddenAreasTest, OtherQuestionsPassThrough) {
  hide({pages(0, 512)});
  // One region is how the kernel is asked whether it answers at all.
  EXPECT_EQ(probe_.ask("scan 0 512 1"), "0-512 walked 512");
  EXPECT_EQ(probe_.ask("guards 0 512"), "walked 512");
}

TEST_F(HiddenAreasTest, AListMayGrowLongAfterItWasMapped) {
  std::vector<HiddenArea> many{pages(7, 9)};
  for (std::uint64_t i = 0; i < 100'000; ++i) many.push_back(pages(1000 + 2 * i, 1001 + 2 * i));
  for (std::uint64_t i = 0; i < 1000; ++i) {
    many.push_back(pages(0, 512, static_cast<pid_t>(4'000'000 + i)));
  }
  hide(many);
  EXPECT_EQ(probe_.ask("scan 0 512 100"), "0-7 9-512 walked 512");
  hide({pages(0, 7)});
  EXPECT_EQ(probe_.ask("scan 0 512 100"), "7-512 walked 512");
}

TEST_F(HiddenAreasTest, WhatIsNoAreaIsRefused) {
  EXPECT_FALSE(areas_.set(std::vector{pages(5, 5)}));
  EXPECT_FALSE(areas_.set(std::vector{pages(6, 5)}));
  EXPECT_FALSE(areas_.set(std::vector{HiddenArea{probe_.pid(), kBase + 1, kBase + kPage}}));
  EXPECT_FALSE(areas_.set(std::vector{HiddenArea{-1, kBase, kBase + kPage}}));
}

TEST_F(HiddenAreasTest, AListThatIsNoneHidesNothing) {
  // Sealed as a list is, without a list's magic.
  const Fd other(::memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(other.get(), 4096), 0);
  ASSERT_EQ(::fcntl(other.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  Probe with_other(other.get());
  EXPECT_EQ(with_other.ask("scan 0 512 100"), "0-512 walked 512");
  const Fd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  Probe with_file(file.get());
  EXPECT_EQ(with_file.ask("scan 0 512 100"), "0-512 walked 512");
}

std::string kernel_says(int family, int type) {
  const Fd socket(::socket(family, type, 0));
  int value = 0;
  socklen_t size = sizeof value;
  const int result = ::getsockopt(socket.get(), SOL_SOCKET, SO_PASSCRED, &value, &size);
  return result == 0 ? std::to_string(value) : "error " + std::to_string(errno);
}

TEST_F(HiddenAreasTest, InternetSocketsPassNoCredentialsWhateverTheKernelSays) {
  for (const int family : {AF_INET, AF_INET6}) {
    EXPECT_EQ(probe_.ask("passcred " + std::to_string(family) + " 1"), "0");
  }
  for (const int family : {AF_UNIX, AF_VSOCK}) {
    EXPECT_EQ(probe_.ask("passcred " + std::to_string(family) + " 1"), kernel_says(family, 1));
  }
}

}  // namespace
}  // namespace migrate::containers
