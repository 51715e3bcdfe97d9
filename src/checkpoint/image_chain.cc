#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "base/guarded.hpp"
#include "checkpoint/image_chain.hpp"
#include "checkpoint/image_file.hpp"
#include "checkpoint/page_places.hpp"

namespace migrate::checkpoint {
namespace {

// A series merges once in some dozens of images: a second time is a rare one's, and only somebody
// who replaces files all the time comes to the last.
constexpr unsigned kAgainMax = 100;

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
  const GuestDescription& of_child = child.description().guest;
  const GuestDescription& of_parent = parent.description().guest;
  if (child.header().secret == parent.header().secret &&
      (may_change_layout(of_child.kind, of_parent.kind) ||
       same_places(of_child.regions, of_parent.regions))) {
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
      if (!levels_.empty()) MIGRATE_TRY(check_link(*levels_.back().image, child));
      levels_.push_back({image.get(), {}});
      const std::vector<Region>& regions = child.description().guest.regions;
      if (!same_places(top().description().guest.regions, regions)) {
        levels_.back().places.emplace(regions);
        same_layout_ = false;
      }
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
  [[nodiscard]] const OpenImage& top() const { return *levels_.front().image; }
  [[nodiscard]] bool same_layout() const { return same_layout_; }

  /// Pages of one part of the index, or some of it.
  Status find(std::uint16_t region, std::uint64_t first, std::span<FoundPage> into) const {
    for (FoundPage& page : into) page = {nullptr, PageLocation::parent(), kUnknown};
    for (const Level& level : levels_) {
      MIGRATE_TRY(level.places ? find_by_address(level, region, first, into)
                               : find_in(*level.image, {region, first}, first, into));
      if (std::ranges::none_of(into,
                               [](const FoundPage& page) { return page.location.is_parent(); }))
        return {};
    }
    // A full image has no page that is its parent's: its index and directory would be refused.
    return {};
  }

  /// The same, where all images have the same layout.
  Status hashes(std::uint16_t region, std::uint64_t first, std::span<std::uint64_t> into) const {
    const std::uint64_t skip = first % kPagesPerIndex;
    for (const Level& level : levels_) {
      MIGRATE_ASSIGN(const OpenImage::Part found,
                     level.image->part(region, first / kPagesPerIndex));
      if (found.where == Directory::kAllParent) continue;
      if (found.entries.empty()) {
        std::fill(into.begin(), into.end(), level.image->digest().zero_hash());
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
  struct Level {
    const OpenImage* image = nullptr;
    std::optional<PagePlaces> places;  // Where its layout is not the image's own.
  };
  /// In one file's index.
  struct Place {
    std::uint16_t region = 0;
    std::uint64_t first = 0;
  };

  /// Those that are still to be found, in a level with another layout.
  Status find_by_address(const Level& level, std::uint16_t region, std::uint64_t first,
                         std::span<FoundPage> into) const {
    return for_each_place(
        *level.places, top().description().guest.regions[region], first, into.size(),
        [&](std::uint64_t skip, const PagePlaces::Run& run) -> Status {
          return find_in_run(level, run, {region, first + skip}, into.subspan(skip, run.count));
        });
  }

  Status find_in_run(const Level& level, const PagePlaces::Run& run, const Place& at,
                     std::span<FoundPage> into) const {
    if (!run.region) {
      const auto open = std::ranges::find_if(
          into, [](const FoundPage& page) { return page.location.is_parent(); });
      if (open == into.end()) return {};
      const auto page = at.first + static_cast<std::uint64_t>(open - into.begin());
      return make_error(ErrorCode::kIntegrity, level.image->path() + " has not got page " +
                                                   std::to_string(page) + " of region " +
                                                   std::to_string(at.region) +
                                                   " of the image that is based on it")
          .advise("take another copy of it, or an older checkpoint");
    }
    for (std::uint64_t done = 0; done < run.count;) {
      const std::uint64_t first = run.first + done;
      const std::uint64_t count =
          std::min(run.count - done, kPagesPerIndex - first % kPagesPerIndex);
      MIGRATE_TRY(
          find_in(*level.image, {*run.region, first}, at.first + done, into.subspan(done, count)));
      done += count;
    }
    return {};
  }

  /// Those that are still to be found, in a part of a file's index. `page_number`: the first one,
  /// as the image itself counts it.
  Status find_in(const OpenImage& file, const Place& at, std::uint64_t page_number,
                 std::span<FoundPage> into) const {
    const std::uint64_t skip = at.first % kPagesPerIndex;
    MIGRATE_ASSIGN(const OpenImage::Part found, file.part(at.region, at.first / kPagesPerIndex));
    if (found.where == Directory::kAllParent) return {};
    for (std::size_t i = 0; i < into.size(); ++i) {
      FoundPage& page = into[i];
      if (!page.location.is_parent()) continue;
      const IndexEntry entry = found.entries.empty()
                                   ? IndexEntry{PageLocation::zero(), file.digest().zero_hash()}
                                   : found.entries[skip + i];
      if (page.hash != kUnknown && page.hash != entry.hash) {
        return make_error(ErrorCode::kIntegrity, file.path() + " has another content of page " +
                                                     std::to_string(page_number + i) +
                                                     " of region " + std::to_string(at.region) +
                                                     " than its successor says")
            .advise("take another copy of it, or an older checkpoint");
      }
      page = {entry.location.is_stored() ? &file : nullptr, entry.location, entry.hash};
    }
    return {};
  }

  std::vector<std::unique_ptr<ImageFile>> files_;
  std::vector<Level> levels_;  // The same.
  bool same_layout_ = true;
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
    std::vector<FoundPage> found;
    return by_parts(first, into, [&](std::uint64_t from, std::span<std::uint64_t> part) -> Status {
      if (impl_->same_layout()) return impl_->hashes(region, from, part);
      found.resize(part.size());
      MIGRATE_TRY(impl_->find(region, from, found));
      std::ranges::transform(found, part.begin(), &FoundPage::hash);
      return {};
    });
  });
}

}  // namespace migrate::checkpoint
