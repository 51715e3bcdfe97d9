// CgroupThrottle: withholds processor time from a guest that is processes, by their cgroup's quota.
#pragma once

#include <memory>
#include <string>

#include "migrate/result.hpp"

namespace migrate {

/// A cgroup with the guest's processes in it, and in the groups below it: the mechanism behind
/// SourceGuest::throttle() for adapters of such guests. Version 2 (`cpu.max`) and version 1
/// (`cpu.cfs_quota_us`, `cpu.cfs_period_us`).
///
/// The quota is given out anew every 10 ms, so that whoever has used it up is held for less than
/// that. But the kernel looks at its own clock ticks, and what was used by then is paid for in the
/// periods that follow. With 4 ms between ticks (CONFIG_HZ=250) a thread that computes was held for
/// 2 to 5 ms at a time at a share of 0.2, 5 to 8 at 0.5, 12 to 28 at 0.8 and 24 to 36 at 0.9
/// (mean and most; Linux 6.18, one thread, 4 s each).
///
/// One thread at a time; not the guest's, which would hold itself. A process that is killed cannot
/// put the group's limit back: whoever finds the guest then has to.
class CgroupThrottle {
 public:
  /// The largest share withheld, as with vCPUs: a guest that does not run at all looks dead.
  static constexpr double kShareMax = 0.99;

  /// `folder`: the group's, such as /sys/fs/cgroup/system.slice/web.scope (v2) or
  /// /sys/fs/cgroup/cpu/web (v1). Changes nothing yet, but opens all that is needed, so that what
  /// may fail fails here: kNotFound without such a folder, kInvalidArgument where it is no cgroup
  /// or the topmost one, kUnsupported where groups like it have no limit (no cpu controller),
  /// kPermission without the right to write it.
  static Result<std::unique_ptr<CgroupThrottle>> create(const std::string& folder);
  /// As restore(); what fails is logged.
  virtual ~CgroupThrottle() = default;

  /// Lets the group have `1 - share` of cpus_max(), looked up anew. 0 is restore().
  /// kInvalidArgument for a share outside 0 to kShareMax changes nothing; after any other error all
  /// is as after restore(): kNotFound where the group is gone, kUnsupported where the kernel
  /// refuses the limit.
  ///
  /// No group is held to less than a tenth of a processor: the kernel's least quota is 1 ms, and in
  /// a longer period it would be a longer standstill. So a guest of one thread loses 0.9 at most;
  /// see withheld().
  virtual Status withhold(double share) = 0;

  /// Puts back exactly the limit that was there before withhold(), also where somebody else has
  /// changed it meanwhile. A group that is gone has no limit to put back. May be called again after
  /// an error, and without withhold().
  virtual Status restore() = 0;

  /// The processors that the group could use at most at the last withhold(): the least of its own
  /// former limit, those of the groups above it, and as many as are online or as it has threads. A
  /// share of a limit that the guest cannot reach would hold nobody: of 64 processors, a guest of
  /// one thread would have to lose more than 63 before it felt anything. 0 before.
  [[nodiscard]] virtual double cpus_max() const = 0;

  /// The share of cpus_max() that is withheld now.
  [[nodiscard]] virtual double withheld() const = 0;
};

}  // namespace migrate
