// LiveBed: guest memory of any kind with writers at full speed that can be made to stand, and an
// image of it in plain memory.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "checkpoint/live_memory.hpp"
#include "tests/postcopy/guest_ram.hpp"

namespace migrate::checkpoint {

/// Threads that write pages, each its own share, until they are told to stand or to end.
class Writers {
 public:
  Writers(std::span<std::byte> memory, unsigned count) : memory_(memory) {
    for (unsigned i = 0; i < count; ++i) {
      threads_.emplace_back([this, i, count] { run(i, count); });
    }
  }
  ~Writers() {
    end_ = true;
    run_on();
    for (std::thread& thread : threads_) thread.join();
  }
  Writers(const Writers&) = delete;
  Writers& operator=(const Writers&) = delete;

  /// Returns when all stand.
  void pause() {
    paused_ = true;
    for (unsigned now = standing_; now < threads_.size(); now = standing_) standing_.wait(now);
  }
  void run_on() {
    paused_ = false;
    paused_.notify_all();
  }
  [[nodiscard]] std::uint64_t written() const { return written_; }
  /// Returns when so many pages more have been written.
  void wait_for(std::uint64_t more) const {
    const std::uint64_t until = written_ + more;
    while (written_ < until) std::this_thread::yield();
  }

 private:
  void run(unsigned number, unsigned count) {
    std::minstd_rand random(number + 1);
    const std::uint64_t pages = memory_.size() / kPageSize;
    for (std::uint64_t turn = 0; !end_; ++turn) {
      if (paused_) stand();
      // Half of them in a row, half anywhere.
      const std::uint64_t any = (turn % 2 == 0 ? turn / 2 : random()) % (pages / count);
      std::byte* const page = memory_.data() + (any * count + number) * kPageSize;
      // At both ends: a page that is torn is seen.
      std::memcpy(page + 8, &turn, sizeof turn);
      std::memcpy(page + kPageSize - 8, &turn, sizeof turn);
      ++written_;
    }
  }
  void stand() {
    ++standing_;
    standing_.notify_all();
    paused_.wait(true);
    --standing_;
  }

  const std::span<std::byte> memory_;
  std::atomic<bool> end_{false}, paused_{false};
  std::atomic<unsigned> standing_{0};
  std::atomic<std::uint64_t> written_{0};
  std::vector<std::thread> threads_;
};

/// One region of memory, and where its pages are saved to.
class LiveBed {
 public:
  static constexpr RegionId kId{0, 1, 0};

  LiveBed(test::RamKind kind, std::uint64_t pages)
      : ram_(kind, pages), region_{kId, {{16}, pages}} {
    if (ram_.valid()) image_.resize(pages * kPageSize);
    added_ = std::vector<std::atomic<unsigned>>(pages);
  }
  void fill() {
    for (std::uint64_t page = 0; page < region_.range.count; ++page) {
      std::memset(ram_.page(page).data(), static_cast<int>(page % 251 + 1), kPageSize);
    }
  }
  [[nodiscard]] test::GuestRam& ram() { return ram_; }
  [[nodiscard]] std::span<std::byte> memory() { return ram_.bytes(); }
  [[nodiscard]] MappedRegion mapped() { return {region_, ram_.bytes().data()}; }
  [[nodiscard]] PageBitmap none() const { return PageBitmap(std::vector{region_}); }
  [[nodiscard]] PageBitmap all() const {
    PageBitmap pages = none();
    pages.set_all();
    return pages;
  }
  [[nodiscard]] PageRange range(std::uint64_t first, std::uint64_t count) const {
    return {region_.range.first + first, count};
  }

  [[nodiscard]] std::unique_ptr<LiveMemory> live(const LiveOptions& options = {}) {
    const std::vector<MappedRegion> regions{mapped()};
    auto made = LiveMemory::create(regions, options);
    EXPECT_TRUE(made) << made.error().to_text();
    return made ? *std::move(made) : nullptr;
  }
  [[nodiscard]] LiveMemory::Add add() {
    return [this](std::uint16_t region, std::uint64_t page, const std::byte* content) -> Status {
      EXPECT_EQ(region, 0);
      ++added_[page];
      std::memcpy(image_.data() + page * kPageSize, content, kPageSize);
      return {};
    };
  }
  /// Two lanes, until they have ended.
  Status save(LiveMemory& live, const LiveMemory::Add& add) {
    Status other;
    std::thread thread([&] { other = live.save(add); });
    Status own = live.save(add);
    thread.join();
    return own ? other : own;
  }
  [[nodiscard]] std::vector<std::byte> copy() { return {ram_.bytes().begin(), ram_.bytes().end()}; }
  /// The first page that differs, or the number of pages.
  [[nodiscard]] std::uint64_t first_difference(const std::vector<std::byte>& wanted) const {
    std::uint64_t page = 0;
    while (page < region_.range.count && same(page, wanted)) {
      ++page;
    }
    return page;
  }
  [[nodiscard]] bool same(std::uint64_t page, const std::vector<std::byte>& wanted) const {
    return std::memcmp(image_.data() + page * kPageSize, wanted.data() + page * kPageSize,
                       kPageSize) == 0;
  }
  [[nodiscard]] unsigned added(std::uint64_t page) const { return added_[page]; }
  [[nodiscard]] std::uint64_t pages() const { return region_.range.count; }

 private:
  test::GuestRam ram_;
  const Region region_;
  std::vector<std::byte> image_;
  std::vector<std::atomic<unsigned>> added_;
};

}  // namespace migrate::checkpoint
