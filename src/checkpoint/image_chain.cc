#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "base/guarded.hpp"
#include "checkpoint/image_chain.hpp"
#include "checkpoint/image_file.hpp"

namespace migrate::checkpoint {
namespace {

// A series merges once in some dozens of images: a second time is a rare one's, and only somebody
// who replaces files all the time comes to the last.
constexpr unsigned kAgainMax = 100;

/// Where the pages are, whatever the host of each backed them with.
bool same_places(const std::vector<Region>& a, const std::vector<Region>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Region& x, const Region& y) {
    return x.id.space == y.id.space && x.id.id == y.id.id && x.range == y.range;
  });
}

/// Finds the files that images name as their parents.
class ParentSearch {
 public:
  explicit ParentSearch(const ImageSearch& search) : given_(search.parents) {}

  Result<std::unique_ptr<OpenImage>> parent_of(const OpenImage& child) {
    const ImageId& wanted = child.header().parent;
    MIGRATE_ASSIGN(std::unique_ptr<OpenImage> image, among_given(wanted));
    if (image) return image;
    std::string other = tried_;
    std::string missing;
    for (const std::string& path : places(child)) {
      auto found = OpenImage::open(path);
      if (found && (*found)->header().id == wanted) return found;
      if (found) {
        other += (other.empty() ? "" : ", ") + described(**found);
      } else if (found.error().code == ErrorCode::kNotFound) {
        missing += (missing.empty() ? "" : ", ") + path;
      } else {
        return found.error();
      }
    }
    const std::string needs = child.path() + " needs its parent, image " + to_text(wanted);
    if (!other.empty()) {
      return make_error(ErrorCode::kIncompatible, needs + ", but found " + other)
          .advise("name the parent's file: --parent FILE");
    }
    return make_error(ErrorCode::kNotFound, needs + ", which is not at " + missing)
        .advise("name the parent's file: --parent FILE");
  }

 private:
  static std::string described(const OpenImage& image) {
    return image.path() + ", which is image " + to_text(image.header().id);
  }

  /// nullptr when it is not among them.
  Result<std::unique_ptr<OpenImage>> among_given(const ImageId& wanted) {
    if (!opened_) {
      for (const std::string& path : given_) {
        MIGRATE_ASSIGN(auto image, OpenImage::open(path));
        tried_ += (tried_.empty() ? "" : ", ") + described(*image);
        images_.push_back(std::move(image));
      }
      opened_ = true;
    }
    const auto at = std::find_if(images_.begin(), images_.end(), [&](const auto& image) {
      return image && image->header().id == wanted;
    });
    if (at == images_.end()) return std::unique_ptr<OpenImage>();
    return std::move(*at);
  }

  static std::vector<std::string> places(const OpenImage& child) {
    const std::filesystem::path folder = std::filesystem::path(child.path()).parent_path();
    const std::filesystem::path hint(child.description().parent_path);
    if (hint.empty()) return {};
    std::vector<std::string> paths{(folder / hint).string()};
    if (std::string last = (folder / hint.filename()).string(); last != paths.front()) {
      paths.push_back(std::move(last));
    }
    return paths;
  }

  const std::vector<std::string>& given_;
  std::vector<std::unique_ptr<OpenImage>> images_;
  bool opened_ = false;
  std::string tried_;
};

Status check_link(const OpenImage& child, const OpenImage& parent) {
  if (child.header().secret == parent.header().secret &&
      same_places(child.description().guest.regions, parent.description().guest.regions)) {
    return {};
  }
  return make_error(ErrorCode::kIncompatible,
                    child.path() + " and its parent " + parent.path() +
                        " are not images of the same guest: their regions or secrets differ")
      .advise("name the parent's file: --parent FILE");
}

}  // namespace

class ImageChain::Impl {
 public:
  Status open(const std::string& path, const ImageSearch& search) {
    MIGRATE_ASSIGN(auto image, OpenImage::open(path));
    ParentSearch parents(search);
    std::set<ImageId> ids;
    for (;;) {
      const OpenImage& child = *image;
      if (!ids.insert(child.header().id).second) {
        return damaged(child.path(), 0, "the chain of its parents comes back to it");
      }
      if (!levels_.empty()) MIGRATE_TRY(check_link(*levels_.back(), child));
      levels_.push_back(image.get());
      files_.push_back(std::move(image));
      if (!child.header().incremental()) return {};
      if (files_.size() == kChainMax) {
        return make_error(ErrorCode::kUnsupported,
                          path + " has more than 1023 parents, one after the other")
            .advise("make an older one a full image: migrate image flatten");
      }
      MIGRATE_ASSIGN(image, parents.parent_of(child));
    }
  }

  /// Whether the place of one of its files is another's by now.
  [[nodiscard]] bool replaced() const {
    return std::any_of(files_.begin(), files_.end(), [](const auto& file) {
      struct stat held {
      }, named{};
      return ::fstat(file->fd(), &held) == 0 && ::stat(file->path().c_str(), &named) == 0 &&
             (held.st_dev != named.st_dev || held.st_ino != named.st_ino);
    });
  }

  [[nodiscard]] const std::vector<std::unique_ptr<ImageFile>>& files() const { return files_; }
  [[nodiscard]] const OpenImage& top() const { return *levels_.front(); }

  /// Pages of one part of the index, or some of it.
  Status find(std::uint16_t region, std::uint64_t first, std::span<FoundPage> into) const {
    const std::uint64_t part = first / kPagesPerIndex;
    const std::uint64_t skip = first % kPagesPerIndex;
    for (FoundPage& page : into) page = {nullptr, PageLocation::parent(), kUnknown};
    for (const OpenImage* file : levels_) {
      MIGRATE_ASSIGN(const OpenImage::Part found, file->part(region, part));
      if (found.where == Directory::kAllParent) continue;
      bool open = false;
      for (std::size_t i = 0; i < into.size(); ++i) {
        FoundPage& page = into[i];
        if (!page.location.is_parent()) continue;
        const IndexEntry entry = found.entries.empty()
                                     ? IndexEntry{PageLocation::zero(), file->digest().zero_hash()}
                                     : found.entries[skip + i];
        if (page.hash != kUnknown && page.hash != entry.hash) {
          return make_error(ErrorCode::kIntegrity, file->path() + " has another content of page " +
                                                       std::to_string(first + i) + " of region " +
                                                       std::to_string(region) +
                                                       " than its successor says")
              .advise("take another copy of it, or an older checkpoint");
        }
        page = {entry.location.is_stored() ? file : nullptr, entry.location, entry.hash};
        open = open || entry.location.is_parent();
      }
      if (!open) return {};
    }
    // A full image has no page that is its parent's: its index and directory would be refused.
    return {};
  }

  Status hashes(std::uint16_t region, std::uint64_t first, std::span<std::uint64_t> into) const {
    const std::uint64_t skip = first % kPagesPerIndex;
    for (const OpenImage* file : levels_) {
      MIGRATE_ASSIGN(const OpenImage::Part found, file->part(region, first / kPagesPerIndex));
      if (found.where == Directory::kAllParent) continue;
      if (found.entries.empty()) {
        std::fill(into.begin(), into.end(), file->digest().zero_hash());
      } else {
        std::transform(found.entries.begin() + static_cast<std::ptrdiff_t>(skip),
                       found.entries.begin() + static_cast<std::ptrdiff_t>(skip + into.size()),
                       into.begin(), [](const IndexEntry& entry) { return entry.hash; });
      }
      return {};
    }
    return {};
  }

 private:
  static constexpr std::uint64_t kUnknown = wire::PageDigest::kVoid;
  std::vector<std::unique_ptr<ImageFile>> files_;
  std::vector<const OpenImage*> levels_;  // The same.
};

namespace {

/// Calls `each(first, part of into)` for the parts of the index that [first, ...) touches.
template <typename T, typename Each>
Status by_parts(std::uint64_t first, std::span<T> into, Each&& each) {
  while (!into.empty()) {
    const std::uint64_t count =
        std::min<std::uint64_t>(into.size(), kPagesPerIndex - first % kPagesPerIndex);
    MIGRATE_TRY(each(first, into.first(count)));
    into = into.subspan(count);
    first += count;
  }
  return {};
}

void check_range(const std::vector<Region>& regions, std::uint16_t region, std::uint64_t first,
                 std::uint64_t count) {
  MIGRATE_CHECK(region < regions.size());
  const std::uint64_t pages = regions[region].range.count;
  MIGRATE_CHECK(first <= pages && count <= pages - first);
}

}  // namespace

ImageChain::ImageChain(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ImageChain::~ImageChain() = default;

Result<std::shared_ptr<const ImageChain>> ImageChain::open(const std::string& path,
                                                           const ImageSearch& search) {
  return guarded([&]() -> Result<std::shared_ptr<const ImageChain>> {
    for (unsigned again = 0;; ++again) {
      auto impl = std::make_unique<Impl>();
      const Status opened = impl->open(path, search);
      if (opened) return std::shared_ptr<const ImageChain>(new ImageChain(std::move(impl)));
      // A series puts a merged image in the place of one that was read here already, and removes
      // the parents that only the former one needs.
      const bool gone = opened.error().code == ErrorCode::kNotFound;
      if (!gone || again == kAgainMax || !impl->replaced()) return opened.error();
    }
  });
}

std::span<const std::unique_ptr<ImageFile>> ImageChain::files() const { return impl_->files(); }
const wire::PageDigest& ImageChain::digest() const { return impl_->top().digest(); }

Result<std::vector<Section>> ImageChain::state() const {
  return guarded([&] { return impl_->top().state(); });
}

Status ImageChain::find(std::uint16_t region, std::uint64_t first,
                        std::span<FoundPage> into) const {
  check_range(regions(), region, first, into.size());
  return guarded([&] {
    return by_parts(first, into, [&](std::uint64_t from, std::span<FoundPage> part) {
      return impl_->find(region, from, part);
    });
  });
}

Status ImageChain::hashes(std::uint16_t region, std::uint64_t first,
                          std::span<std::uint64_t> into) const {
  check_range(regions(), region, first, into.size());
  return guarded([&] {
    return by_parts(first, into, [&](std::uint64_t from, std::span<std::uint64_t> part) {
      return impl_->hashes(region, from, part);
    });
  });
}

}  // namespace migrate::checkpoint
