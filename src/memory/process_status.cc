#include "memory/process_status.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <memory>

#include "base/fd.hpp"
#include "memory/process_maps.hpp"

namespace migrate {
namespace {

/// The number after `key` and its blanks, or `otherwise`.
int number_after(std::string_view text, std::string_view key, int otherwise) {
  const std::size_t at = text.find(key);
  if (at == std::string_view::npos) return otherwise;
  std::string_view rest = text.substr(at + key.size());
  rest.remove_prefix(std::min(rest.size(), rest.find_first_not_of(" \t")));
  int value = otherwise;
  std::from_chars(rest.data(), rest.data() + rest.size(), value);
  return value;
}

Error proc_error(int error, const std::string& path) {
  if (error == ENOENT || error == ESRCH) {
    return make_errno_error(ErrorCode::kNotFound, error, path + " does not exist");
  }
  const bool forbidden = error == EACCES || error == EPERM;
  Error failed = make_errno_error(forbidden ? ErrorCode::kPermission : ErrorCode::kIo, error,
                                  path + " cannot be read");
  if (forbidden) failed.advise("run with the right to ptrace that process");
  return failed;
}

/// VmLck in the text of /proc/PID/status is not 0.
bool has_locked_memory(std::string_view status) {
  constexpr std::string_view kLocked = "\nVmLck:";
  const std::size_t at = status.find(kLocked);
  if (at == std::string_view::npos) return false;
  std::string_view rest = status.substr(at + kLocked.size());
  rest = rest.substr(0, rest.find('\n'));
  return rest.find_first_of("123456789") != std::string_view::npos;
}

}  // namespace

ThreadStatus parse_thread_status(std::string_view text) {
  ThreadStatus status;
  constexpr std::string_view kState = "\nState:\t";
  if (const std::size_t at = text.find(kState); at != std::string_view::npos) {
    const std::size_t state = at + kState.size();
    if (state < text.size()) status.state = text[state];
  }
  status.tracer = number_after(text, "\nTracerPid:", 0);
  status.seccomp_mode = number_after(text, "\nSeccomp:", 0);
  return status;
}

Result<std::string> read_proc_file(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return proc_error(errno, path);
  std::string text;
  std::array<char, 8192> piece;
  for (;;) {
    const ssize_t got = ::read(fd.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return proc_error(errno, path);
    if (got == 0) return text;
    text.append(piece.data(), static_cast<std::size_t>(got));
  }
}

Result<ThreadStatus> thread_status(pid_t pid, pid_t tid) {
  MIGRATE_ASSIGN(const std::string text, read_proc_file("/proc/" + std::to_string(pid) + "/task/" +
                                                        std::to_string(tid) + "/status"));
  return parse_thread_status(text);
}

Result<std::vector<pid_t>> threads_of(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/task";
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(path.c_str()), &::closedir);
  if (folder == nullptr) return proc_error(errno, path);
  std::vector<pid_t> threads;
  while (const dirent* entry = ::readdir(folder.get())) {
    const std::string_view name = entry->d_name;
    pid_t tid = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), tid);
    if (parsed.ec == std::errc() && parsed.ptr == name.data() + name.size()) threads.push_back(tid);
  }
  if (threads.empty()) return proc_error(ESRCH, path);
  return threads;
}

Result<std::vector<AddressRange>> locked_areas(pid_t pid) {
  const std::string folder = "/proc/" + std::to_string(pid) + "/";
  auto text = read_proc_file(folder + "status");
  if (text && !has_locked_memory(*text)) return std::vector<AddressRange>();
  if (text) text = read_proc_file(folder + "smaps");
  if (!text && text.error().code == ErrorCode::kNotFound) return std::vector<AddressRange>();
  if (!text) return std::move(text).error();
  return locked_areas_of(*text);
}

}  // namespace migrate
