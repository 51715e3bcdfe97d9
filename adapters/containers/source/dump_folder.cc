#include "adapters/containers/source/dump_folder.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <utility>

#include "adapters/containers/tree_state.hpp"

namespace migrate::containers {
namespace {

namespace fs = std::filesystem;

/// As much as one record of the wire takes.
constexpr std::size_t kChunk = std::size_t{1} << 20;

}  // namespace

Result<DumpFolder> DumpFolder::make(const std::string& parent) {
  std::string path = parent + "/criu-XXXXXX";
  if (parent.empty() || ::mkdtemp(path.data()) == nullptr) {
    return make_errno_error(ErrorCode::kInvalidArgument, parent.empty() ? 0 : errno,
                            "no folder for CRIU's images can be made in '" + parent + "'")
        .advise("give a folder on a tmpfs that this process may write");
  }
  Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) {
    const int error = errno;
    ::rmdir(path.c_str());
    return make_errno_error(ErrorCode::kIo, error, path + " does not open");
  }
  return DumpFolder(std::move(path), std::move(fd));
}

DumpFolder& DumpFolder::operator=(DumpFolder&& other) noexcept {
  if (this == &other) return *this;
  remove();
  path_ = std::exchange(other.path_, {});
  fd_ = std::move(other.fd_);
  return *this;
}

void DumpFolder::remove() noexcept {
  if (!fd_) return;
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  fd_.reset();
}

Result<std::vector<std::string>> DumpFolder::files() const {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path_, error)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && name.ends_with(".img")) names.push_back(name);
  }
  if (error) {
    return make_errno_error(ErrorCode::kIo, error.value(), path_ + " cannot be read");
  }
  std::sort(names.begin(), names.end());
  return names;
}

Status DumpFolder::send(StateWriter& writer) const {
  MIGRATE_ASSIGN(const std::vector<std::string> names, files());
  for (const std::string& name : names) MIGRATE_TRY(send_file(name, writer));
  return {};
}

Status DumpFolder::send_file(const std::string& name, StateWriter& writer) const {
  MIGRATE_ASSIGN(std::string section, image_section(name));
  const Fd file(::openat(fd_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat facts {};
  if (!file || ::fstat(file.get(), &facts) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, path_ + "/" + name + " does not open");
  }
  MIGRATE_TRY(writer.begin({std::move(section), 1, true}));
  std::vector<std::byte> chunk(
      std::min<std::size_t>(kChunk, static_cast<std::size_t>(facts.st_size)));
  for (;;) {
    const ssize_t got = chunk.empty() ? 0 : ::read(file.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return make_errno_error(ErrorCode::kIo, errno, path_ + "/" + name + " cannot be read");
    }
    if (got == 0) break;
    MIGRATE_TRY(writer.append(std::span(chunk).first(static_cast<std::size_t>(got))));
  }
  return writer.end();
}

}  // namespace migrate::containers
