#include "adapters/containers/criu/criu_log.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/fd.hpp"

namespace migrate::containers {
namespace {

constexpr std::string_view kMark = "Error (";
constexpr std::size_t kLogRead = std::size_t{64} << 10;
/// A line names a path at most, or two.
constexpr std::size_t kLineMax = 300;

std::string_view trimmed(std::string_view text) {
  const std::size_t from = text.find_first_not_of(" \t\r");
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(" \t\r") - from + 1);
}

/// "(00.01)  12: Error (criu/a.c:5): net: it broke" -> "net: it broke"; nothing for another line.
std::string_view error_of(std::string_view line) {
  const std::size_t mark = line.find(kMark);
  if (mark == std::string_view::npos) return {};
  line.remove_prefix(mark + kMark.size());
  const std::size_t place = line.find("): ");
  if (place == std::string_view::npos) return {};
  return trimmed(line.substr(place + 3));
}

bool says_nothing(std::string_view error) {
  return error.empty() || error.find("FAILED.") != std::string_view::npos;
}

/// Names in it may be a guest's: no control characters on the operator's terminal.
std::string printable(std::string_view error) {
  std::string text(error.substr(0, kLineMax));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text;
}

}  // namespace

std::vector<std::string> criu_errors(std::string_view log, std::size_t at_most) {
  std::vector<std::string> errors;  // The last first.
  while (!log.empty() && errors.size() < at_most) {
    const std::size_t newline = log.rfind('\n');
    const std::size_t from = newline == std::string_view::npos ? 0 : newline + 1;
    const std::string_view error = error_of(log.substr(from));
    log = log.substr(0, newline == std::string_view::npos ? 0 : newline);
    if (says_nothing(error)) continue;
    std::string text = printable(error);
    if (std::find(errors.begin(), errors.end(), text) == errors.end()) {
      errors.push_back(std::move(text));
    }
  }
  std::reverse(errors.begin(), errors.end());
  return errors;
}

std::string read_criu_log(int images_fd) {
  const Fd file(::openat(images_fd, kCriuLog, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat status = {};
  if (!file || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
  const off_t from = std::max<off_t>(0, status.st_size - static_cast<off_t>(kLogRead));
  std::string text(kLogRead, '\0');
  const ssize_t got = ::pread(file.get(), text.data(), text.size(), from);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

}  // namespace migrate::containers
