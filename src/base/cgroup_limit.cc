#include "base/cgroup_limit.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <utility>

namespace migrate {
namespace {

namespace fs = std::filesystem;

// Linux's Documentation/admin-guide/cgroup-v2.rst, and scheduler/sched-bwc.rst for version 1.
constexpr const char* kMax = "cpu.max";
constexpr const char* kMaxBurst = "cpu.max.burst";
constexpr const char* kQuota = "cpu.cfs_quota_us";
constexpr const char* kPeriod = "cpu.cfs_period_us";
constexpr const char* kBurst = "cpu.cfs_burst_us";

bool has(const fs::path& folder, const char* name) {
  std::error_code ignored;
  return fs::exists(folder / name, ignored);
}

std::string content_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// Of a group in the way to the top; infinity where there is none.
double cpus_in(const fs::path& folder, bool unified) {
  const auto limit = unified ? parse_cpu_max(content_of(folder / kMax))
                             : parse_cfs(content_of(folder / kQuota), content_of(folder / kPeriod));
  return limit ? cpus_of(*limit) : std::numeric_limits<double>::infinity();
}

Error no_such_folder(const std::string& folder, int error) {
  if (error == EACCES) {
    return make_errno_error(ErrorCode::kPermission, error, "the cgroup " + folder + " is hidden")
        .advise("run as root, or as the user that the group was delegated to");
  }
  return make_errno_error(ErrorCode::kNotFound, error, "there is no cgroup " + folder)
      .advise(
          "see /proc/PID/cgroup for the groups of the guest's processes, and /proc/mounts for "
          "where cgroups are");
}

Error no_limit_there(const fs::path& folder, bool unified) {
  if (!unified) {
    return make_error(ErrorCode::kUnsupported,
                      "the cgroup " + folder.string() + " has no " + kQuota +
                          ": it is not of the cpu hierarchy, or the kernel is without quotas")
        .advise(
            "name the guest's folder where /proc/mounts has a cgroup with the option cpu; the "
            "kernel needs CONFIG_CFS_BANDWIDTH");
  }
  const std::string above = folder.parent_path().string();
  return make_error(ErrorCode::kUnsupported, "the cgroup " + folder.string() + " has no " + kMax +
                                                 ": the cpu controller is not enabled for it")
      .advise("enable it (as root: echo +cpu > " + above + "/cgroup.subtree_control; " + above +
              "/cgroup.controllers must have it), or name the guest's group in version 1's cpu "
              "hierarchy where the host has that");
}

Status check_kind(const fs::path& folder, bool unified) {
  if (!has(folder, "cgroup.procs")) {
    return make_error(ErrorCode::kInvalidArgument, folder.string() + " is no cgroup")
        .advise("name the folder of the guest's group, as in /proc/PID/cgroup");
  }
  // Files that every group but the topmost has, or only that one.
  if (unified ? !has(folder, "cgroup.type") : has(folder, "release_agent")) {
    return make_error(ErrorCode::kInvalidArgument,
                      "the topmost cgroup, " + folder.string() + ", cannot be limited")
        .advise("put the guest's processes in a group of their own");
  }
  if (!has(folder, unified ? kMax : kQuota)) return no_limit_there(folder, unified);
  return {};
}

Error file_error(const std::string& path, const char* what, int error) {
  const std::string message = std::string("cannot ") + what + " " + path;
  switch (error) {
    case EACCES:
    case EPERM:
    case EROFS:
      return make_errno_error(ErrorCode::kPermission, error, message)
          .advise(
              "run as root, or have the group delegated to this user and writable here "
              "(systemd: Delegate=cpu)");
    case ENOENT:
    case ENODEV:
      return make_errno_error(ErrorCode::kNotFound, error, message + ": the group is gone")
          .advise("see whether the guest still runs, and in which group (/proc/PID/cgroup)");
    case EINVAL:
      return make_errno_error(ErrorCode::kUnsupported, error, message)
          .advise(
              "in version 1 no group may have a higher limit than those above it: take away "
              "the limits of the groups below this one");
    default:
      return make_errno_error(ErrorCode::kIo, error, message);
  }
}

}  // namespace

Result<CgroupLimit> CgroupLimit::open(const std::string& folder) {
  std::error_code error;
  const fs::path path = fs::canonical(folder, error);
  if (error) return no_such_folder(folder, error.value());
  CgroupLimit limit;
  limit.folder_ = path.string();
  limit.unified_ = has(path, "cgroup.controllers");
  MIGRATE_TRY(check_kind(path, limit.unified_));
  MIGRATE_TRY(limit.open_files());
  return limit;
}

Status CgroupLimit::open_files() {
  const auto open_one = [&](Fd& into, const char* name) -> Status {
    const std::string path = folder_ + "/" + name;
    into.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    return into ? Status{} : Status(file_error(path, "open", errno));
  };
  MIGRATE_TRY(open_one(quota_, unified_ ? kMax : kQuota));
  if (!unified_) MIGRATE_TRY(open_one(period_, kPeriod));
  const char* const burst = unified_ ? kMaxBurst : kBurst;
  if (has(folder_, burst)) MIGRATE_TRY(open_one(burst_, burst));
  return {};
}

Result<std::string> CgroupLimit::read_file(const Fd& file, const char* name) const {
  std::array<char, 64> text{};
  const ssize_t got = ::pread(file.get(), text.data(), text.size(), 0);
  if (got < 0) return file_error(folder_ + "/" + name, "read", errno);
  return std::string(text.data(), static_cast<std::size_t>(got));
}

Status CgroupLimit::write_file(const Fd& file, const char* name, const std::string& text) const {
  // The kernel takes all of it or nothing.
  if (::pwrite(file.get(), text.data(), text.size(), 0) >= 0) return {};
  const int error = errno;
  return file_error(folder_ + "/" + name, ("write \"" + text + "\" to").c_str(), error);
}

Result<CpuLimit> CgroupLimit::read() const {
  std::optional<CpuLimit> limit;
  MIGRATE_ASSIGN(std::string text, read_file(quota_, unified_ ? kMax : kQuota));
  if (unified_) {
    limit = parse_cpu_max(text);
  } else {
    MIGRATE_ASSIGN(const std::string period, read_file(period_, kPeriod));
    limit = parse_cfs(text, period);
    text += period;
  }
  if (limit) return *limit;
  return make_error(ErrorCode::kInternal,
                    "the limit of " + folder_ + " is in words unknown here: " + text);
}

// Version 1 has two files, and refuses what in between would be more than groups above have, or
// less than one below. No quota at all is neither.
Status CgroupLimit::write(const CpuLimit& limit) {
  if (unified_) return write_file(quota_, kMax, cpu_max_text(limit));
  MIGRATE_ASSIGN(const CpuLimit now, read());
  if (now.period_us != limit.period_us) {
    MIGRATE_TRY(write_file(quota_, kQuota, cfs_quota_text({})));
    MIGRATE_TRY(write_file(period_, kPeriod, std::to_string(limit.period_us)));
  }
  return write_file(quota_, kQuota, cfs_quota_text(limit));
}

Result<std::string> CgroupLimit::read_burst() const {
  if (!burst_) return std::string();
  return read_file(burst_, unified_ ? kMaxBurst : kBurst);
}

Status CgroupLimit::write_burst(const std::string& burst) {
  if (!burst_ || burst.empty()) return {};
  return write_file(burst_, unified_ ? kMaxBurst : kBurst, burst);
}

double CgroupLimit::cpus_above() const {
  double least = std::numeric_limits<double>::infinity();
  fs::path above = fs::path(folder_).parent_path();
  for (; has(above, "cgroup.procs"); above = above.parent_path()) {
    least = std::min(least, cpus_in(above, unified_));
  }
  return least;
}

std::uint64_t CgroupLimit::threads(std::uint64_t enough) const {
  const char* const list = unified_ ? "cgroup.threads" : "tasks";
  std::uint64_t count = 0;
  const auto add = [&](const fs::path& folder) {
    std::ifstream file(folder / list);
    for (std::string line; count < enough && std::getline(file, line);) ++count;
  };
  add(folder_);
  std::error_code error;  // Groups come and go meanwhile.
  fs::recursive_directory_iterator entries(folder_, error);
  for (; !error && count < enough && entries != fs::end(entries); entries.increment(error)) {
    std::error_code ignored;
    if (entries->is_directory(ignored)) add(entries->path());
  }
  return count;
}

}  // namespace migrate
