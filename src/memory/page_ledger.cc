#include "memory/page_ledger.hpp"

#include <algorithm>
#include <exception>

namespace migrate {
namespace {

bool overlap(const PageRange& a, const PageRange& b) {
  return a.first < b.end() && b.first < a.end();
}

}  // namespace

Status PageLedger::add(std::uint32_t handle, const Region& region) {
  if (handle < next_handle_) {
    return make_error(ErrorCode::kProtocol, "region handle " + std::to_string(handle) +
                                                " was used before in this session");
  }
  if (region.range.empty()) {
    return make_error(ErrorCode::kProtocol, "region " + to_text(region.id) + " has no pages");
  }
  for (const auto& entry : entries_) {
    const bool same_place =
        entry->region.id.space == region.id.space && overlap(entry->region.range, region.range);
    if (entry->region.id == region.id || same_place) {
      return make_error(
          ErrorCode::kProtocol,
          "region " + to_text(region.id) + " collides with region " + to_text(entry->region.id));
    }
  }
  auto entry = std::make_unique<Entry>();
  entry->handle = handle;
  entry->region = region;
  try {
    entry->hashes.assign(static_cast<std::size_t>(region.range.count), zero_hash_);
  } catch (const std::exception&) {  // bad_alloc, or longer than any vector.
    return make_error(ErrorCode::kNoMemory, "there is no memory for the page hashes of region " +
                                                to_text(region.id) + ", which has " +
                                                std::to_string(region.range.count) + " pages")
        .advise("free memory (8 bytes a page of the guest), or choose another target");
  }
  entries_.push_back(std::move(entry));
  next_handle_ = handle + 1;
  return {};
}

Status PageLedger::remove(std::uint32_t handle) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const auto& entry) { return entry->handle == handle; });
  if (found == entries_.end()) {
    return make_error(ErrorCode::kProtocol,
                      "region handle " + std::to_string(handle) + " is not known");
  }
  entries_.erase(found);
  return {};
}

PageLedger::Entry* PageLedger::find(std::uint32_t handle) {
  const auto found = std::lower_bound(
      entries_.begin(), entries_.end(), handle,
      [](const auto& entry, std::uint32_t wanted) { return entry->handle < wanted; });
  return found != entries_.end() && (*found)->handle == handle ? found->get() : nullptr;
}

PageLedger::Entry* PageLedger::find(const RegionId& region) {
  for (const auto& entry : entries_) {
    if (entry->region.id == region) return entry.get();
  }
  return nullptr;
}

std::uint64_t PageLedger::pages() const {
  std::uint64_t pages = 0;
  for (const auto& entry : entries_) pages += entry->region.range.count;
  return pages;
}

std::vector<Region> PageLedger::regions() const {
  std::vector<Region> regions;
  regions.reserve(entries_.size());
  for (const auto& entry : entries_) regions.push_back(entry->region);
  return regions;
}

std::string page_text(const PageLedger::Entry& entry, std::uint64_t page) {
  return "page " + std::to_string(entry.region.range.first.number + page) + " of region " +
         to_text(entry.region.id);
}

}  // namespace migrate
