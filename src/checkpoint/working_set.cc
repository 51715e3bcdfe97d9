#include "checkpoint/working_set.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/guarded.hpp"
#include "checkpoint/image_file.hpp"
#include "checkpoint/image_output.hpp"
#include "wire/codec.hpp"

namespace migrate::checkpoint {
namespace {

constexpr std::uint32_t kMagic = 0x5453574d;  // "MWST"
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kEntryBytes = 24;
constexpr std::size_t kHeadHashAt = 56;
/// Written at a time.
constexpr std::size_t kPieceBytes = 1u << 20;

using wire::load_u32;
using wire::load_u64;
using wire::store_u32;
using wire::store_u64;

struct Head {
  ImageId image;
  std::uint64_t entries = 0, stored = 0, table_hash = 0;
  [[nodiscard]] std::uint64_t table_bytes() const { return entries * kEntryBytes; }
  [[nodiscard]] std::uint64_t content_at() const { return kBlockAlign + aligned_up(table_bytes()); }
  [[nodiscard]] std::uint64_t file_bytes() const { return content_at() + stored * kPageSize; }
};

std::vector<std::byte> head_block(const Head& head, const wire::Hasher& hasher) {
  std::vector<std::byte> block(kBlockAlign);
  store_u32(block.data(), kMagic);
  store_u32(block.data() + 4, kVersion);
  std::memcpy(block.data() + 8, head.image.bytes.data(), head.image.bytes.size());
  store_u64(block.data() + 24, head.entries);
  store_u64(block.data() + 32, head.stored);
  store_u64(block.data() + 40, head.content_at());
  store_u64(block.data() + 48, head.table_hash);
  store_u64(block.data() + kHeadHashAt, hasher.hash(std::span(block).first(kHeadHashAt)));
  return block;
}

/// Bytes one after the other into an output.
class Appender {
 public:
  explicit Appender(ImageOutput& output, ImageOutput::Lane& lane) : output_(output), lane_(lane) {}
  Status append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      if (room_.empty()) {
        MIGRATE_ASSIGN(room_, lane_.buffer(kPieceBytes));
        room_ = room_.first(kPieceBytes);
      }
      const std::size_t step = std::min(bytes.size(), room_.size() - filled_);
      std::memcpy(room_.data() + filled_, bytes.data(), step);
      filled_ += step;
      bytes = bytes.subspan(step);
      if (filled_ == room_.size()) MIGRATE_TRY(write());
    }
    return {};
  }
  /// What has been appended ends on a multiple of 4096.
  Status align() {
    if (filled_ % kBlockAlign == 0) return {};
    static constexpr std::byte kZeros[kBlockAlign] = {};
    return append(std::span(kZeros).first(kBlockAlign - filled_ % kBlockAlign));
  }
  Status finish() {
    MIGRATE_TRY(align());
    if (filled_ > 0) MIGRATE_TRY(write());
    return lane_.flush();
  }

 private:
  Status write() {
    const std::size_t bytes = std::exchange(filled_, 0);
    room_ = {};
    return lane_.write(output_.reserve(bytes), bytes);
  }
  ImageOutput& output_;
  ImageOutput::Lane& lane_;
  std::span<std::byte> room_;
  std::size_t filled_ = 0;
};

}  // namespace

Status write_working_set(const std::shared_ptr<const ImageChain>& chain,
                         std::span<const TouchedPage> touched, const std::string& path) {
  const wire::Hasher hasher = chain->top().header().hasher();
  Head head{chain->top().header().id, touched.size()};
  std::vector<std::byte> table(head.table_bytes());
  std::vector<bool> zero(touched.size());
  for (std::size_t i = 0; i < touched.size(); ++i) {
    FoundPage found;
    MIGRATE_TRY(chain->find(touched[i].region, touched[i].page, {&found, 1}));
    zero[i] = found.file == nullptr;
    if (!zero[i]) ++head.stored;
    std::byte* const entry = table.data() + i * kEntryBytes;
    store_u64(entry, touched[i].page);
    store_u32(entry + 8, touched[i].region);
    store_u32(entry + 12, zero[i] ? 1 : 0);
    store_u64(entry + 16, found.hash);
  }
  head.table_hash = hasher.hash(table);

  MIGRATE_ASSIGN(const auto output, make_file_output(path));
  {
    MIGRATE_ASSIGN(const auto lane, output->make_lane());
    Appender appender(*output, *lane);
    MIGRATE_TRY(appender.append(head_block(head, hasher)));
    MIGRATE_TRY(appender.append(table));
    MIGRATE_TRY(appender.align());
    MIGRATE_ASSIGN(const auto reader, ImageReader::create(chain));
    std::vector<std::byte> page(kPageSize);
    for (std::size_t i = 0; i < touched.size(); ++i) {
      if (zero[i]) continue;
      MIGRATE_TRY(reader->read(touched[i].region, touched[i].page, 1, page.data()));
      MIGRATE_TRY(appender.append(page));
    }
    MIGRATE_TRY(appender.finish());
  }
  return output->publish();
}

Error WorkingSet::damaged(std::uint64_t at, const std::string& what) const {
  return make_error(ErrorCode::kIntegrity,
                    path_ + " is damaged at byte " + std::to_string(at) + ": " + what)
      .advise("record the working set anew (restore --record)");
}

Status WorkingSet::pread_all(std::uint64_t at, std::span<std::byte> into) const {
  while (!into.empty()) {
    const ssize_t got = ::pread(file_.get(), into.data(), into.size(), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return make_errno_error(ErrorCode::kIo, errno,
                              path_ + " cannot be read at byte " + std::to_string(at));
    }
    if (got == 0) return damaged(at, "it ends there");
    at += static_cast<std::uint64_t>(got);
    into = into.subspan(static_cast<std::size_t>(got));
  }
  return {};
}

Result<WorkingSet> WorkingSet::open(const std::string& path, const ImageChain& chain) {
  return guarded([&]() -> Result<WorkingSet> {
    auto file = open_plain_file(path);
    if (!file) {
      file.error().message = "the working set cannot be read: " + file.error().message;
      return std::move(file).error().advise("make it by restoring with --record");
    }
    WorkingSet made(path, std::move(file->fd));
    MIGRATE_TRY(made.read_table(chain));
    return made;
  });
}

Status WorkingSet::read_table(const ImageChain& chain) {
  const ImageHeader& image = chain.top().header();
  const wire::Hasher hasher = image.hasher();
  std::vector<std::byte> block(kBlockAlign);
  MIGRATE_TRY(pread_all(0, block));
  if (load_u32(block.data()) != kMagic) return damaged(0, "it is no working set");
  if (load_u32(block.data() + 4) != kVersion) {
    return make_error(ErrorCode::kVersionMismatch, path_ + " is a working set of version " +
                                                       std::to_string(load_u32(block.data() + 4)) +
                                                       ", and this knows " +
                                                       std::to_string(kVersion))
        .advise("record it anew (restore --record)");
  }
  Head head;
  std::memcpy(head.image.bytes.data(), block.data() + 8, head.image.bytes.size());
  if (head.image != image.id) {
    return make_error(ErrorCode::kIncompatible, path_ + " is the working set of image " +
                                                    to_text(head.image) + ", not of " +
                                                    to_text(image.id))
        .advise("record one of this image (restore --record)");
  }
  head.entries = load_u64(block.data() + 24);
  head.stored = load_u64(block.data() + 32);
  head.table_hash = load_u64(block.data() + 48);
  if (load_u64(block.data() + kHeadHashAt) != hasher.hash(std::span(block).first(kHeadHashAt))) {
    return damaged(kHeadHashAt, "its head has another hash");
  }
  std::uint64_t pages = 0;
  for (const Region& region : chain.regions()) pages += region.range.count;
  struct stat status {};
  if (::fstat(file_.get(), &status) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, path_ + " cannot be looked at");
  }
  if (head.entries > pages || head.stored > head.entries ||
      load_u64(block.data() + 40) != head.content_at() ||
      static_cast<std::uint64_t>(status.st_size) != head.file_bytes()) {
    return damaged(24, "its counts do not fit its length or the image");
  }
  std::vector<std::byte> table(head.table_bytes());
  MIGRATE_TRY(pread_all(kBlockAlign, table));
  if (hasher.hash(table) != head.table_hash)
    return damaged(kBlockAlign, "its table has another hash");
  entries_.reserve(head.entries);
  std::uint64_t at = content_at_ = head.content_at();
  content_end_ = head.file_bytes();
  for (std::size_t i = 0; i < head.entries; ++i) {
    const std::byte* const entry = table.data() + i * kEntryBytes;
    const std::uint32_t region = load_u32(entry + 8);
    const std::uint64_t page = load_u64(entry);
    const bool zero = load_u32(entry + 12) == 1;
    if (region >= chain.regions().size() || page >= chain.regions()[region].range.count ||
        (!zero && at == content_end_)) {
      return damaged(kBlockAlign + i * kEntryBytes, "there is no such page");
    }
    entries_.push_back(
        {{static_cast<std::uint16_t>(region), page}, zero, load_u64(entry + 16), at});
    if (!zero) at += kPageSize;
  }
  return {};
}

Status WorkingSet::read(std::size_t first, std::size_t count, const wire::PageDigest& digest,
                        std::byte* into) const {
  const auto entries = std::span(entries_).subspan(first, count);
  const auto stored = static_cast<std::size_t>(
      std::count_if(entries.begin(), entries.end(), [](const Entry& one) { return !one.zero; }));
  if (stored == 0) return {};
  MIGRATE_TRY(pread_all(entries.front().at, {into, stored * kPageSize}));
  for (const Entry& entry : entries) {
    if (entry.zero) continue;
    if (digest.hash({into, kPageSize}) != entry.hash) {
      return damaged(entry.at, "a page has another hash");
    }
    into += kPageSize;
  }
  return {};
}

void WorkingSet::read_ahead() const {
  (void)::posix_fadvise(file_.get(), static_cast<off_t>(content_at_),
                        static_cast<off_t>(content_end_ - content_at_), POSIX_FADV_WILLNEED);
}

}  // namespace migrate::checkpoint
