#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/guarded.hpp"
#include "checkpoint/block_cache.hpp"
#include "checkpoint/image_chain.hpp"
#include "checkpoint/image_file.hpp"

namespace migrate::checkpoint {
namespace {

// Pages that are looked up and sorted at a time: several blocks.
constexpr std::uint64_t kWindowPages = 2048;
// Read by one call, then hashed while they are in the cache: 1 MiB of the 2 MiB that the second
// level has. Asking the kernel for a window at a time (POSIX_FADV_WILLNEED) halved the speed from
// the page cache, and gained nothing from a disk: what it reads ahead by itself is enough.
constexpr std::size_t kRunPages = 256;
// Less comes sooner with what the page cache reads ahead.
constexpr std::uint64_t kDirectBytesMin = 128 << 10;

/// A page that is wanted.
struct Wanted {
  const OpenImage* file = nullptr;
  PageLocation location;
  std::uint64_t hash = 0;
  std::uint64_t page = 0;  ///< From the region's first.
  std::byte* into = nullptr;
};

bool earlier(const Wanted& a, const Wanted& b) {
  return std::pair(a.file, a.location) < std::pair(b.file, b.location);
}

}  // namespace

class ImageReader::Impl {
 public:
  Impl(std::shared_ptr<const ImageChain> chain, BlockCache cache)
      : chain_(std::move(chain)), cache_(std::move(cache)) {}

  Status read(std::uint16_t region, std::uint64_t first, std::uint64_t count, std::byte* into) {
    while (count > 0) {
      const std::uint64_t window = std::min(count, kWindowPages - first % kWindowPages);
      MIGRATE_TRY(find(region, first, window, into));
      MIGRATE_TRY(read_wanted());
      first += window;
      count -= window;
      into += window * kPageSize;
    }
    return {};
  }

  Status read_around(std::uint16_t region, std::uint64_t page, std::uint64_t pages_max,
                     const Take& take) {
    FoundPage found;
    MIGRATE_TRY(chain_->find(region, page, std::span(&found, 1)));
    if (found.file == nullptr) return take(page, nullptr);
    const std::uint64_t others = std::max<std::uint64_t>(pages_max, 1) - 1;
    if (!found.location.is_raw()) return take_frame(region, page, found, others, take);
    return take_run(region, page, others, take);
  }

  [[nodiscard]] std::uint64_t bytes_read() const { return bytes_read_ + cache_.bytes_read(); }

 private:
  Status find(std::uint16_t region, std::uint64_t first, std::uint64_t count, std::byte* into) {
    found_.resize(count);
    MIGRATE_TRY(chain_->find(region, first, found_));
    wanted_.clear();
    for (std::uint64_t i = 0; i < count; ++i) {
      const FoundPage& page = found_[i];
      if (page.file == nullptr) continue;
      wanted_.push_back({static_cast<const OpenImage*>(page.file), page.location, page.hash,
                         first + i, into + i * kPageSize});
    }
    // As memory was written front to back, so it mostly lies in the file.
    if (!std::is_sorted(wanted_.begin(), wanted_.end(), earlier)) {
      std::sort(wanted_.begin(), wanted_.end(), earlier);
    }
    return {};
  }

  Status read_wanted() {
    std::span<const Wanted> rest = wanted_;
    while (!rest.empty()) {
      const std::size_t count = rest.front().location.is_raw() ? raw_run(rest) : frame(rest);
      const auto now = rest.first(count);
      MIGRATE_TRY(now.front().location.is_raw() ? read_raw(now) : read_frame(now));
      rest = rest.subspan(count);
    }
    return {};
  }

  /// How many of `rest` lie one behind the other in the file, or in the same place.
  static std::size_t raw_run(std::span<const Wanted> rest) {
    std::size_t count = 1;
    while (count < std::min(rest.size(), kRunPages) && rest[count].file == rest[0].file &&
           rest[count].location.is_raw() &&
           rest[count].location.value - rest[count - 1].location.value <= kPageSize) {
      ++count;
    }
    return count;
  }
  /// How many of `rest` are of one block.
  static std::size_t frame(std::span<const Wanted> rest) {
    const auto end = std::find_if(rest.begin(), rest.end(), [&](const Wanted& page) {
      return page.file != rest[0].file || page.location.is_raw() ||
             page.location.offset() != rest[0].location.offset();
    });
    return static_cast<std::size_t>(end - rest.begin());
  }

  Status check(const Wanted& page) const {
    if (chain_->digest().hash({page.into, kPageSize}) == page.hash) return {};
    return damaged(page.file->path(), page.location.offset(),
                   "the content of page " + std::to_string(page.page) +
                       (page.location.is_raw() ? "" : " in the PACKED block there") +
                       " does not have its hash");
  }

  Status read_raw(std::span<const Wanted> run) {
    std::array<iovec, kRunPages> parts;
    std::size_t count = 0;
    for (std::size_t i = 0; i < run.size(); ++i) {
      if (i > 0 && run[i].location == run[i - 1].location) continue;
      iovec* const last = count > 0 ? &parts[count - 1] : nullptr;
      if (last != nullptr &&
          static_cast<std::byte*>(last->iov_base) + last->iov_len == run[i].into) {
        last->iov_len += kPageSize;
      } else {
        parts[count++] = {run[i].into, kPageSize};
      }
    }
    MIGRATE_TRY(read_run(*run[0].file, run[0].location.offset(), {parts.data(), count}));
    for (std::size_t i = 0; i < run.size(); ++i) {
      if (i > 0 && run[i].location == run[i - 1].location) {
        std::memcpy(run[i].into, run[i - 1].into, kPageSize);
      }
      MIGRATE_TRY(check(run[i]));
    }
    return {};
  }

  /// What is not in the page cache is read past it: it would take as much memory again, and drive
  /// out what others have there.
  Status read_run(const OpenImage& file, std::uint64_t at, std::span<iovec> parts) {
    std::uint64_t bytes = 0;
    bool whole_pages = true;
    for (const iovec& part : parts) {
      bytes += part.iov_len;
      whole_pages = whole_pages && reinterpret_cast<std::uintptr_t>(part.iov_base) % kPageSize == 0;
    }
    if (bytes < kDirectBytesMin || !whole_pages || file.is_cached(at, bytes)) {
      return read_parts(file, at, parts);
    }
    const ssize_t got = ::preadv(file.direct_fd(), parts.data(), static_cast<int>(parts.size()),
                                 static_cast<off_t>(at));
    if (got < 0 || static_cast<std::uint64_t>(got) < bytes) return read_parts(file, at, parts);
    bytes_read_ += bytes;
    return {};
  }

  Status read_parts(const OpenImage& file, std::uint64_t at, std::span<iovec> parts) {
    while (!parts.empty()) {
      const ssize_t got =
          ::preadv(file.fd(), parts.data(), static_cast<int>(parts.size()), static_cast<off_t>(at));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) {
        return make_errno_error(ErrorCode::kIo, errno,
                                "cannot read " + file.path() + " at byte " + std::to_string(at))
            .advise("check the disk that it is on");
      }
      if (got == 0) return damaged(file.path(), at, "the file ends there");
      auto done = static_cast<std::size_t>(got);
      at += done;
      bytes_read_ += done;
      while (!parts.empty() && done >= parts[0].iov_len) {
        done -= parts[0].iov_len;
        parts = parts.subspan(1);
      }
      if (done > 0) {
        parts[0].iov_base = static_cast<std::byte*>(parts[0].iov_base) + done;
        parts[0].iov_len -= done;
      }
    }
    return {};
  }

  Result<const BlockCache::Block*> block_of(const OpenImage& file, PageLocation location,
                                            std::uint64_t hash) {
    MIGRATE_ASSIGN(const BlockCache::Block* block, cache_.get(file, location.offset()));
    if (location.slot() >= block->table.size() || block->table[location.slot()].hash != hash) {
      return damaged(file.path(), location.offset(),
                     "the block there is not the one that the INDEX names");
    }
    return block;
  }

  Status read_frame(std::span<const Wanted> pages) {
    for (const Wanted& page : pages) {
      MIGRATE_ASSIGN(const BlockCache::Block* block,
                     block_of(*page.file, page.location, page.hash));
      std::memcpy(page.into, block->pages.data() + page.location.slot() * kPageSize, kPageSize);
      MIGRATE_TRY(check(page));
    }
    return {};
  }

  /// The page, then the others of its frame that are still where they were put.
  Status take_frame(std::uint16_t region, std::uint64_t page, const FoundPage& found,
                    std::uint64_t others, const Take& take) {
    const auto& file = static_cast<const OpenImage&>(*found.file);
    MIGRATE_ASSIGN(const BlockCache::Block* block, block_of(file, found.location, found.hash));
    const auto give = [&](std::uint64_t number, PageLocation location,
                          std::uint64_t hash) -> Status {
      Wanted wanted{&file, location, hash, number, buffer_.data()};
      std::memcpy(wanted.into, block->pages.data() + location.slot() * kPageSize, kPageSize);
      MIGRATE_TRY(check(wanted));
      return take(number, wanted.into);
    };
    if (buffer_.size() < kPageSize) buffer_.resize(kPageSize);
    MIGRATE_TRY(give(page, found.location, found.hash));
    if (block->head.region != region) return {};
    const std::uint64_t pages = chain_->regions()[region].range.count;
    for (std::uint32_t slot = 0; slot < block->table.size() && others > 0; ++slot) {
      const TableEntry& entry = block->table[slot];
      if (entry.page == page || entry.page >= pages) continue;
      FoundPage now;
      MIGRATE_TRY(chain_->find(region, entry.page, std::span(&now, 1)));
      const auto here = PageLocation::packed(found.location.offset(), slot);
      if (now.file != found.file || now.location != here) continue;
      if (now.hash != entry.hash) {
        return damaged(file.path(), here.offset(), "the block's table contradicts the INDEX");
      }
      MIGRATE_TRY(give(entry.page, here, entry.hash));
      --others;
    }
    return {};
  }

  /// The page, then those around it that lie beside it in the file as in memory.
  Status take_run(std::uint16_t region, std::uint64_t page, std::uint64_t others,
                  const Take& take) {
    const std::uint64_t window = std::min<std::uint64_t>(others + 1, kRunPages);
    const std::uint64_t begin = page - page % window;
    const std::uint64_t count = std::min(window, chain_->regions()[region].range.count - begin);
    found_.resize(count);
    MIGRATE_TRY(chain_->find(region, begin, found_));
    const auto joined = [&](std::uint64_t i) {  // With the page before it.
      return found_[i].file == found_[i - 1].file && found_[i].location.is_raw() &&
             found_[i - 1].location.is_raw() &&
             found_[i].location.value == found_[i - 1].location.value + kPageSize;
    };
    std::uint64_t from = page - begin;
    std::uint64_t to = from + 1;
    while (from > 0 && joined(from)) --from;
    while (to < count && joined(to)) ++to;
    buffer_.resize(std::max(buffer_.size(), (to - from) * kPageSize));
    const auto& file = static_cast<const OpenImage&>(*found_[from].file);
    iovec part{buffer_.data(), (to - from) * kPageSize};
    MIGRATE_TRY(read_parts(file, found_[from].location.offset(), std::span(&part, 1)));
    const auto give = [&](std::uint64_t i) -> Status {
      const Wanted wanted{&file, found_[i].location, found_[i].hash, begin + i,
                          buffer_.data() + (i - from) * kPageSize};
      MIGRATE_TRY(check(wanted));
      return take(wanted.page, wanted.into);
    };
    MIGRATE_TRY(give(page - begin));
    for (std::uint64_t i = from; i < to; ++i) {
      if (begin + i != page) MIGRATE_TRY(give(i));
    }
    return {};
  }

  std::shared_ptr<const ImageChain> chain_;
  BlockCache cache_;
  std::vector<FoundPage> found_;
  std::vector<Wanted> wanted_;
  std::vector<std::byte> buffer_;
  std::uint64_t bytes_read_ = 0;
};

ImageReader::ImageReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ImageReader::~ImageReader() = default;

Result<std::unique_ptr<ImageReader>> ImageReader::create(std::shared_ptr<const ImageChain> chain) {
  return guarded([&]() -> Result<std::unique_ptr<ImageReader>> {
    MIGRATE_ASSIGN(BlockCache cache, BlockCache::create());
    auto impl = std::make_unique<Impl>(std::move(chain), std::move(cache));
    return std::unique_ptr<ImageReader>(new ImageReader(std::move(impl)));
  });
}

Status ImageReader::read(std::uint16_t region, std::uint64_t first, std::uint64_t count,
                         std::byte* into) {
  return guarded([&] { return impl_->read(region, first, count, into); });
}

Status ImageReader::read_around(std::uint16_t region, std::uint64_t page, std::uint64_t pages_max,
                                const Take& take) {
  return guarded([&] { return impl_->read_around(region, page, pages_max, take); });
}

std::uint64_t ImageReader::bytes_read() const { return impl_->bytes_read(); }

}  // namespace migrate::checkpoint
