#include "precopy/throttle_controller.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>

namespace migrate::precopy {
namespace {

// 1 Gbit/s: 4 KiB in 33 us.
constexpr double kMsPerPage = 0.033;
constexpr double kSampleMs = 20;

/// A guest whose vCPUs each write uniformly to sets of their own, for the controller to hold.
class Guest {
 public:
  struct Writer {
    double pages_per_ms;
    double set;
    double dirty = 0;
  };
  explicit Guest(std::vector<Writer> writers) : writers_(std::move(writers)) {}

  void run(double ms, const std::vector<double>& withheld) {
    for (std::size_t i = 0; i < writers_.size(); ++i) {
      Writer& writer = writers_[i];
      const double clean = writer.set - writer.dirty;
      const double run = ms * (1 - withheld[i]);
      writer.dirty += clean * (1 - std::exp(-writer.pages_per_ms * run / writer.set));
      ran_ms_ += run;
    }
    passed_ms_ += ms;
  }
  void collect() {
    for (Writer& writer : writers_) writer.dirty = 0;
  }
  [[nodiscard]] std::vector<std::uint64_t> by_vcpu() const {
    std::vector<std::uint64_t> counts;
    for (const Writer& writer : writers_) {
      counts.push_back(static_cast<std::uint64_t>(writer.dirty));
    }
    return counts;
  }
  [[nodiscard]] std::uint64_t dirty() const {
    const auto counts = by_vcpu();
    return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
  }

 private:
  std::vector<Writer> writers_;
  double passed_ms_ = 0;
  double ran_ms_ = 0;
};

/// One round over `set` pages; what is dirty after it. `each` sees the shares after each sample.
std::uint64_t round(ThrottleController& controller, Guest& guest, std::uint64_t set, bool by_vcpu,
                    const std::function<void(const std::vector<double>&)>& each = {}) {
  guest.collect();
  controller.begin_round(set);
  const double length = static_cast<double>(set) * kMsPerPage;
  double ms = 0;
  while (ms < length) {
    const double step = std::min(kSampleMs, length - ms);
    guest.run(step, controller.shares());
    ms += step;
    const auto counts = guest.by_vcpu();
    DirtySample sample;
    sample.ms = ms;
    sample.dirtied = guest.dirty();
    if (by_vcpu) sample.by_vcpu = counts;
    sample.left_pages = static_cast<std::uint64_t>((length - ms) / kMsPerPage);
    controller.note(sample);
    if (each) each(controller.shares());
  }
  return guest.dirty();
}

constexpr double kSet = 65536;  // 256 MiB.

double pages_per_ms(double rho) { return rho / kMsPerPage; }

TEST(ThrottleController, WithholdsNothingUnlessEngaged) {
  ThrottleController controller(1, 0.99);
  Guest guest({{pages_per_ms(4), kSet}});
  round(controller, guest, 262144, false, [](const auto& shares) { EXPECT_EQ(shares.front(), 0); });
  EXPECT_TRUE(controller.knows());
}

TEST(ThrottleController, ShrinksEachRoundToItsTarget) {
  for (const double rho : {1.1, 1.5, 2.0, 4.0}) {
    SCOPED_TRACE(rho);
    ThrottleController controller(1, 0.99);
    Guest guest({{pages_per_ms(rho), kSet}});
    std::uint64_t set = round(controller, guest, 262144, false);
    set = round(controller, guest, set, false);
    controller.engage();
    double shares = 0;
    int samples = 0;
    for (int i = 0; i < 8; ++i) {
      const std::uint64_t left = round(controller, guest, set, false, [&](const auto& withheld) {
        shares += i < 3 ? 0 : withheld.front();
        samples += i < 3 ? 0 : 1;
      });
      const double ratio = static_cast<double>(left) / static_cast<double>(set);
      EXPECT_LT(ratio, 0.97) << i;
      EXPECT_GT(ratio, 0.55) << i;
      set = left;
    }
    // What theory says is withheld of a writer that hits ever new pages, more or less.
    EXPECT_NEAR(shares / samples, 1 - 0.85 / rho, 0.12);
  }
}

TEST(ThrottleController, DoesNotSwing) {
  ThrottleController controller(1, 0.99);
  Guest guest({{pages_per_ms(2), kSet}});
  std::uint64_t set = round(controller, guest, 262144, false);
  controller.engage();
  for (int i = 0; i < 3; ++i) set = round(controller, guest, set, false);
  int turns = 0;
  int samples = 0;
  double before = controller.shares().front();
  double direction = 0;
  round(controller, guest, set, false, [&](const auto& shares) {
    const double change = shares.front() - before;
    before = shares.front();
    ++samples;
    if (std::abs(change) < 0.05) return;
    if (change * direction < 0) ++turns;
    direction = change;
  });
  ASSERT_GT(samples, 10);
  EXPECT_LE(turns, 2);
}

TEST(ThrottleController, LeavesTheInnocentAlone) {
  ThrottleController controller(3, 0.99);
  // A writer, one that writes a little, one that does not write.
  Guest guest({{pages_per_ms(2), kSet}, {pages_per_ms(0.05), kSet}, {0, kSet}});
  std::uint64_t set = round(controller, guest, 262144, true);
  controller.engage();
  for (int i = 0; i < 5; ++i) {
    set = round(controller, guest, set, true, [](const auto& shares) {
      EXPECT_EQ(shares[1], 0);
      EXPECT_EQ(shares[2], 0);
    });
  }
  EXPECT_GT(controller.shares()[0], 0.3);
}

TEST(ThrottleController, HoldsTwoWritersToTheSameNumberOfPages) {
  ThrottleController controller(2, 0.99);
  Guest guest({{pages_per_ms(2), kSet}, {pages_per_ms(1), kSet}});
  std::uint64_t set = round(controller, guest, 262144, true);
  controller.engage();
  for (int i = 0; i < 4; ++i) set = round(controller, guest, set, true);
  const auto counts = guest.by_vcpu();
  EXPECT_NEAR(static_cast<double>(counts[0]), static_cast<double>(counts[1]),
              0.2 * static_cast<double>(counts[0]));
  EXPECT_GT(controller.shares()[0], controller.shares()[1]);
}

TEST(ThrottleController, WithoutAttributionAllAreHeldAlike) {
  ThrottleController controller(2, 0.99);
  Guest guest({{pages_per_ms(2), kSet}, {0, kSet}});
  std::uint64_t set = round(controller, guest, 262144, false);
  controller.engage();
  for (int i = 0; i < 3; ++i) set = round(controller, guest, set, false);
  EXPECT_GT(controller.shares()[1], 0.1);
  EXPECT_EQ(controller.shares()[0], controller.shares()[1]);
}

TEST(ThrottleController, ReleasesWhenTheGuestCalmsDown) {
  ThrottleController controller(1, 0.99);
  Guest busy({{pages_per_ms(3), kSet}});
  std::uint64_t set = round(controller, busy, 262144, false);
  controller.engage();
  for (int i = 0; i < 3; ++i) set = round(controller, busy, set, false);
  ASSERT_GT(controller.mean_share(), 0.4);
  Guest calm({{pages_per_ms(0.1), kSet}});
  for (int i = 0; i < 3; ++i) round(controller, calm, set, false);
  EXPECT_LT(controller.mean_share(), 0.05);
  controller.release();
  EXPECT_EQ(controller.mean_share(), 0);
}

TEST(ThrottleController, KeepsItsLimit) {
  ThrottleController controller(1, 0.5);
  Guest guest({{pages_per_ms(10), kSet}});
  std::uint64_t set = round(controller, guest, 262144, false);
  controller.engage();
  double most = 0;
  for (int i = 0; i < 5; ++i) {
    set = round(controller, guest, set, false,
                [&](const auto& shares) { most = std::max(most, shares.front()); });
  }
  EXPECT_EQ(most, 0.5);
}

TEST(ThrottleController, PressesUntilThereIsNoMore) {
  ThrottleController controller(1, 0.99);
  controller.engage();
  int pressed = 0;
  while (controller.press()) ASSERT_LT(++pressed, 100);
  EXPECT_GE(pressed, 2);
  controller.engage();  // Begins anew.
  EXPECT_TRUE(controller.press());
}

TEST(ThrottleController, FindsWhereRoundsEndUp) {
  // x = 1 - exp(-rho x): 0.583 at 1.5, and nothing below 1.
  for (const auto& [rho, expected] : {std::pair{1.5, 0.583}, {2.0, 0.797}, {0.8, 0.0}}) {
    ThrottleController controller(1, 0.99);
    Guest guest({{pages_per_ms(rho), kSet}});
    round(controller, guest, 262144, false);
    EXPECT_NEAR(controller.floor_pages(kSet, kMsPerPage) / kSet, expected, 0.04) << rho;
  }
}

}  // namespace
}  // namespace migrate::precopy
