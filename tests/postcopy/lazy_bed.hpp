// LazyBed: a LazyTarget on real memory, and a source that says on its lanes what a test tells it.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "memory/page_ledger.hpp"
#include "postcopy/lazy_target.hpp"
#include "tests/postcopy/guest_ram.hpp"
#include "tests/transport/channel_io.hpp"
#include "transport/record_channel.hpp"
#include "wire/digest.hpp"
#include "wire/pages.hpp"

namespace migrate::test {

inline constexpr wire::RegionHandle kLazyHandle{0};
inline constexpr std::uint64_t kFirstPage = 16;
inline constexpr std::uint32_t kLazyRound = 3;

inline wire::Hasher lazy_hasher() {
  wire::SessionRandom random;
  random.bytes.fill(std::byte{1});
  return wire::Hasher(random, random);
}

/// What one link is to the source.
struct SourceLink {
  std::unique_ptr<RecordChannel> bulk, urgent;
};

/// One region in which every page differs, but for those that are zeros.
class LazyBed {
 public:
  explicit LazyBed(RamKind kind, std::uint64_t pages, nanoseconds idle_max = kLong)
      : pages_(pages),
        ram_(kind, pages),
        region_{{0, 1, 0}, {{kFirstPage}, pages}, Backing::kUnknown},
        content_(random_bytes(pages * kPageSize, 7)) {
    idle_max_ = idle_max;
    EXPECT_TRUE(ram_.valid());
    EXPECT_TRUE(ledger_.add(kLazyHandle.number, region_));
  }
  ~LazyBed() {
    target_.reset();  // Lets go of all guests.
    for (auto& guest : guests_) guest.join();
  }

  void create() {
    auto made = postcopy::LazyTarget::create({.pages = ram_,
                                              .ledger = ledger_,
                                              .digest = digest_,
                                              .idle_max = idle_max_,
                                              .on_news = [this] {
                                                const std::lock_guard lock(mutex_);
                                                ++news_;
                                                changed_.notify_all();
                                              }});
    ASSERT_TRUE(made) << made.error().to_text();
    target_ = *std::move(made);
  }
  /// All of it, or these, are to come.
  void miss(std::uint64_t first, std::uint64_t count) {
    PageBitmap set(std::vector{region_});
    set.set(region_.id, PageRange{{kFirstPage + first}, count});
    for (std::uint64_t i = 0; i < count; ++i) {
      ledger_.entries()[0]->hashes[first + i] = wire::PageDigest::kVoid;
    }
    const Status missed = target_->miss(set);
    ASSERT_TRUE(missed) << missed.error().to_text();
  }
  void miss_all() { miss(0, pages_); }

  /// Lanes to the target, which it has from now on.
  SourceLink attach(std::uint32_t round = kLazyRound) {
    SourceLink link;
    std::vector<std::unique_ptr<RecordChannel>> bulk;
    auto first = make_channel_pair();
    auto second = make_channel_pair();
    EXPECT_TRUE(first && second);
    link.bulk = std::make_unique<RecordChannel>(std::move(first->first), hasher_);
    link.urgent = std::make_unique<RecordChannel>(std::move(second->first), hasher_);
    bulk.push_back(std::make_unique<RecordChannel>(std::move(first->second), hasher_));
    const Status attached =
        target_->attach(std::move(bulk),
                        std::make_unique<RecordChannel>(std::move(second->second), hasher_), round);
    EXPECT_TRUE(attached) << attached.error().to_text();
    return link;
  }

  [[nodiscard]] std::span<std::byte> source_page(std::uint64_t page) {
    return std::span(content_).subspan(page * kPageSize, kPageSize);
  }
  void make_zero(std::uint64_t first, std::uint64_t count) {
    std::memset(source_page(first).data(), 0, count * kPageSize);
  }
  [[nodiscard]] bool is_zero(std::uint64_t page) {
    return digest_.hash(source_page(page)) == digest_.zero_hash();
  }
  /// The pages as they are at the source; `wrong`: with another hash.
  Status send(RecordChannel& lane, std::uint64_t first, std::uint64_t count, bool wrong = false,
              std::uint32_t round = kLazyRound) {
    wire::PagesEncoder encoder;
    for (std::uint64_t page = first; page < first + count;) {
      encoder.begin(kLazyHandle, round);
      std::vector<iovec> content;
      // Never more than a huge page, nor parts of two.
      const std::uint64_t end = std::min(first + count, page / 512 * 512 + 512);
      for (; page < end; ++page) {
        if (is_zero(page)) {
          encoder.add_zeros(page, 1);
          continue;
        }
        encoder.add_raw(page, digest_.hash(source_page(page)) + (wrong ? 1 : 0));
        content.push_back({source_page(page).data(), kPageSize});
      }
      MIGRATE_TRY(lane.send_pages(encoder, content, kLong));
    }
    return {};
  }
  /// The next DEMAND.
  Result<std::vector<wire::Demand::Pages>> demanded(SourceLink& link) {
    MIGRATE_ASSIGN(auto demand, link.urgent->expect<wire::Demand>(kLong));
    return std::move(demand.wanted);
  }
  /// Sends what is demanded until the link ends.
  void serve(SourceLink& link) {
    for (;;) {
      const auto pages = demanded(link);
      if (!pages) return;
      for (const auto& wanted : *pages) {
        if (!send(*link.urgent, wanted.first, wanted.count)) return;
      }
    }
  }

  /// A thread of the guest.
  void run_guest(std::function<void()> what) { guests_.emplace_back(std::move(what)); }
  void join_guests() {
    for (auto& guest : guests_) guest.join();
    guests_.clear();
  }
  /// The guest's first byte of the page; may wait.
  int touch(std::uint64_t page) {
    return std::to_integer<int>(*const_cast<const volatile std::byte*>(ram_.page(page).data()));
  }
  /// As the guest sees it; may wait.
  [[nodiscard]] bool page_is_right(std::uint64_t page) {
    return std::memcmp(ram_.page(page).data(), source_page(page).data(), kPageSize) == 0;
  }
  [[nodiscard]] std::uint64_t pages_that_are_wrong() {
    std::uint64_t wrong = 0;
    for (std::uint64_t page = 0; page < pages_; ++page) wrong += page_is_right(page) ? 0 : 1;
    return wrong;
  }

  /// Until there were so many news in all.
  void wait_for_news(int count = 1) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kLong, [&] { return news_ >= count; }));
  }
  [[nodiscard]] int news() {
    const std::lock_guard lock(mutex_);
    return news_;
  }
  [[nodiscard]] ErrorCode failure_code() {
    const auto error = target_->failure();
    return error ? error->code : ErrorCode::kInternal;
  }

  [[nodiscard]] postcopy::LazyTarget& target() { return *target_; }
  void end_target() { target_.reset(); }
  [[nodiscard]] GuestRam& ram() { return ram_; }
  [[nodiscard]] PageLedger& ledger() { return ledger_; }
  [[nodiscard]] const Region& region() const { return region_; }
  [[nodiscard]] std::uint64_t pages() const { return pages_; }
  [[nodiscard]] const wire::PageDigest& digest() const { return digest_; }

 private:
  const std::uint64_t pages_;
  GuestRam ram_;
  const Region region_;
  std::vector<std::byte> content_;
  nanoseconds idle_max_{};
  const wire::Hasher hasher_ = lazy_hasher();
  const wire::PageDigest digest_{hasher_};
  PageLedger ledger_{digest_.zero_hash()};
  std::mutex mutex_;
  std::condition_variable changed_;
  int news_ = 0;
  std::unique_ptr<postcopy::LazyTarget> target_;
  std::vector<std::thread> guests_;
};

/// False when it does not become true in time.
inline bool becomes_true(const std::function<bool()>& condition) {
  const auto until = std::chrono::steady_clock::now() + kLong;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace migrate::test
