#include "cpu_baseline_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "base/fd.hpp"

namespace migrate::tool {
namespace {

/// Longer than any baseline: what is more is found out by reading one byte too many.
constexpr std::size_t kBytesMax = 64 * 1024 + 1;

Error cannot_read(const std::string& path) {
  const int error = errno;
  const ErrorCode code = error == ENOENT                     ? ErrorCode::kNotFound
                         : error == EACCES || error == EPERM ? ErrorCode::kPermission
                                                             : ErrorCode::kIo;
  return make_errno_error(code, error, "cannot read the CPU baseline " + path)
      .advise("make one: migrate doctor --cpu-baseline > FILE");
}

}  // namespace

Result<KvmCpuBaseline> read_cpu_baseline(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return cannot_read(path);
  std::string text(kBytesMax, '\0');
  std::size_t length = 0;
  while (length < text.size()) {
    const ssize_t got = ::read(file.get(), text.data() + length, text.size() - length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return cannot_read(path);
    if (got == 0) break;
    length += static_cast<std::size_t>(got);
  }
  text.resize(length);
  auto baseline = parse_cpu_baseline(text);
  if (!baseline) baseline.error().message += " (" + path + ")";
  return baseline;
}

Result<KvmCpuBaseline> common_cpu_baseline_of(const std::vector<std::string>& files) {
  const Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm) {
    return make_errno_error(ErrorCode::kUnsupported, errno, "cannot open /dev/kvm")
        .advise("see `migrate doctor`");
  }
  MIGRATE_ASSIGN(KvmCpuBaseline common, host_cpu_baseline(kvm.get()));
  for (const std::string& path : files) {
    MIGRATE_ASSIGN(const KvmCpuBaseline other, read_cpu_baseline(path));
    auto both = common_cpu_baseline(common, other);
    if (!both) {
      both.error().message += " (" + path + ")";
      return both;
    }
    common = *std::move(both);
  }
  return common;
}

}  // namespace migrate::tool
