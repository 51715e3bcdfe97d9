#include "tests/dirtylog/contract/broken_trackers.hpp"

#include <functional>
#include <map>
#include <string_view>
#include <utility>

namespace migrate::testing {
namespace {

/// Passes everything on. Mutants change one thing.
class Faithful : public DirtyTracker {
 public:
  explicit Faithful(std::shared_ptr<DirtyTracker> real) : real_(std::move(real)) {}
  [[nodiscard]] std::string_view name() const override { return real_->name(); }
  [[nodiscard]] DirtyCoverage covers() const override { return real_->covers(); }
  Status start() override { return real_->start(); }
  Status collect(PageBitmap& round_set) override { return real_->collect(round_set); }
  Status rearm(const PageBitmap& set, const RegionId& region, PageRange range) override {
    return real_->rearm(set, region, range);
  }
  [[nodiscard]] bool rearms_in_collect() const override { return real_->rearms_in_collect(); }
  Status peek(PageBitmap& again) override { return real_->peek(again); }
  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override {
    return real_->written_by_vcpu();
  }
  Status stop() override { return real_->stop(); }

 protected:
  /// What the real one collects for the regions of `like`.
  Status take(const PageBitmap& like, PageBitmap& taken) {
    taken = PageBitmap(like.regions());
    return real_->collect(taken);
  }
  std::shared_ptr<DirtyTracker> real_;
};

class DropsEvery1000thPage final : public Faithful {
 public:
  using Faithful::Faithful;
  Status collect(PageBitmap& round_set) override {
    PageBitmap taken;
    MIGRATE_TRY(take(round_set, taken));
    PageBitmap kept = taken;
    taken.for_each_run([&](const RegionId& region, PageRange run) {
      for (std::uint64_t i = 0; i < run.count; ++i) {
        if (++seen_ % 1000 == 0) kept.clear(region, {run.first + i, 1});
      }
    });
    round_set.merge(kept);
    return {};
  }

 private:
  std::uint64_t seen_ = 0;
};

/// What it handed out is forgotten only at the next collect, after it was read: with the writes
/// that came in between.
class RearmsAfterTheRead final : public Faithful {
 public:
  using Faithful::Faithful;
  Status collect(PageBitmap& round_set) override {
    PageBitmap thrown_away;
    MIGRATE_TRY(take(handed_out_, thrown_away));
    thrown_away.subtract(handed_out_);
    PageBitmap fresh;
    MIGRATE_TRY(take(round_set, fresh));
    fresh.merge(thrown_away);
    handed_out_ = fresh;
    round_set.merge(fresh);
    return {};
  }

 private:
  PageBitmap handed_out_;
};

class TakesInPeek final : public Faithful {
 public:
  using Faithful::Faithful;
  Status peek(PageBitmap& again) override { return real_->collect(again); }
};

class LeavesOutTheLastWord final : public Faithful {
 public:
  using Faithful::Faithful;
  Status collect(PageBitmap& round_set) override {
    PageBitmap taken;
    MIGRATE_TRY(take(round_set, taken));
    for (auto& segment : taken.segments()) {
      if (segment.region.range.count % 64 != 0) segment.words.back() = 0;
    }
    round_set.merge(taken);
    return {};
  }
};

class ForgetsRegionsLeftOut final : public Faithful {
 public:
  using Faithful::Faithful;
  Status collect(PageBitmap& round_set) override {
    for (const auto& segment : round_set.segments()) known_[segment.region.id] = segment.region;
    std::vector<Region> regions;
    for (const auto& [id, region] : known_) regions.push_back(region);
    PageBitmap all(regions);
    MIGRATE_TRY(real_->collect(all));
    round_set.merge(all);
    return {};
  }

 private:
  std::map<RegionId, Region> known_;
};

class ReportsNeighbours final : public Faithful {
 public:
  using Faithful::Faithful;
  Status collect(PageBitmap& round_set) override {
    PageBitmap taken;
    MIGRATE_TRY(take(round_set, taken));
    for (auto& segment : taken.segments()) {
      for (std::uint64_t& word : segment.words) word = word == 0 ? 0 : ~std::uint64_t{0};
      const std::uint64_t rest = segment.region.range.count % 64;
      if (rest != 0) segment.words.back() &= (std::uint64_t{1} << rest) - 1;
    }
    round_set.merge(taken);
    return {};
  }
};

class NeverForgets final : public Faithful {
 public:
  using Faithful::Faithful;
  Status collect(PageBitmap& round_set) override {
    PageBitmap taken;
    MIGRATE_TRY(take(round_set, taken));
    std::vector<Region> regions;
    for (const auto& segment : round_set.segments()) regions.push_back(segment.region);
    ever_.reshape(regions, false);
    ever_.merge(taken);
    round_set.merge(ever_);
    return {};
  }

 private:
  PageBitmap ever_;
};

class OverwritesTheSet final : public Faithful {
 public:
  using Faithful::Faithful;
  Status collect(PageBitmap& round_set) override {
    round_set.clear_all();
    return real_->collect(round_set);
  }
};

class PeeksWithoutLooking final : public Faithful {
 public:
  using Faithful::Faithful;
  /// A page "written again" need not be read now; if it was not, nobody ever reads it.
  Status peek(PageBitmap& again) override {
    again.set_all();
    return {};
  }
};

/// Knows whether it was stopped.
class Stoppable : public Faithful {
 public:
  using Faithful::Faithful;
  Status start() override {
    stopped_ = false;
    return real_->start();
  }
  Status stop() override {
    stopped_ = true;
    return real_->stop();
  }

 protected:
  bool stopped_ = false;
};

/// Succeeds after stop() with nothing.
class SilentAfterStop final : public Stoppable {
 public:
  using Stoppable::Stoppable;
  Status collect(PageBitmap& round_set) override {
    return stopped_ ? Status() : real_->collect(round_set);
  }
};

class ReportsAllAfterStop final : public Stoppable {
 public:
  using Stoppable::Stoppable;
  Status collect(PageBitmap& round_set) override {
    if (stopped_) round_set.set_all();
    return real_->collect(round_set);
  }
};

class StartsOnce final : public Stoppable {
 public:
  using Stoppable::Stoppable;
  Status start() override { return real_->start(); }
  Status collect(PageBitmap& round_set) override {
    return stopped_ ? Status() : real_->collect(round_set);
  }
};

class RearmsLate final : public Faithful {
 public:
  using Faithful::Faithful;
  Status collect(PageBitmap& round_set) override {
    for (const auto& [region, range] : put_off_) MIGRATE_TRY(real_->rearm(set_, region, range));
    put_off_.clear();
    MIGRATE_TRY(take(round_set, set_));
    round_set.merge(set_);
    return {};
  }
  Status rearm(const PageBitmap&, const RegionId& region, PageRange range) override {
    put_off_.emplace_back(region, range);
    return {};
  }

 private:
  PageBitmap set_;  ///< The latest collect's.
  std::vector<std::pair<RegionId, PageRange>> put_off_;
};

class NaiveHash final : public DirtyTracker {
 public:
  explicit NaiveHash(PageSource& memory) : memory_(memory) {}
  [[nodiscard]] std::string_view name() const override { return "naive-hash"; }
  [[nodiscard]] DirtyCoverage covers() const override { return {}; }
  [[nodiscard]] bool rearms_in_collect() const override { return true; }
  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override { return {}; }
  Status start() override { return {}; }
  Status rearm(const PageBitmap&, const RegionId&, PageRange) override { return {}; }
  Status peek(PageBitmap&) override { return {}; }
  Status stop() override { return {}; }

  Status collect(PageBitmap& round_set) override {
    std::vector<std::byte> bytes(kPageSize);
    for (auto& segment : round_set.segments()) {
      const Region& region = segment.region;
      auto& hashes = hashes_[region.id];
      hashes.resize(region.range.count);
      for (std::uint64_t i = 0; i < region.range.count; ++i) {
        MIGRATE_TRY(memory_.read(region.id, {region.range.first + i, 1}, bytes));
        const std::size_t hash = std::hash<std::string_view>()(
            {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
        if (std::exchange(hashes[i], hash) != hash)
          round_set.set(region.id, region.range.first + i);
      }
    }
    return {};
  }

 private:
  PageSource& memory_;
  std::map<RegionId, std::vector<std::size_t>> hashes_;
};

template <typename Broken>
Mutant mutant(const char* name, std::vector<std::string> found_by, bool at_full_speed) {
  return {name,
          [](std::shared_ptr<DirtyTracker> real) -> std::shared_ptr<DirtyTracker> {
            return std::make_shared<Broken>(std::move(real));
          },
          std::move(found_by), at_full_speed};
}

}  // namespace

std::vector<Mutant> mutants() {
  return {
      mutant<DropsEvery1000thPage>("DropsEvery1000thPage", {"ReportsExactlyWhatWasWritten"}, true),
      mutant<RearmsAfterTheRead>("RearmsAfterTheRead", {"WritesBetweenAnyTwoStepsAreKept"}, true),
      mutant<TakesInPeek>("TakesInPeek", {"PeekTakesNothing", "WritesBetweenAnyTwoStepsAreKept"},
                          true),
      mutant<LeavesOutTheLastWord>("LeavesOutTheLastWord", {"ReportsExactlyWhatWasWritten"}, true),
      mutant<ForgetsRegionsLeftOut>("ForgetsRegionsLeftOut", {"RegionsLeftOutAreKept"}, true),
      mutant<ReportsNeighbours>("ReportsNeighbours", {"ReportsExactlyWhatWasWritten"}, false),
      mutant<NeverForgets>("NeverForgets",
                           {"ReportsExactlyWhatWasWritten", "ReportsNothingWhenNothingIsWritten"},
                           false),
      mutant<OverwritesTheSet>("OverwritesTheSet", {"CollectKeepsWhatTheSetHad"}, false),
      mutant<PeeksWithoutLooking>("PeeksWithoutLooking", {"PeekTakesNothing"}, true),
      mutant<SilentAfterStop>("SilentAfterStop", {"StoppedTrackerNeverLies"}, false),
      mutant<ReportsAllAfterStop>("ReportsAllAfterStop", {"StoppedTrackerNeverLies"}, false),
      mutant<StartsOnce>("StartsOnce", {"StartsAgainAfterStop"}, false),
  };
}

std::shared_ptr<DirtyTracker> rearm_late(std::shared_ptr<DirtyTracker> real) {
  return std::make_shared<RearmsLate>(std::move(real));
}

std::shared_ptr<DirtyTracker> make_naive_hash_tracker(PageSource& memory) {
  return std::make_shared<NaiveHash>(memory);
}

}  // namespace migrate::testing
