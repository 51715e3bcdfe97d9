#include "adapters/kvm/guest_memory.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "adapters/kvm/zeroing.hpp"

namespace migrate::kvm {
namespace {

Status check_length(PageRange range, std::size_t bytes) {
  if (bytes == range.bytes()) return {};
  return make_error(ErrorCode::kInvalidArgument, std::to_string(bytes) + " bytes given for " +
                                                     std::to_string(range.count) + " pages");
}

}  // namespace

const KvmMemorySlot* SlotTable::find(const RegionId& region) const {
  for (const KvmMemorySlot& slot : slots_) {
    if (region_of(slot).id == region) return &slot;
  }
  return nullptr;
}

std::vector<Region> SlotTable::regions() const {
  std::vector<Region> regions;
  for (const KvmMemorySlot& slot : slots_) regions.push_back(region_of(slot));
  return regions;
}

Result<std::span<std::byte>> SlotTable::memory(const RegionId& region, PageRange range) const {
  const KvmMemorySlot* slot = find(region);
  if (slot == nullptr || !region_of(*slot).range.contains(range)) {
    return make_error(ErrorCode::kInvalidArgument, "pages " + std::to_string(range.first.number) +
                                                       " to " + std::to_string(range.end().number) +
                                                       " are not in region " + to_text(region));
  }
  std::byte* first = slot->host + (range.first - slot->guest_address.page()) * kPageSize;
  return std::span<std::byte>(first, range.bytes());
}

std::span<std::byte> SlotTable::whole(const RegionId& region) const {
  const KvmMemorySlot* slot = find(region);
  if (slot == nullptr) return {};
  return {slot->host, slot->bytes};
}

Result<ReadOutcome> KvmPageSource::read(const RegionId& region, PageRange range,
                                        std::span<std::byte> into) {
  MIGRATE_TRY(check_length(range, into.size()));
  MIGRATE_ASSIGN(const auto from, table_.memory(region, range));
  std::memcpy(into.data(), from.data(), from.size());
  return ReadOutcome::kRead;
}

std::span<const std::byte> KvmPageSource::mapped(const RegionId& region) {
  return table_.whole(region);
}

Status KvmPageSource::holes(const RegionId& region, PageBitmap& holes) {
  const KvmMemorySlot* slot = table_.find(region);
  if (slot == nullptr) {
    return make_error(ErrorCode::kInvalidArgument, "there is no region " + to_text(region));
  }
  return find_holes(*slot, holes);
}

Status KvmPageSource::release(const RegionId& region, PageRange range) {
  MIGRATE_TRY(table_.memory(region, range));
  return release_.release(*table_.find(region), range);
}

Status KvmPageSink::update_regions(const RegionDelta& delta) {
  const std::vector<Region> have = table_.regions();
  const bool known = std::all_of(delta.added.begin(), delta.added.end(), [&](const Region& region) {
    return std::any_of(have.begin(), have.end(), [&](const Region& other) {
      return other.id == region.id && other.range == region.range;
    });
  });
  if (known && delta.removed.empty()) return {};
  return make_error(ErrorCode::kUnsupported,
                    "the guest's memory slots changed during the migration")
      .advise("plug and unplug memory before or after it");
}

Status KvmPageSink::write(const RegionId& region, PageRange range,
                          std::span<const std::byte> bytes) {
  MIGRATE_TRY(check_length(range, bytes.size()));
  MIGRATE_ASSIGN(const auto into, table_.memory(region, range));
  std::memcpy(into.data(), bytes.data(), bytes.size());
  return {};
}

Status KvmPageSink::zero(const RegionId& region, PageRange range) {
  MIGRATE_TRY(table_.memory(region, range));
  return zero_pages(*table_.find(region), range);
}

Status KvmPageSink::read(const RegionId& region, PageRange range, std::span<std::byte> into) {
  MIGRATE_TRY(check_length(range, into.size()));
  MIGRATE_ASSIGN(const auto from, table_.memory(region, range));
  std::memcpy(into.data(), from.data(), from.size());
  return {};
}

}  // namespace migrate::kvm
