// WordOps: what a page set does to whole arrays of words, by the widest registers there are.
#pragma once

#include <cstddef>
#include <cstdint>

namespace migrate {

/// One way to do it. All ways give the same; arrays need no alignment beyond their type's.
struct WordOps {
  const char* name = "";
  /// Changes words[0, count) by other[0, count), the same array or one apart from it.
  void (*merge)(std::uint64_t* words, const std::uint64_t* other, std::size_t count);
  void (*subtract)(std::uint64_t* words, const std::uint64_t* other, std::size_t count);
  void (*intersect)(std::uint64_t* words, const std::uint64_t* other, std::size_t count);
  /// Bits that are set.
  std::uint64_t (*count)(const std::uint64_t* words, std::size_t count);
  /// The first of [from, end) that is not `value`; `end` when there is none.
  std::size_t (*skip)(const std::uint64_t* words, std::size_t from, std::size_t end,
                      std::uint64_t value);
};

/// For any processor.
[[nodiscard]] const WordOps& portable_word_ops();
/// nullptr where this processor (or build) has no AVX2.
[[nodiscard]] const WordOps* avx2_word_ops();

/// What page sets use: the fastest here.
[[nodiscard]] const WordOps& word_ops();
/// From now on `ops`, or again the fastest for nullptr. For tests; any thread.
void use_word_ops(const WordOps* ops);

}  // namespace migrate
