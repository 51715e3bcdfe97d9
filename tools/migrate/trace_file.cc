#include "trace_file.hpp"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <vector>

namespace migrate::tool {
namespace {

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, FileCloser>;

Error cannot(const char* what, const std::string& path, int number) {
  return make_errno_error(ErrorCode::kInvalidArgument, number,
                          std::string("cannot ") + what + " the trace " + path);
}

}  // namespace

Result<DirtyTrace> read_trace(const std::string& path) {
  const File file(std::fopen(path.c_str(), "re"));
  if (!file) return cannot("open", path, errno).advise("give a file that you may read");
  struct stat facts {};
  if (fstat(fileno(file.get()), &facts) != 0) return cannot("read", path, errno);
  if (!S_ISREG(facts.st_mode) || facts.st_size > static_cast<off_t>(kTraceBytesMax)) {
    return make_error(ErrorCode::kInvalidArgument, path + " is no file, or longer than a trace")
        .advise("give a file that `migrate predict --record` has written");
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(facts.st_size));
  if (std::fread(bytes.data(), 1, bytes.size(), file.get()) != bytes.size()) {
    return cannot("read", path, errno);
  }
  return decode_trace(bytes);
}

Status write_trace(const std::string& path, std::span<const std::byte> bytes) {
  const std::string fresh = path + "~";
  File file(std::fopen(fresh.c_str(), "we"));
  if (!file) return cannot("write", path, errno).advise("give a file that you may write");
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), file.get()) == bytes.size() &&
                       std::fflush(file.get()) == 0;
  int failure = errno;
  file.reset();
  if (written && std::rename(fresh.c_str(), path.c_str()) == 0) return {};
  if (written) failure = errno;
  std::remove(fresh.c_str());
  return cannot("write", path, failure).advise("check the folder's free space and permissions");
}

}  // namespace migrate::tool
