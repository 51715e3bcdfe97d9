// CgroupLimit: the files of a cgroup that say how much processor time it may use.
#pragma once

#include <cstdint>
#include <string>

#include "base/cpu_limit.hpp"
#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// One thread at a time.
class CgroupLimit {
 public:
  /// Errors as CgroupThrottle::create(). The files stay open: what is begun can be ended, whatever
  /// becomes of this process's rights and descriptors.
  static Result<CgroupLimit> open(const std::string& folder);

  /// kNotFound once the group is gone; so with all below.
  [[nodiscard]] Result<CpuLimit> read() const;
  /// In version 1, in steps: between two of them the group may have no limit of its own.
  Status write(const CpuLimit& limit);

  /// What the group may use on top of its quota after it has used less of it (microseconds, as the
  /// file has it); empty where the kernel knows no such thing. No quota may be below it.
  [[nodiscard]] Result<std::string> read_burst() const;
  /// Of what read_burst() gave, or "0".
  Status write_burst(const std::string& burst);

  /// The least of the limits of the groups above, in processors.
  [[nodiscard]] double cpus_above() const;
  /// Threads in the group and those below it, as far as `enough`; 0 where none can be seen.
  [[nodiscard]] std::uint64_t threads(std::uint64_t enough) const;

 private:
  CgroupLimit() = default;
  Status open_files();
  [[nodiscard]] Result<std::string> read_file(const Fd& file, const char* name) const;
  Status write_file(const Fd& file, const char* name, const std::string& text) const;

  std::string folder_;
  bool unified_ = false;  // Version 2.
  Fd quota_;              // In version 2 quota and period.
  Fd period_;             // Version 1.
  Fd burst_;              // Linux 5.14.
};

}  // namespace migrate
