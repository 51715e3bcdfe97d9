#include "migrate/cgroup_throttle.hpp"

#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/cgroup_limit.hpp"
#include "base/log.hpp"

namespace migrate {
namespace {

class QuotaThrottle final : public CgroupThrottle {
 public:
  explicit QuotaThrottle(CgroupLimit files) : files_(std::move(files)) {}
  ~QuotaThrottle() override {
    if (const Status back = put_back(); !back) {
      log_line(LogLevel::kError, "a throttled guest stays so: " + back.error().to_text());
    }
  }

  Status withhold(double share) override {
    if (!(share >= 0 && share <= kShareMax)) {
      return make_error(ErrorCode::kInvalidArgument,
                        "no share of run time to withhold: " + std::to_string(share))
          .advise("give one from 0 to " + std::to_string(kShareMax));
    }
    if (share == 0) return restore();
    Status held = hold(share);
    // The first error is the one to tell; this one comes again in restore().
    if (!held) (void)restore();
    return held;
  }

  Status restore() override { return put_back(); }
  [[nodiscard]] double cpus_max() const override { return cpus_max_; }
  [[nodiscard]] double withheld() const override { return withheld_; }

 private:
  struct Former {
    CpuLimit limit;
    std::string burst;
  };

  Status hold(double share) {
    if (!former_) {
      MIGRATE_ASSIGN(const CpuLimit limit, files_.read());
      MIGRATE_ASSIGN(std::string burst, files_.read_burst());
      former_ = Former{limit, std::move(burst)};
    }
    cpus_max_ = look_up_cpus();
    const auto limit = limit_withholding(share, cpus_max_);
    // Held to less already.
    if (!limit) return restore();
    MIGRATE_TRY(files_.write_burst("0"));
    MIGRATE_TRY(files_.write(*limit));
    withheld_ = 1 - cpus_of(*limit) / cpus_max_;
    return {};
  }

  [[nodiscard]] double look_up_cpus() const {
    const auto online = static_cast<std::uint64_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
    const std::uint64_t threads = files_.threads(online);
    // Where none is seen, they are somebody else's to see.
    const auto running = static_cast<double>(threads > 0 ? threads : online);
    return std::min({running, cpus_of(former_->limit), files_.cpus_above()});
  }

  Status put_back() {
    if (!former_) return {};
    Status back = files_.write(former_->limit);
    if (back) back = files_.write_burst(former_->burst);
    if (!back && back.error().code != ErrorCode::kNotFound) return back;
    former_.reset();
    withheld_ = 0;
    return {};
  }

  CgroupLimit files_;
  std::optional<Former> former_;  // Nothing is withheld without it.
  double cpus_max_ = 0;
  double withheld_ = 0;
};

}  // namespace

Result<std::unique_ptr<CgroupThrottle>> CgroupThrottle::create(const std::string& folder) {
  MIGRATE_ASSIGN(auto files, CgroupLimit::open(folder));
  return std::unique_ptr<CgroupThrottle>(std::make_unique<QuotaThrottle>(std::move(files)));
}

}  // namespace migrate
