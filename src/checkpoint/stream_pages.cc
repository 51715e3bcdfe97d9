#include "checkpoint/stream_pages.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <unordered_set>

namespace migrate::checkpoint {
namespace {

// 256 MiB. Pages are stored twice only where a guest wrote them while it was being saved.
constexpr std::size_t kOlderPagesMax = 65536;

Error broken(std::uint64_t at, const std::string& what) {
  return make_error(ErrorCode::kIntegrity,
                    "the image is damaged at byte " + std::to_string(at) + ": " + what)
      .advise("look at what sends it, and send it again");
}

Error not_from_a_stream(const std::string& why) {
  return make_error(ErrorCode::kUnsupported, "this image cannot be read from a stream: " + why)
      .advise("write it to a file, and give its path");
}

}  // namespace

StreamPages::StreamPages(const std::vector<Region>& regions, const wire::PageDigest& digest,
                         const ImageStreamReader::Memory& memory)
    : regions_(regions), digest_(digest), memory_(memory) {}

StreamPages::Number StreamPages::latest(std::uint64_t place) const {
  const auto [region, page] = place_of(place);
  const auto part = latest_.find(packed(region, page / kPagesPerIndex));
  return part == latest_.end() ? 0 : (*part->second)[page % kPagesPerIndex];
}

Status StreamPages::keep_older(Number number) {
  if (older_.size() >= kOlderPagesMax || older_.contains(number)) return {};
  auto content = std::make_unique<Page>();
  const auto [region, page] = place_of(stored(number).place);
  MIGRATE_TRY(memory_.read(region, page, content->data()));
  older_.emplace(number, std::move(content));
  return {};
}

Status StreamPages::store(std::uint16_t region, std::uint64_t page, const IndexEntry& entry,
                          const std::byte* content) {
  if (log_.size() == std::numeric_limits<Number>::max()) {
    return not_from_a_stream("it has too many pages");
  }
  auto& part = latest_[packed(region, page / kPagesPerIndex)];
  if (!part) part = std::make_unique<Latest>(Latest{});
  Number& held = (*part)[page % kPagesPerIndex];
  if (held != 0 && stored(held).entry.hash != entry.hash) MIGRATE_TRY(keep_older(held));
  MIGRATE_TRY(memory_.write(region, page, content));
  log_.push_back({packed(region, page), entry});
  held = static_cast<Number>(log_.size());
  return {};
}

Result<StreamPages::Number> StreamPages::number_at(const IndexEntry& entry,
                                                   std::uint64_t at) const {
  const auto found = std::lower_bound(
      log_.begin(), log_.end(), entry.location,
      [](const Stored& stored, PageLocation location) { return stored.entry.location < location; });
  if (found == log_.end() || found->entry != entry) {
    return broken(at, "INDEX names a page that is not stored there");
  }
  return static_cast<Number>(found - log_.begin() + 1);
}

Status StreamPages::copy(std::uint64_t to, Number from) {
  Page content;
  const IndexEntry& entry = stored(from).entry;
  const std::uint64_t origin = stored(from).place;
  if (const auto older = older_.find(from); older != older_.end()) {
    content = *older->second;
  } else if (stored(latest(origin)).entry.hash == entry.hash) {
    const auto [region, page] = place_of(origin);
    MIGRATE_TRY(memory_.read(region, page, content.data()));
  } else {
    return not_from_a_stream("it needs too many copies of pages that later ones replaced");
  }
  if (digest_.hash(content) != entry.hash) {
    return make_error(ErrorCode::kIntegrity,
                      "memory that was read from the image has changed meanwhile");
  }
  const auto [region, page] = place_of(to);
  return memory_.write(region, page, content.data());
}

Status StreamPages::settle(std::uint64_t place, Number held, const IndexEntry& entry,
                           std::uint64_t at) {
  const PageLocation location = entry.location;
  if (location.is_zero()) {
    if (entry.hash != digest_.zero_hash()) return broken(at, "a page of zeros has another hash");
    if (held != 0) changes_.push_back({place, 0});
    return {};
  }
  if (!location.is_stored() || !location.valid()) {
    return broken(at, "a page is said to be where none can be");
  }
  if (held != 0 && stored(held).entry == entry) return {};
  MIGRATE_ASSIGN(const Number from, number_at(entry, at));
  if (held == 0) return copy(place, from);
  if (stored(held).entry.hash != entry.hash) changes_.push_back({place, from});
  return {};
}

Status StreamPages::index(const BlockHead& head, std::span<const IndexEntry> entries) {
  const std::uint64_t key = packed(head.region, head.first / kPagesPerIndex);
  if (head.region >= regions_.size()) return broken(head.offset, "INDEX of no region");
  const std::uint64_t pages = regions_[head.region].range.count;
  if (head.first >= pages || head.count != std::min(kPagesPerIndex, pages - head.first) ||
      !parts_.try_emplace(key, Directory::Part{head.offset, head.hash}).second) {
    return broken(head.offset, "this INDEX has no place in its region");
  }
  const auto part = latest_.find(key);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::uint64_t page = head.first + i;
    const Number held = part == latest_.end() ? 0 : (*part->second)[i];
    MIGRATE_TRY(settle(packed(head.region, page), held, entries[i],
                       head.offset + kBlockAlign + i * sizeof(IndexEntry)));
    sum_ += digest_.mix({head.region}, page, entries[i].hash);
  }
  return {};
}

Status StreamPages::check_parts(const Directory& directory) const {
  std::size_t listed = 0;
  for (std::uint16_t region = 0; region < directory.regions.size(); ++region) {
    const auto& parts = directory.regions[region];
    for (std::uint64_t i = 0; i < parts.size(); ++i) {
      if (parts[i].where == Directory::kAllZero) continue;
      const auto seen = parts_.find(packed(region, i));
      if (seen == parts_.end() || seen->second.where != parts[i].where ||
          seen->second.hash != parts[i].hash) {
        return broken(parts[i].where, "DIRECTORY names an INDEX that is not there");
      }
      ++listed;
    }
  }
  if (listed == parts_.size()) return {};
  return broken(directory.state_at, "there is an INDEX that the DIRECTORY does not name");
}

Status StreamPages::zero_what_is_left(const Directory& directory) {
  for (const auto& [key, latest] : latest_) {
    const auto [region, part] = place_of(key);
    if (directory.regions[region][part].where != Directory::kAllZero) continue;
    for (std::size_t i = 0; i < latest->size(); ++i) {
      if ((*latest)[i] != 0) changes_.push_back({packed(region, part * kPagesPerIndex + i), 0});
    }
  }
  return {};
}

Status StreamPages::apply_changes() {
  std::unordered_set<std::uint64_t> changing;
  for (const Change& change : changes_) changing.insert(change.place);
  for (const Change& change : changes_) {
    if (change.from == 0) continue;
    const std::uint64_t origin = stored(change.from).place;
    // What is in memory there is about to go.
    if (changing.contains(origin) &&
        stored(latest(origin)).entry.hash == stored(change.from).entry.hash) {
      MIGRATE_TRY(keep_older(change.from));
      if (!older_.contains(change.from)) {
        return not_from_a_stream("it needs too many copies of pages that later ones replaced");
      }
    }
  }
  for (const Change& change : changes_) {
    const auto [region, page] = place_of(change.place);
    MIGRATE_TRY(change.from == 0 ? memory_.zero(region, page) : copy(change.place, change.from));
  }
  return {};
}

Status StreamPages::finish(const Directory& directory) {
  MIGRATE_TRY(check_parts(directory));
  MIGRATE_TRY(zero_what_is_left(directory));
  MIGRATE_TRY(apply_changes());
  if (sum_ == directory.digest) return {};
  return make_error(ErrorCode::kIntegrity,
                    "the digest of the image's memory is not the one that it says")
      .advise("take another copy of it, or an older checkpoint");
}

}  // namespace migrate::checkpoint
