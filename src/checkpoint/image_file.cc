#include "checkpoint/image_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace migrate::checkpoint {
namespace {

// Header, description, a state part, directory, trailer.
constexpr std::uint64_t kFileBytesMin = 5 * kBlockAlign;
constexpr std::uint64_t kStateBytesMax = std::uint64_t{1} << 30;

Error cannot_open(const std::string& path, int code) {
  switch (code) {
    case ENOENT:
    case ENOTDIR:
      return make_errno_error(ErrorCode::kNotFound, code, "there is no image " + path)
          .advise("check the path");
    case EACCES:
    case EPERM:
      return make_errno_error(ErrorCode::kPermission, code, "cannot open " + path)
          .advise("run as a user who may read the image");
    case EMFILE:
    case ENFILE:
      return make_errno_error(ErrorCode::kIo, code, "cannot open " + path)
          .advise(
              "raise the limit of open files (ulimit -n), or make the chain one file: "
              "migrate image flatten");
    default:
      return make_errno_error(ErrorCode::kIo, code, "cannot open " + path);
  }
}

Status pread_all(int fd, const std::string& path, std::uint64_t at, std::span<std::byte> into) {
  std::size_t done = 0;
  while (done < into.size()) {
    const ssize_t got =
        ::pread(fd, into.data() + done, into.size() - done, static_cast<off_t>(at + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return make_errno_error(ErrorCode::kIo, errno,
                              "cannot read " + path + " at byte " + std::to_string(at + done))
          .advise("check the disk that it is on");
    }
    if (got == 0) return damaged(path, at + done, "the file ends there");
    done += static_cast<std::size_t>(got);
  }
  return {};
}

}  // namespace

Error in_file(const std::string& path, Error error) {
  error.message = path + ": " + error.message;
  return error;
}

Error damaged(const std::string& path, std::uint64_t at, const std::string& what) {
  return in_file(path, make_error(ErrorCode::kIntegrity, "the image is damaged at byte " +
                                                             std::to_string(at) + ": " + what)
                           .advise("take another copy of it, or an older checkpoint"));
}

Status read_at(const ImageFile& file, std::uint64_t at, std::span<std::byte> into) {
  return pread_all(file.fd(), file.path(), at, into);
}

Result<PlainFile> open_plain_file(const std::string& path) {
  // A FIFO's open() would wait for a writer.
  PlainFile file{Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)), 0};
  if (!file.fd) return cannot_open(path, errno);
  struct stat status {};
  if (::fstat(file.fd.get(), &status) != 0) return cannot_open(path, errno);
  if (!S_ISREG(status.st_mode)) {
    const bool streams = S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode);
    return make_error(ErrorCode::kInvalidArgument, path + " is no regular file")
        .advise(streams ? "read an image from a pipe as standard input: migrate restore - < " + path
                        : "give the path of an image");
  }
  // io_uring refuses to wait for the disk where this is set.
  if (::fcntl(file.fd.get(), F_SETFL, 0) != 0) return cannot_open(path, errno);
  file.bytes = static_cast<std::uint64_t>(status.st_size);
  return file;
}

OpenImage::~OpenImage() {
  if (mapping_ != nullptr) ::munmap(mapping_, file_.bytes);
  for (auto& region : parts_) {
    for (auto& part : region) delete[] part.load(std::memory_order_relaxed);
  }
}

Result<std::unique_ptr<OpenImage>> OpenImage::open(const std::string& path) {
  std::unique_ptr<OpenImage> image(new OpenImage(path));
  MIGRATE_ASSIGN(image->file_, open_plain_file(path));
  image->open_past_cache();
  for (const auto step :
       {&OpenImage::read_ends, &OpenImage::read_description, &OpenImage::read_directory}) {
    MIGRATE_TRY((image.get()->*step)());
  }
  return image;
}

/// Without it all is read through the page cache.
void OpenImage::open_past_cache() {
  // The same file, whatever has its name by now.
  const std::string same = "/proc/self/fd/" + std::to_string(file_.fd.get());
  Fd direct(::open(same.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
  if (!direct) return;
  void* const mapping = ::mmap(nullptr, file_.bytes, PROT_NONE, MAP_SHARED, file_.fd.get(), 0);
  if (mapping == MAP_FAILED) return;
  mapping_ = mapping;
  direct_fd_ = std::move(direct);
}

bool OpenImage::is_cached(std::uint64_t at, std::uint64_t bytes) const {
  std::array<unsigned char, 256> pages;
  const std::uint64_t count = std::min<std::uint64_t>(bytes / kPageSize, pages.size());
  if (mapping_ == nullptr || at + bytes > file_.bytes || count == 0 ||
      ::mincore(static_cast<std::byte*>(mapping_) + at, count * kPageSize, pages.data()) != 0) {
    return true;
  }
  const auto here = std::count_if(pages.begin(), pages.begin() + count,
                                  [](unsigned char page) { return (page & 1) != 0; });
  return static_cast<std::uint64_t>(here) * 2 > count;
}

Status OpenImage::read_ends() {
  std::vector<std::byte> block(std::min<std::uint64_t>(file_.bytes, kBlockAlign));
  MIGRATE_TRY(read_at(*this, 0, block));
  auto header = parse_header(block);
  if (!header) return in_file(path_, header.error());
  header_ = *header;
  hasher_ = header_.hasher();
  digest_ = std::make_unique<wire::PageDigest>(hasher_);
  if (file_.bytes < kFileBytesMin || file_.bytes % kBlockAlign != 0) {
    return damaged(path_, file_.bytes,
                   "it does not end with a TRAILER: it was cut short, or is being written");
  }
  const std::uint64_t trailer_at = file_.bytes - kBlockAlign;
  MIGRATE_TRY(read_at(*this, trailer_at, block));
  auto trailer = parse_trailer(block, trailer_at);
  if (!trailer) return in_file(path_, trailer.error());
  trailer_ = *trailer;
  if (trailer_.id != header_.id) {
    return damaged(path_, trailer_at, "HEADER and TRAILER are different images'");
  }
  return {};
}

Status OpenImage::read_description() {
  std::array<std::byte, kBlockHeadBytes> bytes;
  MIGRATE_TRY(read_at(*this, kBlockAlign, bytes));
  auto head = get_head(bytes, kBlockAlign, header_.id.short_form());
  if (!head) return in_file(path_, head.error());
  content_at_ = kBlockAlign + head->length;
  if (head->type != BlockType::kDescription || content_at_ > trailer_.directory_at) {
    return damaged(path_, kBlockAlign, "no DESCRIPTION stands there");
  }
  std::vector<std::byte> block(head->length);
  MIGRATE_TRY(read_at(*this, kBlockAlign, block));
  if (Status status = check_block(*head, hasher_, block); !status) {
    return in_file(path_, status.error());
  }
  auto description = parse_description(std::span(block).subspan(kBlockHeadBytes, head->payload));
  if (!description) return in_file(path_, description.error());
  description_ = *std::move(description);
  return {};
}

Status OpenImage::read_directory() {
  const std::uint64_t at = trailer_.directory_at;
  if (trailer_.directory_bytes < kBlockAlign) return damaged(path_, at, "no DIRECTORY is there");
  std::vector<std::byte> block(trailer_.directory_bytes);
  MIGRATE_TRY(read_at(*this, at, block));
  auto head = get_head(std::span(block).first<kBlockHeadBytes>(), at, header_.id.short_form());
  if (!head) return in_file(path_, head.error());
  if (head->type != BlockType::kDirectory || head->length != trailer_.directory_bytes) {
    return damaged(path_, at, "no DIRECTORY stands there");
  }
  if (Status status = check_block(*head, hasher_, block); !status) {
    return in_file(path_, status.error());
  }
  auto directory = parse_directory(std::span(block).subspan(kBlockHeadBytes, head->payload),
                                   description_.guest.regions);
  if (!directory) return in_file(path_, directory.error());
  directory_ = *std::move(directory);
  if (directory_.digest != trailer_.digest || directory_.state_at < content_at_ ||
      directory_.state_at >= at) {
    return damaged(path_, at, "DIRECTORY contradicts the rest");
  }
  for (const auto& region : directory_.regions) {
    for (const Directory::Part& part : region) {
      const bool listed = part.where > Directory::kAllParent;
      if ((part.where == Directory::kAllParent && !header_.incremental()) ||
          (listed && (part.where < content_at_ || part.where >= at))) {
        return damaged(path_, at, "DIRECTORY names an index where none can be");
      }
    }
    parts_.emplace_back(region.size());
  }
  return {};
}

std::uint64_t OpenImage::part_pages(std::uint16_t region, std::uint64_t part) const {
  const std::uint64_t pages = description_.guest.regions[region].range.count;
  return std::min(kPagesPerIndex, pages - part * kPagesPerIndex);
}

Result<OpenImage::Part> OpenImage::part(std::uint16_t region, std::uint64_t part) const {
  const Directory::Part& listed = directory_.regions.at(region).at(part);
  if (listed.where <= Directory::kAllParent) return Part{listed.where, {}};
  auto& slot = parts_[region][part];
  const IndexEntry* entries = slot.load(std::memory_order_acquire);
  if (entries == nullptr) {
    MIGRATE_ASSIGN(std::unique_ptr<IndexEntry[]> fresh, read_part(region, part, listed));
    // Another thread may have read it meanwhile: the same, and whose came first stays.
    if (slot.compare_exchange_strong(entries, fresh.get(), std::memory_order_acq_rel)) {
      entries = fresh.release();
    }
  }
  return Part{listed.where, {entries, part_pages(region, part)}};
}

Result<std::unique_ptr<IndexEntry[]>> OpenImage::read_part(std::uint16_t region, std::uint64_t part,
                                                           const Directory::Part& listed) const {
  const std::uint64_t pages = part_pages(region, part);
  const std::uint64_t bytes = kBlockAlign + pages * sizeof(IndexEntry);
  if (bytes > trailer_.directory_at - listed.where) {
    return damaged(path_, listed.where, "INDEX goes beyond the blocks' end");
  }
  std::vector<std::byte> block(bytes);
  MIGRATE_TRY(read_at(*this, listed.where, block));
  auto head =
      get_head(std::span(block).first<kBlockHeadBytes>(), listed.where, header_.id.short_form());
  if (!head) return in_file(path_, head.error());
  if (head->type != BlockType::kIndex || head->region != region || head->count != pages ||
      head->first != part * kPagesPerIndex || head->hash != listed.hash) {
    return damaged(path_, listed.where, "this is not the INDEX that the DIRECTORY names");
  }
  if (Status status = check_block(*head, hasher_, block); !status) {
    return in_file(path_, status.error());
  }
  auto entries = std::make_unique<IndexEntry[]>(pages);
  std::copy_n(block.data() + kBlockAlign, pages * sizeof(IndexEntry),
              reinterpret_cast<std::byte*>(entries.get()));
  MIGRATE_TRY(check_entries({entries.get(), pages}, listed.where));
  return entries;
}

Status OpenImage::check_entries(std::span<const IndexEntry> entries, std::uint64_t at) const {
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const PageLocation location = entries[i].location;
    const bool right = location.is_zero() ? entries[i].hash == digest_->zero_hash()
                       : location.is_parent()
                           ? header_.incremental()
                           : location.valid() && location.offset() >= content_at_ &&
                                 location.offset() < trailer_.directory_at;
    if (!right) {
      return damaged(path_, at + kBlockAlign + i * sizeof(IndexEntry),
                     "a page is said to be where none can be");
    }
  }
  return {};
}

Result<BlockHead> OpenImage::head(std::uint64_t at) const {
  if (at < content_at_ || at > trailer_.directory_at - kBlockHeadBytes) {
    return damaged(path_, at, "no block can begin there");
  }
  std::array<std::byte, kBlockHeadBytes> bytes;
  MIGRATE_TRY(read_at(*this, at, bytes));
  auto head = get_head(bytes, at, header_.id.short_form());
  if (!head) return in_file(path_, head.error());
  if (head->length > trailer_.directory_at - at) {
    return damaged(path_, at, "a block goes beyond the DIRECTORY");
  }
  return head;
}

Result<std::vector<Section>> OpenImage::state() const {
  if (directory_.state_bytes > kStateBytesMax) {
    return make_error(ErrorCode::kUnsupported, path_ + " has " +
                                                   std::to_string(directory_.state_bytes) +
                                                   " bytes of device state; the limit is 1 GiB");
  }
  std::vector<std::byte> payload;
  std::vector<std::byte> block;
  std::uint64_t at = directory_.state_at;
  for (std::uint64_t number = 0;;) {
    MIGRATE_ASSIGN(const BlockHead head, this->head(at));
    if (head.type == BlockType::kIndex) return damaged(path_, at, "the state's end is missing");
    at += head.length;
    if (head.type != BlockType::kState) continue;
    if (head.first != number++ || head.payload > kStatePartBytesMax ||
        head.payload > directory_.state_bytes - payload.size()) {
      return damaged(path_, head.offset, "this is not the STATE part that belongs there");
    }
    block.resize(head.length);
    MIGRATE_TRY(read_at(*this, head.offset, block));
    if (Status status = check_block(head, hasher_, block); !status) {
      return in_file(path_, status.error());
    }
    const auto part = std::span(block).subspan(kBlockHeadBytes, head.payload);
    payload.insert(payload.end(), part.begin(), part.end());
    if ((head.flags & kLastStatePart) != 0) break;
  }
  if (payload.size() != directory_.state_bytes) {
    return damaged(path_, directory_.state_at, "the state is shorter than the DIRECTORY says");
  }
  auto sections = parse_state(payload);
  if (!sections) return in_file(path_, sections.error());
  return sections;
}

}  // namespace migrate::checkpoint
