// PageMarks: the pages of one slot that have been written, cheap to go through when they are few.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace migrate {

/// One bit a page, and above it one bit for each word of those that may have any. Not synchronised.
class PageMarks {
 public:
  explicit PageMarks(std::uint64_t pages = 0)
      : words_((pages + 63) / 64), touched_((words_.size() + 63) / 64) {}

  void add(std::uint64_t page) { add_word(page / 64, std::uint64_t{1} << (page % 64)); }
  void add_word(std::size_t word, std::uint64_t bits) {
    words_[word] |= bits;
    touched_[word / 64] |= std::uint64_t{1} << (word % 64);
  }

  /// Calls f(word, bits) for each word that has any.
  template <typename F>
  void for_each_word(F&& f) const {
    for (std::size_t i = 0; i < touched_.size(); ++i) {
      for (std::uint64_t left = touched_[i]; left != 0; left &= left - 1) {
        const std::size_t word = i * 64 + static_cast<unsigned>(std::countr_zero(left));
        f(word, words_[word]);
      }
    }
  }

  [[nodiscard]] bool empty() const { return words_.empty(); }  ///< Made for no pages.

  void clear() {
    for (std::size_t i = 0; i < touched_.size(); ++i) {
      for (std::uint64_t left = touched_[i]; left != 0; left &= left - 1) {
        words_[i * 64 + static_cast<unsigned>(std::countr_zero(left))] = 0;
      }
      touched_[i] = 0;
    }
  }

 private:
  std::vector<std::uint64_t> words_;
  std::vector<std::uint64_t> touched_;
};

}  // namespace migrate
