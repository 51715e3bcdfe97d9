// BulkLanes: both sides of some bulk lanes on sockets, with plain memory for the guest's.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "tests/transport/channel_io.hpp"
#include "transport/bulk_receivers.hpp"
#include "transport/bulk_senders.hpp"

namespace migrate::test {

using Lanes = std::vector<std::unique_ptr<RecordChannel>>;

inline constexpr std::uint64_t kPages = 32 * PageBatch::kPagesMax;
inline const Region kRegion{{0, 1, 0}, {{16}, kPages}, Backing::kAnonymous};
inline constexpr wire::RegionHandle kHandle{0};

inline wire::Hasher make_hasher() {
  wire::SessionRandom random;
  random.bytes.fill(std::byte{1});
  return wire::Hasher(random, random);
}
inline const wire::Hasher kHasher = make_hasher();
inline const wire::PageDigest kDigest(kHasher);

using Bytes = std::vector<std::byte>;

inline std::size_t offset_of(PageRange range) {
  return static_cast<std::size_t>((range.first - kRegion.range.first) * kPageSize);
}

/// Plain memory of the one region; given out as mapped, or read and written by copying.
struct Memory {
  bool is_mapped = true;
  Bytes bytes = Bytes(kPages * kPageSize);
  std::span<std::byte> page(std::uint64_t number) {
    return std::span(bytes).subspan(number * kPageSize, kPageSize);
  }
};

class Source final : public PageSource {
 public:
  explicit Source(Memory& memory) : memory_(memory) {}
  Result<std::vector<Region>> regions() override { return std::vector{kRegion}; }
  Result<ReadOutcome> read(const RegionId&, PageRange range, std::span<std::byte> into) override {
    std::memcpy(into.data(), memory_.bytes.data() + offset_of(range), range.bytes());
    return ReadOutcome::kRead;
  }
  std::span<const std::byte> mapped(const RegionId&) override {
    return memory_.is_mapped ? std::span<const std::byte>(memory_.bytes)
                             : std::span<const std::byte>();
  }
  Status holes(const RegionId&, PageBitmap&) override { return {}; }

 private:
  Memory& memory_;
};

class Sink final : public PageSink {
 public:
  explicit Sink(Memory& memory) : memory_(memory) {}
  Status update_regions(const RegionDelta&) override { return {}; }
  Status write(const RegionId&, PageRange range, std::span<const std::byte> bytes) override {
    std::memcpy(memory_.bytes.data() + offset_of(range), bytes.data(), bytes.size());
    return {};
  }
  Status zero(const RegionId&, PageRange range) override {
    std::memset(memory_.bytes.data() + offset_of(range), 0, range.bytes());
    return {};
  }
  Status read(const RegionId&, PageRange range, std::span<std::byte> into) override {
    std::memcpy(into.data(), memory_.bytes.data() + offset_of(range), range.bytes());
    return {};
  }
  std::span<std::byte> mapped(const RegionId&) override {
    return memory_.is_mapped ? std::span(memory_.bytes) : std::span<std::byte>();
  }

 private:
  Memory& memory_;
};

inline PageLedger make_ledger() {
  PageLedger ledger(kDigest.zero_hash());
  EXPECT_TRUE(ledger.add(kHandle.number, kRegion));
  return ledger;
}

inline std::ptrdiff_t threads_now() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

/// False when the process goes on having another number of threads. One that is joined may be
/// listed for a moment still.
inline bool threads_become(std::ptrdiff_t wanted) {
  const auto until = std::chrono::steady_clock::now() + kLong;
  while (threads_now() != wanted) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::yield();
  }
  return true;
}

/// Two sides of some lanes.
class BulkLanes : public testing::Test {
 protected:
  void connect(std::size_t lanes) {
    for (std::size_t i = 0; i < lanes; ++i) {
      auto pair = make_channel_pair();
      ASSERT_TRUE(pair);
      near_.push_back(std::make_unique<RecordChannel>(std::move(pair->first), kHasher));
      far_.push_back(std::make_unique<RecordChannel>(std::move(pair->second), kHasher));
    }
  }
  void make_senders(std::function<Status()> on_wait = {}, nanoseconds idle_max = kLong) {
    senders_ = std::make_unique<BulkSenders>(std::move(near_),
                                             BulkSenders::Context{.pages = source_,
                                                                  .ledger = source_ledger_,
                                                                  .digest = kDigest,
                                                                  .idle_max = idle_max,
                                                                  .on_wait = std::move(on_wait)});
    senders_->begin_round(round_set_);
  }
  void make_receivers(nanoseconds idle_max = kLong) {
    receivers_ = std::make_unique<BulkReceivers>(
        std::move(far_), BulkReceivers::Context{.pages = sink_,
                                                .ledger = target_ledger_,
                                                .digest = kDigest,
                                                .idle_max = idle_max,
                                                .on_failure = [this] { ++failures_; },
                                                .heard = heard_});
  }
  /// The pages [first, first + count), as one batch.
  PageBatch batch(std::uint64_t first, std::uint32_t count, std::uint32_t round = 0) {
    PageBatch pages;
    pages.entry = source_ledger_.find(kHandle.number);
    pages.round = round;
    pages.count = count;
    for (std::uint32_t i = 0; i < count; ++i) pages.pages[i] = first + i;
    return pages;
  }
  void fill(std::uint64_t first, std::uint64_t count, std::uint64_t seed) {
    const Bytes bytes = random_bytes(count * kPageSize, seed);
    std::memcpy(source_memory_.page(first).data(), bytes.data(), bytes.size());
    round_set_.set(kRegion.id, PageRange{kRegion.range.first + first, count});
  }

  /// All pages, each unlike the others, again and again until there is an error: one pass is more
  /// than lanes, their queue and their sockets hold.
  Status submit_without_end() {
    for (std::uint64_t page = 0; page < kPages; ++page) {
      const std::uint64_t value = page + 1;
      std::memcpy(source_memory_.page(page).data(), &value, sizeof value);
    }
    round_set_.set_all();
    for (int pass = 0; pass < 1000; ++pass) {
      for (std::uint64_t first = 0; first < kPages; first += PageBatch::kPagesMax) {
        MIGRATE_TRY(senders_->submit(batch(first, PageBatch::kPagesMax)));
      }
      MIGRATE_ASSIGN(const BulkTotals totals, senders_->drain());
      static_cast<void>(totals);
      for (auto& hash : source_ledger_.find(kHandle.number)->hashes) hash = wire::PageDigest::kVoid;
    }
    return {};
  }

  Memory source_memory_;
  Memory target_memory_;
  Source source_{source_memory_};
  Sink sink_{target_memory_};
  PageLedger source_ledger_ = make_ledger();
  PageLedger target_ledger_ = make_ledger();
  PageBitmap round_set_{std::vector{kRegion}};
  std::atomic<std::uint64_t> heard_{0};
  std::atomic<int> failures_{0};
  Lanes near_;
  Lanes far_;
  std::unique_ptr<BulkSenders> senders_;
  std::unique_ptr<BulkReceivers> receivers_;
};

}  // namespace migrate::test
