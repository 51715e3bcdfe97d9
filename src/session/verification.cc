#include "session/verification.hpp"

#include <algorithm>
#include <random>
#include <vector>

#include "memory/zero_page.hpp"

namespace migrate::session {
namespace {

// 1 MiB at a time stays in the cache between copying and hashing.
constexpr std::uint64_t kChunkPages = 256;

std::uint64_t hash_of(const wire::PageDigest& digest, const std::byte* page) {
  return is_zero_page(page) ? digest.zero_hash() : digest.hash({page, kPageSize});
}

bool is_hole(const PageBitmap* holes, const Region& region, std::uint64_t page) {
  return holes != nullptr && holes->find(region.id) != nullptr &&
         holes->test(region.id, region.range.first + page);
}

/// Adds the pages [first, first + count) of one region.
Result<std::uint64_t> chunk_digest(const PageLedger::Entry& entry, std::uint64_t first,
                                   std::uint64_t count, const wire::PageDigest& digest,
                                   const ReadPages& read, std::span<std::byte> buffer) {
  const PageRange range{entry.region.range.first + first, count};
  MIGRATE_ASSIGN(const bool there, read(entry.region.id, range, buffer.first(range.bytes())));
  if (!there) return std::uint64_t{0};
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    sum += digest.mix(wire::RegionHandle{entry.handle}, first + i,
                      hash_of(digest, buffer.data() + i * kPageSize));
  }
  return sum;
}

}  // namespace

Result<std::uint64_t> full_digest(const PageLedger& ledger, const wire::PageDigest& digest,
                                  const ReadPages& read, const PageBitmap* holes) {
  std::vector<std::byte> buffer(kChunkPages * kPageSize);
  std::uint64_t sum = 0;
  for (const auto& entry : ledger.entries()) {
    for (std::uint64_t page = 0; page < entry->region.range.count;) {
      if (is_hole(holes, entry->region, page)) {
        ++page;
        continue;
      }
      std::uint64_t count = 1;
      const std::uint64_t limit = std::min(kChunkPages, entry->region.range.count - page);
      while (count < limit && !is_hole(holes, entry->region, page + count)) ++count;
      MIGRATE_ASSIGN(const std::uint64_t part,
                     chunk_digest(*entry, page, count, digest, read, buffer));
      sum += part;
      page += count;
    }
  }
  return sum;
}

Status find_changed(const PageLedger& ledger, const wire::PageDigest& digest, const ReadPages& read,
                    PageBitmap& changed) {
  std::vector<std::byte> buffer(kChunkPages * kPageSize);
  for (const auto& entry : ledger.entries()) {
    const Region& region = entry->region;
    for (std::uint64_t page = 0; page < region.range.count; page += kChunkPages) {
      const std::uint64_t count = std::min(kChunkPages, region.range.count - page);
      const PageRange range{region.range.first + page, count};
      MIGRATE_ASSIGN(const bool there,
                     read(region.id, range, std::span(buffer).first(range.bytes())));
      if (!there) continue;
      for (std::uint64_t i = 0; i < count; ++i) {
        if (hash_of(digest, buffer.data() + i * kPageSize) == entry->hashes[page + i]) continue;
        changed.set(region.id, range.first + i);
      }
    }
  }
  return {};
}

Result<std::uint64_t> sample_pages(const PageLedger& ledger, const wire::PageDigest& digest,
                                   const ReadPages& read, const PageBitmap* holes,
                                   std::uint64_t pages_max, const std::function<bool()>& stop) {
  const std::uint64_t total = ledger.pages();
  if (total == 0) return std::uint64_t{0};
  std::mt19937_64 random(std::random_device{}());
  std::vector<std::byte> buffer(kPageSize);
  std::uint64_t done = 0;
  for (; done < pages_max && !stop(); ++done) {
    std::uint64_t page = random() % total;
    auto entry = ledger.entries().begin();
    while (page >= (*entry)->region.range.count) page -= (*entry++)->region.range.count;
    const Region& region = (*entry)->region;
    if (is_hole(holes, region, page)) continue;
    MIGRATE_ASSIGN(const bool there, read(region.id, {region.range.first + page, 1}, buffer));
    if (!there || hash_of(digest, buffer.data()) == (*entry)->hashes[page]) continue;
    return make_error(ErrorCode::kIntegrity,
                      "page " + std::to_string(region.range.first.number + page) + " of region " +
                          to_text(region.id) +
                          " changed without being in the dirty log: the tracker missed a write")
        .advise("the guest goes on here; report the tracker and kernel, or use another tracker");
  }
  return done;
}

}  // namespace migrate::session
