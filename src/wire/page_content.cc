#include "wire/page_content.hpp"

#include <string>
#include <utility>

#include "wire/codec.hpp"

namespace migrate::wire {
namespace {

Error patch_error(std::size_t byte, std::string what) {
  return make_error(ErrorCode::kIntegrity, "invalid content of a PAGES record, byte " +
                                               std::to_string(byte) +
                                               " of its patches: " + std::move(what))
      .advise("check the network path, then send again; if it happens twice, please report it");
}

bool has_patch(PageEncoding encoding) {
  return encoding == PageEncoding::kDelta || encoding == PageEncoding::kDuplicate;
}

PageReference load_reference(std::span<const std::byte> patch) {
  return {RegionHandle{load_u32(patch.data())}, load_u64(patch.data() + 4)};
}

Status check_patch(const PageTableView& table, const PageEntry& entry, std::size_t byte,
                   std::span<const std::byte> patch) {
  if (entry.encoding == PageEncoding::kDelta) {
    if (!patch.empty() && patch.size() <= kDeltaBytesMax) return {};
    return patch_error(byte, "a delta of " + std::to_string(patch.size()) + " bytes");
  }
  if (patch.size() != kDuplicateBytes) {
    return patch_error(byte, "a duplicate of " + std::to_string(patch.size()) + " bytes");
  }
  const PageReference original = load_reference(patch);
  const bool here = original.region == table.region() && table.has(original.page);
  if (here || original.page >= kPageNumberMax) {
    return patch_error(byte + kPatchLengthBytes + 4,
                       "page " + std::to_string(entry.first) + " as a duplicate of page " +
                           std::to_string(original.page) +
                           (here ? ", which is in the same batch" : ", which no region has"));
  }
  return {};
}

}  // namespace

Result<BatchContent> decode_content(const PageTableView& table, std::span<const std::byte> raw,
                                    std::span<const std::byte> patches) {
  MIGRATE_CHECK(raw.empty() || raw.size() == table.raw_bytes());
  std::size_t at = 0;
  for (std::size_t i = 0; i < table.size() && table.has_patches(); ++i) {
    const PageEntry entry = table[i];
    if (!has_patch(entry.encoding)) continue;
    if (patches.size() - at < kPatchLengthBytes) return patch_error(at, "a patch is missing");
    const std::size_t length = load_u16(patches.data() + at);
    if (patches.size() - at - kPatchLengthBytes < length) {
      return patch_error(at, "a patch of " + std::to_string(length) + " bytes is cut short");
    }
    MIGRATE_TRY(check_patch(table, entry, at, patches.subspan(at + kPatchLengthBytes, length)));
    at += kPatchLengthBytes + length;
  }
  if (at != patches.size()) return patch_error(at, "bytes are left over");
  return BatchContent(table, raw, patches);
}

bool BatchContent::next(PageContent& page) {
  if (index_ == table_.size()) return false;
  page = {table_[index_++], {}, {}};
  if (page.entry.encoding == PageEncoding::kRaw && !raw_.empty()) {
    page.bytes = raw_.first(kPageSize);
    raw_ = raw_.subspan(kPageSize);
  } else if (has_patch(page.entry.encoding)) {
    const std::size_t length = load_u16(patches_.data());
    const auto patch = patches_.subspan(kPatchLengthBytes, length);
    patches_ = patches_.subspan(kPatchLengthBytes + length);
    if (page.entry.encoding == PageEncoding::kDelta) {
      page.bytes = patch;
    } else {
      page.original = load_reference(patch);
    }
  }
  return true;
}

}  // namespace migrate::wire
