// What a data page holds before anybody writes it: a function of seed and page index. The VMM fills
// by it, the guest checks by it. Freestanding: also compiled into the guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/layout.hpp"

namespace migrate::vmm::demo {

/// A bijection that spreads each bit over the word (Steele, Lea and Flood's SplitMix64 finaliser,
/// "Fast splittable pseudorandom number generators", OOPSLA 2014).
constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;

enum class PageKind : std::uint32_t { kZero = 0, kText = 1, kRandom = 2 };

/// Mixed memory comes in runs of 1 MiB; of each 20 runs 8 are zero, 7 text, 5 random (40, 35 and 25
/// %), in an order that depends on the seed.
constexpr std::uint64_t kRunPages = (1u << 20) / kPage;
constexpr std::uint64_t kRunsPerBlock = 20;
constexpr std::uint64_t kZeroRuns = 8;
constexpr std::uint64_t kTextRuns = 7;

constexpr PageKind mixed_kind(std::uint64_t seed, std::uint64_t page) {
  // Multiplying by a number coprime to 20 and adding one permutes the 20 places of a block.
  constexpr std::uint64_t kSteps[] = {1, 3, 7, 9, 11, 13, 17, 19};
  const std::uint64_t run = page / kRunPages;
  const std::uint64_t choice = mix(seed ^ ((run / kRunsPerBlock + 1) * kGolden));
  const std::uint64_t place =
      (run % kRunsPerBlock * kSteps[choice & 7] + (choice >> 8)) % kRunsPerBlock;
  if (place < kZeroRuns) return PageKind::kZero;
  return place < kZeroRuns + kTextRuns ? PageKind::kText : PageKind::kRandom;
}

/// Not for Fill::kFile.
constexpr PageKind page_kind(Fill fill, std::uint64_t seed, std::uint64_t page) {
  switch (fill) {
    case Fill::kText:
      return PageKind::kText;
    case Fill::kRandom:
      return PageKind::kRandom;
    case Fill::kMixed:
      return mixed_kind(seed, page);
    case Fill::kZero:
    case Fill::kFile:
      break;
  }
  return PageKind::kZero;
}

constexpr std::uint64_t page_base(std::uint64_t seed, std::uint64_t page) {
  return mix(mix(seed) + page * kGolden);
}

/// Word `i` of a random page: one multiplication, because the guest checks by it all the time.
constexpr std::uint64_t random_word(std::uint64_t base, std::uint64_t i) {
  const std::uint64_t x = base + (i + 1) * kGolden;
  return (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
}

/// Eight bytes of a made-up vocabulary, spaces included.
constexpr std::uint64_t word_of(const char (&text)[9]) {
  std::uint64_t word = 0;
  for (int i = 7; i >= 0; --i) word = word << 8 | static_cast<unsigned char>(text[i]);
  return word;
}
inline constexpr std::uint64_t kVocabulary[32] = {
    word_of("guests, "),  word_of("memory  "), word_of("pages:  "), word_of("of the  "),
    word_of("running "),  word_of("sources "), word_of("targets "), word_of("and so  "),
    word_of("copied, "),  word_of("written "), word_of("into a  "), word_of("channel "),
    word_of("before  "),  word_of("paused; "), word_of("machine "), word_of("which   "),
    word_of("rounds\n "), word_of("dirtied "), word_of("while   "), word_of("sending "),
    word_of("with no "),  word_of("errors. "), word_of("handed  "), word_of("over to "),
    word_of("another "),  word_of("host... "), word_of("finally "), word_of("digests "),
    word_of("compare "),  word_of("equal   "), word_of("started "), word_of("again\n  "),
};

/// Word `i` of a text page: in turn from the vocabulary and eight random letters, so that it
/// compresses about as text does (2 to 3 times) and no two pages are equal.
constexpr std::uint64_t text_word(std::uint64_t base, std::uint64_t i) {
  const std::uint64_t random = random_word(base, i);
  const std::uint64_t letters = (random & 0x0f0f0f0f0f0f0f0fu) + 0x6161616161616161u;
  const std::uint64_t mask = 0 - (random >> 63);
  return (letters & mask) | (kVocabulary[random >> 58 & 31] & ~mask);
}

constexpr std::uint64_t fill_word(PageKind kind, std::uint64_t base, std::uint64_t i) {
  switch (kind) {
    case PageKind::kText:
      return text_word(base, i);
    case PageKind::kRandom:
      return random_word(base, i);
    case PageKind::kZero:
      break;
  }
  return 0;
}

/// A writer stamps the first and the last words of a page (see stamp.hpp); its inside stays what it
/// was filled with, so that both can be checked apart.
constexpr std::uint64_t kStampWords = 8;
constexpr std::uint64_t kInsideEnd = kWordsPerPage - 1;

/// Of a file's page: inside and stamp area apart.
struct PageHash {
  std::uint32_t inside = 0;
  std::uint32_t edges = 0;
  friend constexpr bool operator==(const PageHash&, const PageHash&) = default;
};

/// Four lanes, so that the multiplications overlap.
constexpr PageHash hash_page(const std::uint64_t* words) {
  std::uint64_t lanes[4] = {1, 2, 3, 4};
  std::uint64_t i = kStampWords;
  for (; i + 4 <= kInsideEnd; i += 4) {
    for (std::uint64_t lane = 0; lane < 4; ++lane) {
      const std::uint64_t x = (lanes[lane] ^ words[i + lane]) * kGolden;
      lanes[lane] = x ^ (x >> 29);
    }
  }
  for (; i < kInsideEnd; ++i) lanes[0] = mix(lanes[0] ^ words[i]);
  const std::uint64_t inside = mix(mix(mix(mix(lanes[0]) + lanes[1]) + lanes[2]) + lanes[3]);
  std::uint64_t edges = mix(words[kInsideEnd]);
  for (i = 0; i < kStampWords; ++i) edges = mix(edges ^ words[i]);
  return {static_cast<std::uint32_t>(inside >> 32), static_cast<std::uint32_t>(edges >> 32)};
}

}  // namespace migrate::vmm::demo
