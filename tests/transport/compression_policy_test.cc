// The compression policy against simulated links, codecs and contents: whatever they are, it is
// never much slower than the better of always and never packing.
#include "transport/compression_policy.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace migrate {
namespace {

using std::chrono::nanoseconds;

constexpr double kMiB = 1 << 20;

nanoseconds ns(double seconds) { return nanoseconds(static_cast<std::int64_t>(seconds * 1e9)); }

/// What a batch of 1 MiB packs to and how fast (bytes a second), by level.
struct Content {
  std::array<double, CompressionPolicy::kLevels.size()> ratio;
  std::array<double, CompressionPolicy::kLevels.size()> rate;
};
// As measured on text-like and random pages.
constexpr Content kText{{0.66, 0.375}, {0.9e9, 0.42e9}};
constexpr Content kRandom{{1, 1}, {6e9, 6e9}};

/// A lane: a thread that works and packs, a socket that drains what it was given.
class Lane {
 public:
  Lane(double link_rate, double work_rate) : link_rate_(link_rate), work_rate_(work_rate) {}

  void set_link_rate(double rate) { link_rate_ = rate; }
  [[nodiscard]] double now() const { return now_; }
  [[nodiscard]] double sent() const { return sent_; }

  void send(const Content& content, CompressionPolicy& policy) {
    const CompressionPolicy::Plan plan = policy.next();
    CompressionPolicy::Batch batch;
    const double begin = now_;
    batch.content = static_cast<std::size_t>(kMiB);
    pass(kMiB / work_rate_);
    double bytes = kMiB;
    bool shrinks = true;
    if (plan.sample) {
      const std::size_t level = index(*plan.sample);
      batch.sampled = CompressionPolicy::kSampleBytes;
      batch.sampled_to =
          static_cast<std::size_t>(static_cast<double>(batch.sampled) * content.ratio[level]);
      const double time = static_cast<double>(batch.sampled) / content.rate[level];
      batch.sampling = ns(time);
      pass(time);
      shrinks = CompressionPolicy::compressible(batch.sampled, batch.sampled_to);
    }
    if (plan.pack && shrinks) {
      const std::size_t level = index(*plan.pack);
      const double time = kMiB / content.rate[level];
      batch.packing = ns(time);
      pass(time);
      bytes = kMiB * content.ratio[level];
      batch.packed = plan.pack;
    }
    batch.sent = static_cast<std::size_t>(bytes);
    const double ready = now_;
    if (queue_ + bytes > kQueueMax) pass((queue_ + bytes - kQueueMax) / link_rate_);
    batch.waiting = ns(now_ - ready);
    queue_ += bytes;
    sent_ += bytes;
    batch.took = ns(now_ - begin);
    policy.note(batch, plan);
  }
  void flush() { pass(queue_ / link_rate_); }

 private:
  static constexpr double kQueueMax = 4 * kMiB;
  static std::size_t index(int level) {
    return static_cast<std::size_t>(
        std::find(CompressionPolicy::kLevels.begin(), CompressionPolicy::kLevels.end(), level) -
        CompressionPolicy::kLevels.begin());
  }
  void pass(double time) {
    now_ += time;
    queue_ = std::max(0.0, queue_ - time * link_rate_);
  }

  double link_rate_;
  double work_rate_;
  double now_ = 0;
  double queue_ = 0;
  double sent_ = 0;
};

double time_of(CompressionChoice choice, double link, const std::vector<Content>& contents) {
  CompressionPolicy policy(choice);
  Lane lane(link, 5e9);
  for (const Content& content : contents) lane.send(content, policy);
  lane.flush();
  return lane.now();
}

std::vector<Content> only(const Content& content, std::size_t batches) {
  return std::vector<Content>(batches, content);
}

std::vector<Content> mixed(std::size_t batches, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Content> contents;
  for (std::size_t i = 0; i < batches; ++i) {
    contents.push_back(random() % 60 < 35 ? kText : kRandom);
  }
  return contents;
}

struct Case {
  const char* name;
  double link;
  std::vector<Content> contents;
};

TEST(CompressionPolicy, IsNeverMuchSlowerThanTheBetterOfAlwaysAndNever) {
  const double rates[] = {12.5e6, 125e6, 300e6, 600e6, 1.25e9, 3e9, 12.5e9};
  for (const double link : rates) {
    for (const Case& one :
         {Case{"text", link, only(kText, 2000)}, Case{"random", link, only(kRandom, 2000)},
          Case{"mixed", link, mixed(2000, 7)}}) {
      const double automatic = time_of({CompressionChoice::Mode::kAuto, 1}, link, one.contents);
      const double raw = time_of({CompressionChoice::Mode::kNone, 1}, link, one.contents);
      const double zstd = time_of({CompressionChoice::Mode::kZstd, 1}, link, one.contents);
      EXPECT_LE(automatic, 1.03 * std::min(raw, zstd))
          << one.name << " at " << link / 1e6 << " MB/s: raw " << raw << " s, zstd:1 " << zstd;
    }
  }
}

// What fills the socket's queue goes as it is, and a few batches more.
TEST(CompressionPolicy, KnowsASlowLinkAfterAFewBatches) {
  for (const double link : {12.5e6, 62.5e6, 125e6}) {
    CompressionPolicy policy({CompressionChoice::Mode::kAuto, 1});
    Lane lane(link, 5e9);
    int whole = 0;
    for (int i = 0; i < 60; ++i) {
      const double before = lane.sent();
      lane.send(kText, policy);
      if (lane.sent() - before == kMiB) ++whole;
    }
    EXPECT_LE(whole, 14) << link;
  }
}

TEST(CompressionPolicy, PacksOnASlowLinkAndNotOnAFastOne) {
  EXPECT_LT(time_of({CompressionChoice::Mode::kAuto, 1}, 125e6, only(kText, 1000)),
            0.45 * time_of({CompressionChoice::Mode::kNone, 1}, 125e6, only(kText, 1000)));
  CompressionPolicy policy({CompressionChoice::Mode::kAuto, 1});
  Lane fast(12.5e9, 5e9);
  for (int i = 0; i < 500; ++i) fast.send(kText, policy);
  EXPECT_EQ(fast.sent(), 500 * kMiB);
}

TEST(CompressionPolicy, FollowsALinkThatBecomesFasterAndOneThatBecomesSlower) {
  CompressionPolicy policy({CompressionChoice::Mode::kAuto, 1});
  Lane lane(125e6, 5e9);
  for (int i = 0; i < 500; ++i) lane.send(kText, policy);
  EXPECT_LT(lane.sent(), 250 * kMiB);
  lane.set_link_rate(12.5e9);
  for (int i = 0; i < 1200; ++i) lane.send(kText, policy);
  double sent = lane.sent();
  for (int i = 0; i < 100; ++i) lane.send(kText, policy);
  EXPECT_EQ(lane.sent() - sent, 100 * kMiB);
  lane.set_link_rate(125e6);
  for (int i = 0; i < 100; ++i) lane.send(kText, policy);
  sent = lane.sent();
  for (int i = 0; i < 100; ++i) lane.send(kText, policy);
  EXPECT_LT(lane.sent() - sent, 50 * kMiB);
}

TEST(CompressionPolicy, LeavesIncompressibleBatchesAsTheyAreInTheMiddleOfOthers) {
  CompressionPolicy policy({CompressionChoice::Mode::kAuto, 1});
  Lane lane(125e6, 5e9);
  for (int i = 0; i < 300; ++i) lane.send(kText, policy);
  const double sent = lane.sent();
  lane.send(kRandom, policy);
  EXPECT_EQ(lane.sent() - sent, kMiB);
}

TEST(CompressionPolicy, DoesAsToldWhenItIsTold) {
  CompressionPolicy none({CompressionChoice::Mode::kNone, 1});
  EXPECT_FALSE(none.next().pack || none.next().sample);
  CompressionPolicy five({CompressionChoice::Mode::kZstd, 5});
  EXPECT_EQ(five.next().pack, 5);
  EXPECT_FALSE(five.next().sample);
}

}  // namespace
}  // namespace migrate
