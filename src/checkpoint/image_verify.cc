#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/guarded.hpp"
#include "checkpoint/block_check.hpp"
#include "checkpoint/image_chain.hpp"
#include "checkpoint/image_file.hpp"
#include "checkpoint/work_share.hpp"
#include "migrate/image.hpp"

namespace migrate {
namespace checkpoint {
namespace {

/// One file of a chain, beside its parents' indexes.
class Verifier {
 public:
  Verifier(const ImageChain& chain, unsigned threads)
      : chain_(chain), file_(static_cast<const OpenImage&>(chain.top())), threads_(threads) {}

  Status run() {
    MIGRATE_TRY(check_blocks());
    MIGRATE_TRY(chain_.state());
    return check_index();
  }
  [[nodiscard]] std::uint64_t pages() const { return stored_.size(); }

 private:
  struct Part {
    std::uint16_t region = 0;
    std::uint64_t number = 0;
  };

  Status check_blocks() {
    MIGRATE_ASSIGN(const std::vector<BlockHead> blocks, all_blocks(file_));
    std::vector<std::vector<IndexEntry>> found(blocks.size());
    MIGRATE_TRY(WorkShare::run(blocks.size(), threads_, [&](WorkShare& share) -> Status {
      MIGRATE_ASSIGN(BlockCheck check, BlockCheck::create(file_));
      while (const auto i = share.take()) {
        if (Status status = check.check(blocks[*i], found[*i]); !status) {
          share.fail(*i, status.error());
        }
      }
      return {};
    }));
    for (auto& pages : found) {
      stored_.insert(stored_.end(), pages.begin(), pages.end());
      pages = {};
    }
    indexes_ = static_cast<std::size_t>(
        std::count_if(blocks.begin(), blocks.end(),
                      [](const BlockHead& head) { return head.type == BlockType::kIndex; }));
    return {};
  }

  Status check_index() {
    std::vector<Part> parts;
    std::size_t listed = 0;
    const auto& regions = file_.directory().regions;
    for (std::uint16_t region = 0; region < regions.size(); ++region) {
      for (std::uint64_t i = 0; i < regions[region].size(); ++i) {
        parts.push_back({region, i});
        if (regions[region][i].where > Directory::kAllParent) ++listed;
      }
    }
    if (listed != indexes_) {
      return damaged(file_.path(), file_.trailer().directory_at,
                     "there is an INDEX that the DIRECTORY does not name");
    }
    MIGRATE_TRY(WorkShare::run(parts.size(), threads_, [&](WorkShare& share) -> Status {
      Sums sums;
      std::vector<FoundPage> pages;
      while (const auto i = share.take()) {
        if (Status status = check_part(parts[*i], pages, sums); !status) {
          share.fail(*i, status.error());
        }
      }
      add(sums);
      return {};
    }));
    return compare();
  }

  struct Sums {
    std::uint64_t digest = 0, zero = 0, parent = 0;
    std::vector<PageLocation> locations;
  };
  void add(const Sums& sums) {
    const MutexLock lock(mutex_);
    digest_ += sums.digest;
    zero_ += sums.zero;
    parent_ += sums.parent;
    locations_.insert(locations_.end(), sums.locations.begin(), sums.locations.end());
  }

  Status check_part(const Part& at, std::vector<FoundPage>& pages, Sums& sums) const {
    const std::uint64_t first = at.number * kPagesPerIndex;
    MIGRATE_ASSIGN(const OpenImage::Part part, file_.part(at.region, at.number));
    const std::uint64_t count = file_.part_pages(at.region, at.number);
    // That content of pages that are as in the parent is the parent's is checked on the way.
    pages.resize(count);
    MIGRATE_TRY(chain_.find(at.region, first, pages));
    for (std::uint64_t i = 0; i < count; ++i) {
      sums.digest += file_.digest().mix({at.region}, first + i, pages[i].hash);
      if (part.entries.empty()) continue;
      const IndexEntry& entry = part.entries[i];
      if (entry.location.is_zero()) ++sums.zero;
      if (entry.location.is_parent()) ++sums.parent;
      if (!entry.location.is_stored()) continue;
      MIGRATE_TRY(check_stored(entry, part.where + kBlockAlign + i * sizeof(IndexEntry)));
      sums.locations.push_back(entry.location);
    }
    if (part.where == Directory::kAllZero) sums.zero += count;
    if (part.where == Directory::kAllParent) sums.parent += count;
    return {};
  }

  Status check_stored(const IndexEntry& entry, std::uint64_t at) const {
    const auto found = std::lower_bound(
        stored_.begin(), stored_.end(), entry,
        [](const IndexEntry& a, const IndexEntry& b) { return a.location < b.location; });
    if (found != stored_.end() && *found == entry) return {};
    return damaged(file_.path(), at, "INDEX names a page that is not stored there");
  }

  Status compare() {
    const MutexLock lock(mutex_);
    std::sort(locations_.begin(), locations_.end());
    const auto distinct = static_cast<std::uint64_t>(
        std::unique(locations_.begin(), locations_.end()) - locations_.begin());
    const Directory& directory = file_.directory();
    const auto& told = directory.pages;
    if (told.stored != distinct || told.duplicate != locations_.size() - distinct ||
        told.zero != zero_ || told.parent != parent_) {
      return damaged(file_.path(), file_.trailer().directory_at,
                     "DIRECTORY counts other pages than the INDEX has");
    }
    if (directory.digest != digest_) {
      return damaged(file_.path(), file_.trailer().directory_at,
                     "the digest of all memory is not the one of its pages");
    }
    return {};
  }

  const ImageChain& chain_;
  const OpenImage& file_;
  const unsigned threads_;
  std::vector<IndexEntry> stored_;  // By location.
  std::size_t indexes_ = 0;
  Mutex mutex_;
  std::uint64_t digest_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::uint64_t zero_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::uint64_t parent_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::vector<PageLocation> locations_ MIGRATE_GUARDED_BY(mutex_);
};

Result<ImageVerification> verify(const std::string& path, const ImageSearch& search,
                                 unsigned threads) {
  MIGRATE_ASSIGN(const auto chain, ImageChain::open(path, search));
  ImageVerification verified;
  for (const auto& file : chain->files()) {
    std::shared_ptr<const ImageChain> from = chain;
    if (file != chain->files().front()) {
      MIGRATE_ASSIGN(from, ImageChain::open(file->path(), search));
    }
    Verifier verifier(*from, threads);
    MIGRATE_TRY(verifier.run());
    ++verified.files;
    verified.pages += verifier.pages();
    verified.bytes += file->trailer().file_bytes;
  }
  return verified;
}

}  // namespace
}  // namespace checkpoint

Result<ImageVerification> verify_image(const std::string& path, const ImageSearch& search,
                                       unsigned threads) {
  return guarded([&] { return checkpoint::verify(path, search, threads); });
}

}  // namespace migrate
