#include "adapters/containers/target/restore_folder.hpp"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

namespace migrate::containers {
namespace {

/// Address spaces are processes; so many at 8 bytes each are more than a host has.
constexpr std::uint64_t kSpacesBytesMax = 64u << 20;
constexpr std::size_t kChunkBytes = 256u << 10;

Error cannot_write(const std::string& name, int error) {
  const bool full = error == ENOSPC || error == EDQUOT || error == ENOMEM;
  return make_errno_error(full ? ErrorCode::kNoMemory : ErrorCode::kIo, error,
                          "CRIU's image " + name + " cannot be written")
      .advise(full ? "make the folder's tmpfs larger" : "");
}

Status write_all(int fd, std::span<const std::byte> bytes, const std::string& name) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(fd, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return cannot_write(name, wrote < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<RestoreFolder>> RestoreFolder::create(const std::string& parent) {
  std::string path = parent + "/restore-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot make a folder in " + parent)
        .advise("give a folder on a tmpfs that this process may write");
  }
  Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return make_errno_error(ErrorCode::kIo, errno, "cannot open the folder " + path);
  return std::unique_ptr<RestoreFolder>(new RestoreFolder(std::move(path), std::move(fd)));
}

RestoreFolder::~RestoreFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Result<RestoreFolder::Spaces> RestoreFolder::take(StateReader& reader) {
  std::optional<std::vector<SpaceOwner>> owners;
  std::vector<EmptyArea> empty;
  for (;;) {
    MIGRATE_ASSIGN(const std::optional<SectionInfo> section, reader.next());
    if (!section) break;
    if (section->name == kSpacesSection && section->version == 1) {
      if (owners) return make_error(ErrorCode::kProtocol, "the tree's address spaces came twice");
      MIGRATE_ASSIGN(const auto body, reader.read_all(kSpacesBytesMax));
      MIGRATE_ASSIGN(owners, parse_spaces(body));
    } else if (section->name == kEmptySection && section->version == 1) {
      if (!empty.empty()) return make_error(ErrorCode::kProtocol, "empty memory was told twice");
      MIGRATE_ASSIGN(const auto body, reader.read_all(kSpacesBytesMax));
      MIGRATE_ASSIGN(empty, parse_empty(body));
    } else if (section->name.starts_with(kImagePrefix) && section->version == 1) {
      MIGRATE_ASSIGN(const std::string name, image_file(section->name));
      MIGRATE_TRY(write(name, reader));
    } else {
      MIGRATE_TRY(StateReader::skip_unknown(*section));
    }
  }
  if (owners) return Spaces{*std::move(owners), std::move(empty)};
  return make_error(ErrorCode::kProtocol, "the state does not say whose the address spaces are");
}

Status RestoreFolder::write(const std::string& name, StateReader& reader) {
  const Fd file(::openat(fd_.get(), name.c_str(),
                         O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file && errno == EEXIST) {
    return make_error(ErrorCode::kProtocol, "CRIU's image " + name + " came twice");
  }
  if (!file) return cannot_write(name, errno);
  std::vector<std::byte> chunk(std::min<std::uint64_t>(reader.remaining(), kChunkBytes));
  while (reader.remaining() > 0) {
    const auto part =
        std::span(chunk).first(std::min<std::uint64_t>(reader.remaining(), chunk.size()));
    MIGRATE_TRY(reader.read(part));
    MIGRATE_TRY(write_all(file.get(), part, name));
  }
  return {};
}

Result<std::optional<std::vector<std::byte>>> RestoreFolder::read(const std::string& name) const {
  const Fd file(::openat(fd_.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!file && errno == ENOENT) return std::optional<std::vector<std::byte>>();
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "CRIU's image " + name + " cannot be read");
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(status.st_size));
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t got = ::read(file.get(), bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return make_errno_error(ErrorCode::kIo, got < 0 ? errno : 0,
                              "CRIU's image " + name + " cannot be read");
    }
    done += static_cast<std::size_t>(got);
  }
  return std::optional(std::move(bytes));
}

}  // namespace migrate::containers
