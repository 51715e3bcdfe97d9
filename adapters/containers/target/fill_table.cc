#include "adapters/containers/target/fill_table.hpp"

#include <algorithm>

namespace migrate::containers {

bool FillTable::add(FillExtent extent) {
  if (extent.has_content()) content_bytes_ += extent.bytes();
  return extents_.push_back(extent);
}

bool FillTable::copy_from(const FillTable& other) {
  content_bytes_ = other.content_bytes_;
  early_.clear();
  if (!extents_.replace(0, extents_.size(), other.extents_.begin(), other.extents_.size()) ||
      !early_.replace(0, 0, other.early_.begin(), other.early_.size())) {
    return false;
  }
  // The kernel wipes only what is there; what the child finds missing must not be its parent's.
  for (FillExtent& extent : extents_) {
    if (!extent.wiped || !extent.has_content()) continue;
    content_bytes_ -= extent.bytes();
    extent.source = FillExtent::kNothing;
  }
  return true;
}

std::size_t FillTable::first_ending_after(std::uint64_t address) const {
  const auto* found = std::partition_point(extents_.begin(), extents_.end(),
                                           [&](const FillExtent& e) { return e.end <= address; });
  return static_cast<std::size_t>(found - extents_.begin());
}

const FillExtent* FillTable::find(std::uint64_t address) const {
  const std::size_t i = first_ending_after(address);
  return i < extents_.size() && extents_[i].begin <= address ? &extents_[i] : nullptr;
}

FillExtent FillTable::next_content(std::uint64_t from, std::uint64_t bytes_max) const {
  for (std::size_t i = first_ending_after(from); i < extents_.size(); ++i) {
    const FillExtent& extent = extents_[i];
    if (!extent.has_content()) continue;
    const std::uint64_t begin = std::max(from, extent.begin);
    return extent.part(begin, std::min(extent.end, (begin / bytes_max + 1) * bytes_max));
  }
  return {};
}

/// Puts `with` (within the range) in the place of what is in [begin, end).
bool FillTable::cut(std::uint64_t begin, std::uint64_t end, const FillExtent* with,
                    std::size_t count) {
  const std::size_t first = first_ending_after(begin);
  std::size_t last = first;
  while (last < extents_.size() && extents_[last].begin < end) {
    const FillExtent& extent = extents_[last++];
    if (!extent.has_content()) continue;
    content_bytes_ -= std::min(end, extent.end) - std::max(begin, extent.begin);
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (with[i].has_content()) content_bytes_ += with[i].bytes();
  }
  FillExtent right{};
  if (last > first && extents_[last - 1].end > end) {
    right = extents_[last - 1].part(end, extents_[last - 1].end);
  }
  std::size_t keep = first;
  if (last > first && extents_[first].begin < begin) {
    const FillExtent left = extents_[first].part(extents_[first].begin, begin);
    // The right part is safe in `right` where both are of one extent.
    if (!extents_.replace(first, first + 1, &left, 1)) return false;
    ++keep;
  }
  if (last < keep) last = keep;
  if (!extents_.replace(keep, last, with, count)) return false;
  return right.begin == right.end || extents_.replace(keep + count, keep + count, &right, 1);
}

bool FillTable::empty_out(std::uint64_t begin, std::uint64_t end) {
  // Only what it knows: between the extents there may be no memory.
  for (std::uint64_t at = begin; at < end;) {
    const std::size_t i = first_ending_after(at);
    if (i == extents_.size() || extents_[i].begin >= end) return true;
    const std::uint64_t from = std::max(at, extents_[i].begin);
    const std::uint64_t to = std::min(end, extents_[i].end);
    at = to;
    if (!extents_[i].has_content()) continue;
    // Filling goes upwards: what is done grows instead of becoming one more extent a piece.
    if (from == extents_[i].begin && i > 0 && extents_[i - 1].end == from &&
        !extents_[i - 1].has_content()) {
      const FillExtent done{extents_[i - 1].begin, to, FillExtent::kNothing};
      if (!cut(done.begin, to, &done, 1)) return false;
      continue;
    }
    const FillExtent done{from, to, FillExtent::kNothing};
    if (!cut(from, to, &done, 1)) return false;
  }
  return true;
}

bool FillTable::unmap(std::uint64_t begin, std::uint64_t end) {
  for (std::size_t i = 0; i < early_.size(); ++i) {
    const Range told = early_[i];
    if (told.begin >= end || told.end <= begin) continue;
    early_.erase(i);
    // Its own parts go to both sides of what was told before.
    return (begin >= told.begin || unmap(begin, told.begin)) &&
           (end <= told.end || unmap(told.end, end));
  }
  return cut(begin, end, nullptr, 0);
}

bool FillTable::note_early(std::uint64_t begin, std::uint64_t end) {
  Range range{0, 0};
  for (std::size_t i = first_ending_after(begin); i < extents_.size(); ++i) {
    if (extents_[i].begin >= end) break;
    const std::uint64_t from = std::max(begin, extents_[i].begin);
    const std::uint64_t to = std::min(end, extents_[i].end);
    if (range.end != from) {
      if (range.begin != range.end && !early_.push_back(range)) return false;
      range.begin = from;
    }
    range.end = to;
  }
  return range.begin == range.end || early_.push_back(range);
}

bool FillTable::move(std::uint64_t from, std::uint64_t to, std::uint64_t length) {
  RawArray<FillExtent> moved;
  for (std::size_t i = first_ending_after(from); i < extents_.size(); ++i) {
    const FillExtent& extent = extents_[i];
    if (extent.begin >= from + length) break;
    FillExtent part =
        extent.part(std::max(from, extent.begin), std::min(from + length, extent.end));
    part.begin = part.begin - from + to;
    part.end = part.end - from + to;
    if (!moved.push_back(part)) return false;
  }
  if (!cut(from, from + length, nullptr, 0) || !note_early(to, to + length)) return false;
  return cut(to, to + length, moved.begin(), moved.size());
}

}  // namespace migrate::containers
