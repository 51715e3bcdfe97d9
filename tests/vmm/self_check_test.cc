// The demo guest finds what is wrong with its memory, and only that.
#include <gmock/gmock.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "adapters/kvm/vmm/demo_guest/stamp.hpp"
#include "tests/vmm/vmm_fixture.hpp"

namespace migrate::vmm {
namespace {

class SelfCheck : public VmmTest {
 protected:
  static bool found_something(const GuestStats& stats) { return stats.verify_errors > 0; }

  /// Lets the paused guest run on until it has found something.
  static VerifyFailure find(Vmm& vmm) {
    resume(vmm);
    return wait_for(vmm, found_something).first_error.value();
  }

  static std::uint32_t generation_of(const Vmm& vmm, std::uint64_t page) {
    const demo::VcpuPlan& plan = plan_of(vmm).plans[0];
    const std::uint64_t at = plan.generations + 4 * (page - plan.set_first);
    std::uint32_t generation = 0;
    std::memcpy(&generation, reinterpret_cast<const std::byte*>(words_of(vmm, 0)) + at, 4);
    return generation;
  }

  static std::vector<std::uint64_t> copy_of(const Vmm& vmm, std::uint64_t page) {
    const std::uint64_t* words = words_of(vmm, page);
    return {words, words + demo::kWordsPerPage};
  }
};

TEST_F(SelfCheck, SoundMemoryIsWalkedAgainAndAgainWithoutAnError) {
  for (const std::string_view workload :
       {"idle", "counter", "writer:rate=50M", "writer:rate=max,pattern=zipf", "reader:rate=50M",
        "writer:rate=50M,pattern=sweep,fill=text", "writer:rate=50M,pattern=burst,fill=zero",
        "verifier:fill=random", "reader+writer:rate=max,set=4M+verifier+idle"}) {
    const auto vcpus =
        static_cast<std::uint32_t>(1 + std::count(workload.begin(), workload.end(), '+'));
    const auto vmm = make(workload, 8 << 20, vcpus);
    resume(*vmm);
    const auto stats = wait_for(*vmm, [](const GuestStats& now) { return now.verify_passes >= 2; });
    EXPECT_EQ(stats.verify_errors, 0u) << workload;
    EXPECT_FALSE(stats.first_error.has_value()) << workload;
  }
}

TEST_F(SelfCheck, AChangedPageThatNobodyWritesIsFound) {
  for (const std::string_view fill : {"zero", "text", "random", "mixed"}) {
    const auto vmm = make("writer:rate=4M,set=1M,fill=" + std::string(fill));
    resume(*vmm);
    wait_for(*vmm, [](const GuestStats& now) { return now.pages_written > 10; });
    pause(*vmm);
    const std::uint64_t page = plan_of(*vmm).writers_end + 300;
    const std::uint64_t right = words_of(*vmm, page)[17];
    words_of(*vmm, page)[17] ^= 0x100;
    const VerifyFailure failure = find(*vmm);
    EXPECT_EQ(failure.kind, "fill");
    EXPECT_EQ(failure.page, page);
    EXPECT_EQ(failure.expected, right);
    EXPECT_EQ(failure.found, right ^ 0x100);
  }
}

TEST_F(SelfCheck, AVerifierFindsWhatIsInsideAWritersPage) {
  const auto vmm = make("verifier+writer:rate=4M,set=1M", 16 << 20, 2);
  resume(*vmm);
  wait_for(*vmm, [](const GuestStats& now) { return now.pages_written > 10; });
  pause(*vmm);
  const std::uint64_t page = plan_of(*vmm).plans[1].set_first + 5;
  words_of(*vmm, page)[100] += 1;
  const VerifyFailure failure = find(*vmm);
  EXPECT_EQ(failure.kind, "fill");
  EXPECT_EQ(failure.page, page);
}

/// What a migration that loses a dirty page does: the page is a sound one, of a moment ago.
TEST_F(SelfCheck, AWrittenPageOfAnEarlierGenerationIsFound) {
  const auto vmm = make("writer:rate=20M,set=1M,pattern=sweep");
  resume(*vmm);
  wait_for(*vmm, [](const GuestStats& now) { return now.pages_written > 300; });
  pause(*vmm);
  const std::uint64_t page = plan_of(*vmm).plans[0].set_first + 40;
  const auto earlier = copy_of(*vmm, page);
  const std::uint32_t generation = generation_of(*vmm, page);
  ASSERT_GT(generation, 0u);
  resume(*vmm);
  wait_for(*vmm, [&](const GuestStats&) { return generation_of(*vmm, page) > generation; });
  pause(*vmm);
  std::copy(earlier.begin(), earlier.end(), words_of(*vmm, page));
  const std::uint32_t expected = generation_of(*vmm, page);
  const VerifyFailure failure = find(*vmm);
  EXPECT_EQ(failure.kind, "stale");
  EXPECT_EQ(failure.page, page);
  EXPECT_EQ(failure.expected, expected);
  EXPECT_EQ(failure.found, generation);
}

/// Also when the page was never written before: what it was filled with is stale then.
TEST_F(SelfCheck, AFirstWriteThatIsLostIsFound) {
  const auto vmm = make("writer:rate=4M,set=1M,pattern=sweep,fill=random");
  const std::uint64_t page = plan_of(*vmm).plans[0].set_first;
  const auto filled = copy_of(*vmm, page);
  resume(*vmm);
  wait_for(*vmm, [](const GuestStats& now) { return now.pages_written > 10; });
  pause(*vmm);
  std::copy(filled.begin(), filled.end(), words_of(*vmm, page));
  EXPECT_EQ(find(*vmm).page, page);
}

TEST_F(SelfCheck, AWrittenPageInAnothersPlaceIsFound) {
  const auto vmm = make("writer:rate=20M,set=1M,pattern=sweep,fill=zero");
  resume(*vmm);
  wait_for(*vmm, [](const GuestStats& now) { return now.pages_written > 300; });
  pause(*vmm);
  const std::uint64_t page = plan_of(*vmm).plans[0].set_first + 40;
  const auto other = copy_of(*vmm, page + 1);
  std::copy(other.begin(), other.end(), words_of(*vmm, page));
  const VerifyFailure failure = find(*vmm);
  EXPECT_EQ(failure.kind, "misplaced");
  EXPECT_EQ(failure.page, page);
}

TEST_F(SelfCheck, AWriterFindsADamagedPageBeforeItRewritesIt) {
  const auto vmm = make("writer:rate=max,set=64K");
  resume(*vmm);
  wait_for(*vmm, [](const GuestStats& now) { return now.pages_written > 300; });
  pause(*vmm);
  const std::uint64_t page = plan_of(*vmm).plans[0].set_first + 3;
  words_of(*vmm, page)[demo::kInsideEnd] ^= 1;
  const VerifyFailure failure = find(*vmm);
  EXPECT_EQ(failure.kind, "corrupt");
  EXPECT_EQ(failure.page, page);
  // It wrote the page anew: what it finds later is as it left it.
  const GuestStats then = stats_of(*vmm);
  const auto now = wait_for(*vmm, [&](const GuestStats& later) {
    return later.pages_written > then.pages_written + 10'000;
  });
  EXPECT_LE(now.verify_errors, then.verify_errors + 1);
}

TEST_F(SelfCheck, ALostRegisterIsFound) {
  const auto vmm = make("idle");
  resume(*vmm);
  wait_for(*vmm, [](const GuestStats& now) { return now.vcpus[0].work > 1; });
  pause(*vmm);
  kvm_fpu fpu{};
  ASSERT_EQ(::ioctl(vmm->kvm_vm().vcpu_fds[0], KVM_GET_FPU, &fpu), 0);
  std::memset(fpu.xmm[15], 0, sizeof fpu.xmm[15]);
  ASSERT_EQ(::ioctl(vmm->kvm_vm().vcpu_fds[0], KVM_SET_FPU, &fpu), 0);
  EXPECT_EQ(find(*vmm).kind, "registers");
}

TEST_F(SelfCheck, AClockThatGoesBackIsFound) {
  const auto vmm = make("idle");
  resume(*vmm);
  wait_for(*vmm, [](const GuestStats& now) { return now.vcpus[0].work > 1; });
  pause(*vmm);
  auto* counters = reinterpret_cast<demo::VcpuCounters*>(
      reinterpret_cast<std::byte*>(words_of(*vmm, 0)) + demo::kCounters);
  counters->last_tsc += 1ull << 50;
  EXPECT_EQ(find(*vmm).kind, "clock");
}

class FileFill : public SelfCheck {
 protected:
  void SetUp() override {
    SelfCheck::SetUp();
    if (IsSkipped()) return;
    name_ = ::testing::TempDir() + "migrate-fill-XXXXXX";
    fd_ = ::mkstemp(name_.data());
    ASSERT_GE(fd_, 0);
  }
  void TearDown() override {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(name_.c_str());
  }
  void write(std::size_t bytes) const {
    std::vector<std::uint64_t> words(bytes / 8 + 1);
    for (std::size_t i = 0; i < words.size(); ++i) words[i] = demo::mix(i);
    ASSERT_EQ(::pwrite(fd_, words.data(), bytes, 0), static_cast<ssize_t>(bytes));
  }

  std::string name_;
  int fd_ = -1;
};

TEST_F(FileFill, MemoryHoldsTheFileAndIsCheckedAgainstIt) {
  constexpr std::size_t kBytes = (10 << 20) + 1001;
  write(kBytes);
  const auto vmm = make("writer:rate=20M,set=1M,pattern=sweep,fill=@" + name_);
  std::vector<char> page(demo::kPage);
  const std::uint64_t last = kBytes / demo::kPage;
  ASSERT_EQ(::pread(fd_, page.data(), page.size(), static_cast<off_t>(last * demo::kPage)),
            static_cast<ssize_t>(kBytes % demo::kPage));
  EXPECT_EQ(std::memcmp(words_of(*vmm, last), page.data(), demo::kPage), 0);
  resume(*vmm);
  const auto stats = wait_for(*vmm, [](const GuestStats& now) { return now.verify_passes >= 2; });
  EXPECT_EQ(stats.verify_errors, 0u);
  pause(*vmm);
  words_of(*vmm, last)[demo::kInsideEnd] = 1;
  const VerifyFailure failure = find(*vmm);
  EXPECT_EQ(failure.kind, "fill");
  EXPECT_EQ(failure.page, last);
}

TEST_F(FileFill, AnImageThatDoesNotFitIsRefused) {
  write((8 << 20) + 1);
  VmmConfig config;
  config.memory_bytes = 8 << 20;
  config.workload = parse_workload("idle:fill=@" + name_).value();
  EXPECT_EQ(Vmm::create(config).error().code, ErrorCode::kInvalidArgument);
  config.workload.file += ".not-there";
  EXPECT_EQ(Vmm::create(config).error().code, ErrorCode::kInvalidArgument);
  config.workload.file = "/dev/zero";
  EXPECT_EQ(Vmm::create(config).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace migrate::vmm
