// How the demo guest checks its memory: page by page, a slice at a time. Only for the guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/stamp.hpp"
#include "adapters/kvm/vmm/demo_guest/vcpu_state.hpp"

namespace migrate::vmm::demo {

/// Checks that words [from, to) of a page are what it was filled with.
template <typename Expected>
bool check_words(VcpuState& vcpu, std::uint64_t page, std::uint64_t from, std::uint64_t to,
                 Expected expected) {
  const std::uint64_t* words = page_words(page);
  std::uint64_t differing = 0;
  for (std::uint64_t i = from; i < to; ++i) differing |= words[i] ^ expected(i);
  if (differing == 0) return true;
  for (std::uint64_t i = from; i < to; ++i) {
    if (words[i] == expected(i)) continue;
    vcpu.report(ErrorKind::kFill, page, expected(i), words[i]);
    return false;
  }
  // It was wrong and is right now: somebody writes to a page that nobody may write to.
  vcpu.report(ErrorKind::kFill, page, 0, differing);
  return false;
}

inline bool check_fill(VcpuState& vcpu, std::uint64_t page, std::uint64_t from, std::uint64_t to) {
  const ControlBlock& config = control();
  const std::uint64_t base = page_base(config.seed, page);
  switch (page_kind(config.fill, config.seed, page)) {
    case PageKind::kZero:
      return check_words(vcpu, page, from, to, [](std::uint64_t) { return std::uint64_t{0}; });
    case PageKind::kText:
      return check_words(vcpu, page, from, to,
                         [base](std::uint64_t i) { return text_word(base, i); });
    case PageKind::kRandom:
      break;
  }
  return check_words(vcpu, page, from, to,
                     [base](std::uint64_t i) { return random_word(base, i); });
}

/// Of memory filled from a file. `stamped`: the stamp's words are a writer's.
inline bool check_hash(VcpuState& vcpu, std::uint64_t page, bool stamped) {
  const PageHash expected = reinterpret_cast<const PageHash*>(control().file_hashes)[page];
  const PageHash found = hash_page(page_words(page));
  if (found.inside == expected.inside && (stamped || found.edges == expected.edges)) return true;
  vcpu.report(ErrorKind::kFill, page, std::uint64_t{expected.inside} << 32 | expected.edges,
              std::uint64_t{found.inside} << 32 | found.edges);
  return false;
}

/// A data page, but for the stamp if it lies in some writer's set.
inline bool check_page(VcpuState& vcpu, std::uint64_t page) {
  const bool stamped = page < control().writers_end;
  if (control().fill == Fill::kFile) return check_hash(vcpu, page, stamped);
  return stamped ? check_fill(vcpu, page, kStampWords, kInsideEnd)
                 : check_fill(vcpu, page, 0, kWordsPerPage);
}

/// The stamp of a page of this vCPU's own set, or what was there before the first one.
inline bool check_stamp(VcpuState& vcpu, std::uint64_t page, std::uint32_t generation) {
  if (generation != 0) {
    const Stamp found = read_stamp(page_words(page));
    const ErrorKind kind = judge_stamp(control().seed, page, generation, found);
    if (kind != ErrorKind::kNone) vcpu.report(kind, page, generation, found.generation);
    return kind == ErrorKind::kNone;
  }
  if (control().fill == Fill::kFile) return check_hash(vcpu, page, false);
  return check_fill(vcpu, page, 0, kStampWords) &&
         check_fill(vcpu, page, kInsideEnd, kWordsPerPage);
}

/// A writer's expected generations.
inline volatile std::uint32_t* generations(const VcpuPlan& plan) {
  return reinterpret_cast<volatile std::uint32_t*>(plan.generations);
}

/// Walks over all that a vCPU has to check, again and again: its own set, then its share of the
/// pages.
class Walk {
 public:
  explicit Walk(VcpuState& vcpu)
      : vcpu_(vcpu),
        own_pages_(vcpu.plan.kind == WorkKind::kWriter ? vcpu.plan.set_pages : 0),
        pages_(own_pages_ + vcpu.plan.share_pages) {}

  void check(std::uint64_t count) {
    if (pages_ == 0) return;
    for (std::uint64_t i = 0; i < count; ++i) {
      check_next();
      if (++place_ < pages_) continue;
      place_ = 0;
      vcpu_.counters.passes = vcpu_.counters.passes + 1;
    }
  }

  /// For as long as `ticks`, and at least one page.
  void check_for(std::uint64_t ticks) {
    const std::uint64_t start = read_tsc();
    do {
      check(1);
    } while (read_tsc() - start < ticks);
  }

 private:
  void check_next() {
    if (place_ >= own_pages_) {
      check_page(vcpu_, vcpu_.plan.share_first + place_ - own_pages_);
      return;
    }
    const std::uint64_t page = vcpu_.plan.set_first + place_;
    if (check_page(vcpu_, page)) check_stamp(vcpu_, page, generations(vcpu_.plan)[place_]);
  }

  VcpuState& vcpu_;
  const std::uint64_t own_pages_;
  const std::uint64_t pages_;
  std::uint64_t place_ = 0;
};

}  // namespace migrate::vmm::demo
