// Policies as others have published them, to compare with.
#pragma once

#include "migrate/policy.hpp"

namespace migrate::precopy {

/// Clark et al., Live Migration of Virtual Machines, NSDI 2005, 5.3.1 and what became of it in Xen:
/// the first round at the least rate, each next one at the rate of dirtying seen in the last plus a
/// constant; the end after 29 rounds, with fewer than 50 pages left, with 3 times the memory sent,
/// or when the rate would have to be more than the most. It promises no downtime and is never
/// stuck. Rates are the paper's, 100 to 500 Mbit/s in steps of 50; with a limit of the user's they
/// are a fifth of it, all of it and a tenth.
class XenPolicy final : public PrecopyPolicy {
 public:
  [[nodiscard]] std::string name() const override { return "xen"; }
  [[nodiscard]] std::uint64_t first_rate(std::uint64_t bandwidth_bytes_per_s) const override;
  [[nodiscard]] PolicyDecision decide(const PolicyInput& input) const override;
};

/// QEMU's migration_iteration_run(): the end when what remains, over the bandwidth measured in the
/// last round (its bytes over its time), is within the downtime limit; fixed costs do not count.
/// Stuck as its auto-converge is: when twice more than half of what was sent was dirtied meanwhile.
class QemuPolicy final : public PrecopyPolicy {
 public:
  [[nodiscard]] std::string name() const override { return "qemu"; }
  [[nodiscard]] std::uint64_t first_rate(std::uint64_t) const override { return 0; }
  [[nodiscard]] PolicyDecision decide(const PolicyInput& input) const override;
};

/// So many rounds, whatever they bring.
class FixedPolicy final : public PrecopyPolicy {
 public:
  explicit FixedPolicy(std::uint32_t rounds) : rounds_(rounds) {}
  [[nodiscard]] std::string name() const override { return "fixed:" + std::to_string(rounds_); }
  [[nodiscard]] std::uint64_t first_rate(std::uint64_t) const override { return 0; }
  [[nodiscard]] PolicyDecision decide(const PolicyInput& input) const override;

 private:
  const std::uint32_t rounds_;
};

}  // namespace migrate::precopy
