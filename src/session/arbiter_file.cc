#include "session/arbiter_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <random>
#include <string_view>

#include "base/fd.hpp"
#include "wire/ids.hpp"

namespace migrate::session {
namespace {

constexpr std::string_view kReachable = "make the arbiter's storage reachable on both hosts";

std::string content_for(const std::string& session, Side side) {
  return "migrate-owner 1 " + session + " " + std::string(to_string(side)) + "\n";
}

Error io_error(std::string what, const std::string& path) {
  return make_errno_error(ErrorCode::kIo, errno, "arbiter: " + std::move(what) + " " + path)
      .advise(std::string(kReachable));
}

Status flush_folder(const std::string& directory) {
  const Fd folder(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder || fsync(folder.get()) != 0) return io_error("cannot flush the folder", directory);
  return {};
}

/// Differs between the processes of all hosts, and from what a killed one has left.
std::string unique_suffix() {
  std::random_device random;
  return std::to_string(random()) + "-" + std::to_string(random());
}

/// A complete, flushed file under a name of its own.
Status write_draft(const std::string& draft, const std::string& content) {
  const Fd file(open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!file) return io_error("cannot create", draft);
  const ssize_t written = write(file.get(), content.data(), content.size());
  if (written != static_cast<ssize_t>(content.size())) {
    if (written >= 0) errno = ENOSPC;
    return io_error("cannot write", draft);
  }
  if (fsync(file.get()) != 0) return io_error("cannot flush", draft);
  return {};
}

/// Who `path` names; an error when that cannot be told.
Result<Side> owner_in(const std::string& path, const std::string& session) {
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file) return io_error("cannot open", path);
  std::array<char, 128> buffer{};
  const ssize_t got = read(file.get(), buffer.data(), buffer.size());
  if (got < 0) return io_error("cannot read", path);
  const std::string_view text(buffer.data(), static_cast<std::size_t>(got));
  for (const Side side : {Side::kSource, Side::kTarget}) {
    if (text == content_for(session, side)) return side;
  }
  return make_error(ErrorCode::kIntegrity, "arbiter: " + path + " does not name an owner")
      .advise("find out which host runs the guest; only then delete the file");
}

}  // namespace

Result<bool> FileArbiter::acquire(const std::string& session, Side side) {
  MIGRATE_CHECK(side == Side::kSource || side == Side::kTarget);
  // Also keeps what is no session id out of the path.
  MIGRATE_ASSIGN(const wire::SessionId id, wire::parse_session_id(session));
  const std::string path = directory_ + "/" + to_text(id) + ".owner";

  const std::string draft = path + "." + unique_suffix();
  Status written = write_draft(draft, content_for(to_text(id), side));
  int link_errno = 0;
  if (written && link(draft.c_str(), path.c_str()) != 0) link_errno = errno;
  unlink(draft.c_str());
  if (!written) return std::move(written).error();
  if (link_errno != 0 && link_errno != EEXIST) {
    errno = link_errno;
    return io_error("cannot link", path);
  }
  // Also where link() succeeded: an NFS client may repeat a request that had an effect, and then
  // either answer is possible. What stands in the file is what counts, once it is stable.
  MIGRATE_TRY(flush_folder(directory_));
  MIGRATE_ASSIGN(const Side owner, owner_in(path, to_text(id)));
  return owner == side;
}

}  // namespace migrate::session

namespace migrate {

Result<std::unique_ptr<Arbiter>> make_file_arbiter(std::string directory) {
  struct stat status = {};
  if (stat(directory.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
    return make_error(ErrorCode::kNotFound, "the arbiter's folder " + directory + " is not there")
        .advise("mount the shared storage, or name an existing folder");
  }
  return std::unique_ptr<Arbiter>(new session::FileArbiter(std::move(directory)));
}

}  // namespace migrate
