#include "session/void_stream.hpp"

#include <algorithm>
#include <bit>
#include <string>

namespace migrate::session {
namespace {

Error not_in_order(const std::string& what) {
  return make_error(ErrorCode::kProtocol, "the peer's void pages: " + what);
}

// What has come lately lies in places: 64 MiB of a region in a record of 2 KiB.
constexpr std::size_t kInstalledWords = 256;

/// `step`: words in a record, which is left out where they are all empty.
template <typename Message>
Status send_set(RecordChannel& control, const PageBitmap& set, PageLedger& ledger,
                nanoseconds idle_max, std::size_t step) {
  for (const auto& segment : set.segments()) {
    const PageLedger::Entry* entry = ledger.find(segment.region.id);
    MIGRATE_CHECK(entry != nullptr);
    for (std::size_t at = 0; at < segment.words.size(); at += step) {
      const auto first = segment.words.begin() + static_cast<std::ptrdiff_t>(at);
      const std::size_t count = std::min(step, segment.words.size() - at);
      const auto end = first + static_cast<std::ptrdiff_t>(count);
      if (std::all_of(first, end, [](std::uint64_t word) { return word == 0; })) continue;
      const Message pages{wire::RegionHandle{entry->handle}, at * 64, {first, end}};
      MIGRATE_TRY(control.send(pages, idle_max));
    }
  }
  return {};
}

}  // namespace

Status send_void(RecordChannel& control, const PageBitmap& set, PageLedger& ledger,
                 nanoseconds idle_max) {
  return send_set<wire::Void>(control, set, ledger, idle_max, wire::kVoidWordsMax);
}

Status send_installed(RecordChannel& control, const PageBitmap& set, PageLedger& ledger,
                      nanoseconds idle_max) {
  return send_set<wire::Installed>(control, set, ledger, idle_max, kInstalledWords);
}

Status VoidSet::take(const wire::Void& pages, PageLedger& ledger) {
  const PageLedger::Entry* entry = ledger.find(pages.region.number);
  if (entry == nullptr) return not_in_order("they are of an unknown region");
  const std::pair begin(pages.region.number, pages.first / 64);
  PageBitmap::Segment& segment = *set_.find(entry->region.id);
  if (begin < next_ || begin.second > segment.words.size() ||
      pages.words.size() > segment.words.size() - begin.second) {
    return not_in_order("they do not ascend, or lie outside their region");
  }
  std::copy(pages.words.begin(), pages.words.end(),
            segment.words.begin() + static_cast<std::ptrdiff_t>(begin.second));
  for (const std::uint64_t word : pages.words) {
    pages_ += static_cast<std::uint64_t>(std::popcount(word));
  }
  next_ = {begin.first, begin.second + pages.words.size()};
  const std::uint64_t tail = entry->region.range.count % 64;
  if (tail != 0 && (segment.words.back() >> tail) != 0) {
    return not_in_order("they lie outside their region");
  }
  return {};
}

Status VoidSet::check(const wire::VoidEnd& end) const {
  return end.pages == pages_ ? Status{} : not_in_order("not all of them came");
}

}  // namespace migrate::session
