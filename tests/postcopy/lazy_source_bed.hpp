// LazySourceBed: a LazySource on plain memory, and a target that is a script.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "postcopy/lazy_source.hpp"
#include "tests/transport/channel_io.hpp"

namespace migrate::test {

using postcopy::LazySource;
using postcopy::SourceFigures;
using Lanes = std::vector<std::unique_ptr<RecordChannel>>;

inline wire::Hasher make_lazy_hasher() {
  wire::SessionRandom random;
  random.bytes.fill(std::byte{1});
  return wire::Hasher(random, random);
}

/// Regions of plain memory: every third page reads as zero, the others have a value of their own.
class PlainGuest final : public PageSource {
 public:
  explicit PlainGuest(const std::vector<std::uint64_t>& pages) {
    for (std::uint32_t i = 0; i < pages.size(); ++i) {
      regions_.push_back({{0, i, 0}, {{i * (std::uint64_t{1} << 30)}, pages[i]}});
      std::vector<std::byte>& bytes = memory_.emplace_back(pages[i] * kPageSize);
      for (std::uint64_t page = 0; page < pages[i]; ++page) {
        const std::uint64_t value = page % 3 == 0 ? 0 : page << 8 | i;
        std::memcpy(bytes.data() + page * kPageSize + 8, &value, sizeof value);
      }
    }
  }
  Result<std::vector<Region>> regions() override { return regions_; }
  Result<ReadOutcome> read(const RegionId& id, PageRange range,
                           std::span<std::byte> into) override {
    if (reads_fail) return make_error(ErrorCode::kIo, "memory is broken");
    if (memory_is_gone) return ReadOutcome::kGone;
    std::memcpy(into.data(), page(id.id, range.first - regions_[id.id].range.first).data(),
                range.bytes());
    return ReadOutcome::kRead;
  }
  std::span<const std::byte> mapped(const RegionId& id) override {
    return is_mapped ? std::span<const std::byte>(memory_[id.id]) : std::span<const std::byte>();
  }
  Status holes(const RegionId&, PageBitmap&) override { return {}; }

  [[nodiscard]] const std::vector<Region>& all() const { return regions_; }
  [[nodiscard]] std::span<const std::byte> page(std::uint32_t region, std::uint64_t page) const {
    return std::span(memory_[region]).subspan(page * kPageSize, kPageSize);
  }
  [[nodiscard]] PageRange range(std::uint32_t region, std::uint64_t first,
                                std::uint64_t count) const {
    return {regions_[region].range.first + first, count};
  }

  bool is_mapped = true;
  std::atomic<bool> reads_fail{false};
  std::atomic<bool> memory_is_gone{false};

 private:
  std::vector<Region> regions_;
  std::vector<std::vector<std::byte>> memory_;
};

/// Pages of one record.
struct ArrivedPages {
  std::uint32_t region = 0;
  std::uint32_t round = 0;
  std::vector<std::uint64_t> pages;
};

class LazySourceBed : public testing::Test {
 protected:
  static constexpr std::uint32_t kRound = 7;

  /// All pages are missing.
  void make_guest(const std::vector<std::uint64_t>& pages) {
    guest_ = std::make_unique<PlainGuest>(pages);
    ledger_ = std::make_unique<PageLedger>(digest_.zero_hash());
    for (const Region& region : guest_->all()) {
      ASSERT_TRUE(ledger_->add(region.id.id, region));
      auto& hashes = ledger_->entries().back()->hashes;
      std::fill(hashes.begin(), hashes.end(), wire::PageDigest::kVoid);
    }
    work_.missing = work_.first = work_.recent = PageBitmap(guest_->all());
    work_.missing.set_all();
    arrived_.clear();
    for (const std::uint64_t count : pages) arrived_.emplace_back(count);
  }
  void make_source(nanoseconds idle_max = kLong, std::uint64_t bandwidth = 0,
                   std::uint64_t push_bandwidth = 0) {
    source_ = std::make_unique<LazySource>(
        LazySource::Context{.pages = *guest_,
                            .ledger = *ledger_,
                            .digest = digest_,
                            .idle_max = idle_max,
                            .bandwidth_bytes_per_s = bandwidth,
                            .push_bandwidth_bytes_per_s = push_bandwidth,
                            .on_failure =
                                [this] {
                                  std::lock_guard lock(mutex_);
                                  ++failures_;
                                  failed_.notify_all();
                                }},
        work_);
  }
  /// New lanes, of which the far ends are the script's.
  void attach(std::size_t lanes) {
    Lanes near;
    far_.clear();
    for (std::size_t i = 0; i < lanes + 1; ++i) {
      auto pair = make_channel_pair();
      ASSERT_TRUE(pair);
      near.push_back(std::make_unique<RecordChannel>(std::move(pair->first), hasher_));
      far_.push_back(std::make_unique<RecordChannel>(std::move(pair->second), hasher_));
    }
    urgent_ = std::move(far_.back());
    far_.pop_back();
    auto urgent = std::move(near.back());
    near.pop_back();
    const Status attached = source_->attach(std::move(near), std::move(urgent), kRound);
    ASSERT_TRUE(attached) << attached.error().to_text();
  }

  /// The next PAGES record, its content compared with the guest's.
  Result<ArrivedPages> receive(RecordChannel& lane, nanoseconds idle_max = kLong) {
    MIGRATE_ASSIGN(const RecordChannel::Record record, lane.receive(idle_max));
    if (record.header.type != wire::RecordType::kPages) {
      return RecordChannel::unexpected(record, wire::RecordType::kPages);
    }
    MIGRATE_ASSIGN(const auto head, lane.receive_batch_head(record.header, kLong));
    ArrivedPages arrived{head.batch.region.number, head.batch.round, {}};
    MIGRATE_ASSIGN(
        const auto table,
        wire::decode_page_table(head.batch, head.table, guest_->all()[arrived.region].range.count));
    std::vector<wire::PageEntry> entries;
    for (std::size_t i = 0; i < table.size(); ++i) entries.push_back(table[i]);
    std::vector<std::byte> content(head.batch.content_bytes);
    if (!content.empty()) {
      std::vector<iovec> part = one_part(content);
      MIGRATE_TRY(lane.receive_content(part, kLong));
    }
    std::size_t at = 0;
    for (const wire::PageEntry& entry : entries) {
      for (std::uint64_t page = entry.first; page < entry.first + entry.count; ++page) {
        const auto memory = guest_->page(arrived.region, page);
        if (entry.encoding == wire::PageEncoding::kZeros) {
          EXPECT_EQ(digest_.hash(memory), digest_.zero_hash()) << page;
        } else {
          EXPECT_EQ(entry.hash, digest_.hash(memory)) << page;
          EXPECT_EQ(std::memcmp(content.data() + at, memory.data(), kPageSize), 0) << page;
          at += kPageSize;
        }
        arrived.pages.push_back(page);
        arrived_[arrived.region][page].fetch_add(1);
      }
    }
    EXPECT_EQ(at, content.size());
    EXPECT_EQ(arrived.round, kRound);
    return arrived;
  }
  /// Of a lane so many pages.
  void receive_pages(RecordChannel& lane, std::uint64_t count) {
    for (std::uint64_t got = 0; got < count;) {
      const auto arrived = receive(lane);
      ASSERT_TRUE(arrived) << arrived.error().to_text();
      got += arrived->pages.size();
    }
  }
  /// On all bulk lanes, until `count` pages have come in all.
  void receive_on_all(std::uint64_t count) {
    std::atomic<std::uint64_t> got{0};
    std::vector<std::thread> threads;
    for (auto& lane : far_) {
      threads.emplace_back([&, raw = lane.get()] {
        while (got < count) {
          const auto arrived = receive(*raw, kShort);
          if (arrived) {
            got += arrived->pages.size();
          } else if (arrived.error().code != ErrorCode::kTimeout) {
            ADD_FAILURE() << arrived.error().to_text();
            break;
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  Status demand(std::vector<wire::Demand::Pages> pages) {
    return urgent_->send(wire::Demand{std::move(pages)}, kLong);
  }
  ErrorCode wait_for_failure() {
    {
      std::unique_lock lock(mutex_);
      EXPECT_TRUE(failed_.wait_for(lock, kLong, [this] { return failures_ > 0; }));
    }
    const auto failure = source_->failure();
    EXPECT_TRUE(failure);
    return failure ? failure->code : ErrorCode::kInternal;
  }
  [[nodiscard]] std::uint64_t total() const { return ledger_->pages(); }
  /// How often each page has come, as pages by that number.
  [[nodiscard]] std::map<int, std::uint64_t> times() const {
    std::map<int, std::uint64_t> times;
    for (const auto& region : arrived_) {
      for (const auto& page : region) ++times[page.load()];
    }
    return times;
  }
  /// What has not come.
  [[nodiscard]] PageBitmap still_missing() const {
    PageBitmap missing(guest_->all());
    for (std::uint32_t i = 0; i < arrived_.size(); ++i) {
      for (std::uint64_t page = 0; page < arrived_[i].size(); ++page) {
        if (arrived_[i][page] == 0) missing.set(guest_->all()[i].id, guest_->range(i, page, 1));
      }
    }
    return missing;
  }
  void expect_ledger_filled() const {
    for (const auto& entry : ledger_->entries()) {
      for (std::uint64_t page = 0; page < entry->hashes.size(); ++page) {
        ASSERT_EQ(entry->hashes[page], digest_.hash(guest_->page(entry->handle, page))) << page;
      }
    }
  }

  const wire::Hasher hasher_ = make_lazy_hasher();
  const wire::PageDigest digest_{hasher_};
  std::unique_ptr<PlainGuest> guest_;
  std::unique_ptr<PageLedger> ledger_;
  LazySource::Work work_;
  std::vector<std::deque<std::atomic<int>>> arrived_;
  std::mutex mutex_;
  std::condition_variable failed_;
  int failures_ = 0;
  Lanes far_;
  std::unique_ptr<RecordChannel> urgent_;
  std::unique_ptr<LazySource> source_;
};

}  // namespace migrate::test
