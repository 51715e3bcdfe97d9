// PageStates: how far each page of a region that is filled lazily has come. A few bits a page.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace migrate::postcopy {

/// A bit a page, set and cleared by any thread, sequentially consistent. All are clear at first,
/// which costs nothing: a page of them is had from the kernel when one of its bits is set.
class AtomicBits {
 public:
  /// std::bad_alloc.
  explicit AtomicBits(std::uint64_t pages)
      : count_((pages + 63) / 64),
        words_(static_cast<std::uint64_t*>(std::calloc(count_, sizeof(std::uint64_t)))) {
    if (words_ == nullptr && count_ > 0) throw std::bad_alloc();
  }
  [[nodiscard]] bool test(std::uint64_t page) const { return (word(page / 64) & bit(page)) != 0; }
  /// Whether it was set before.
  bool set(std::uint64_t page) { return (at(page / 64).fetch_or(bit(page)) & bit(page)) != 0; }
  bool clear(std::uint64_t page) { return (at(page / 64).fetch_and(~bit(page)) & bit(page)) != 0; }
  void set(std::uint64_t first, std::uint64_t count) {
    for_each_word(first, count, [](auto word, std::uint64_t mask) { word.fetch_or(mask); });
  }
  void clear(std::uint64_t first, std::uint64_t count) {
    for_each_word(first, count, [](auto word, std::uint64_t mask) { word.fetch_and(~mask); });
  }
  /// All of them, while no other thread knows of them. Bits past the last page are set, too.
  void set_all() { std::memset(words_.get(), 0xff, count_ * sizeof(std::uint64_t)); }
  [[nodiscard]] bool any(std::uint64_t first, std::uint64_t count) const {
    for (std::uint64_t at = first, end = first + count; at < end; at = at / 64 * 64 + 64) {
      if ((word(at / 64) & mask_of(at, end)) != 0) return true;
    }
    return false;
  }
  [[nodiscard]] std::uint64_t word(std::size_t index) const { return at(index).load(); }
  std::uint64_t take_word(std::size_t index) { return at(index).exchange(0); }

 private:
  static std::uint64_t bit(std::uint64_t page) { return std::uint64_t{1} << (page % 64); }
  /// Of the pages from `at` to `end` that share a word with `at`.
  static std::uint64_t mask_of(std::uint64_t at, std::uint64_t end) {
    const std::uint64_t pages = std::min(end - at, 64 - at % 64);
    return (~std::uint64_t{0} >> (64 - pages)) << (at % 64);
  }
  template <typename Change>
  void for_each_word(std::uint64_t first, std::uint64_t count, Change&& change) {
    for (std::uint64_t at = first, end = first + count; at < end; at = at / 64 * 64 + 64) {
      change(this->at(at / 64), mask_of(at, end));
    }
  }
  [[nodiscard]] std::atomic_ref<std::uint64_t> at(std::size_t index) const {
    return std::atomic_ref<std::uint64_t>(words_[index]);
  }

  struct Free {
    void operator()(std::uint64_t* words) const { std::free(words); }
  };
  std::size_t count_;
  std::unique_ptr<std::uint64_t[], Free> words_;
};

/// Pages are numbered from the region's first. The bits of a huge page are set and cleared
/// together, but for those between `wanted` and `here`: there its first page speaks for it.
struct PageStates {
  explicit PageStates(std::uint64_t pages)
      : once(pages), wanted(pages), here(pages), fresh(pages), demanded(pages) {}
  AtomicBits once;      ///< Was missing at some time: never again zeros that nobody sent.
  AtomicBits wanted;    ///< Nobody has brought it; who clears this puts it in place, alone.
  AtomicBits here;      ///< Of `once`: in place.
  AtomicBits fresh;     ///< In place, and not told of yet.
  AtomicBits demanded;  ///< A thread waits for it; first pages only.
};

}  // namespace migrate::postcopy
