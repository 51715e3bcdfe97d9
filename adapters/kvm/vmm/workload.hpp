// GuestWorkload: what the demo guest does, as the user writes it: `writer:rate=200M,set=64M+idle`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/kvm/vmm/demo_guest/layout.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

using demo::Fill;
using demo::Pattern;
using demo::WorkKind;

/// What one vCPU does.
struct VcpuWork {
  WorkKind kind = WorkKind::kIdle;
  std::uint64_t rate_bytes_per_s = 0;  ///< Of pages written or checked; 0: as fast as it can.
  std::uint64_t set_bytes = 0;         ///< Pages it works on; 0: see kDefaultSetBytes.
  Pattern pattern = Pattern::kUniform;
  friend bool operator==(const VcpuWork&, const VcpuWork&) = default;
};

/// Unless the user says otherwise. A set shrinks to an eighth of a smaller memory.
inline constexpr std::uint64_t kDefaultSetBytes = 64ull << 20;
inline constexpr std::uint64_t kDefaultWriterRate = 100ull << 20;
/// The guest's pacing arithmetic stays within 64 bits up to here; no machine dirties this much.
inline constexpr std::uint64_t kRateMax = 16ull << 30;
inline constexpr std::uint64_t kDefaultSeed = 1;

struct GuestWorkload {
  std::vector<VcpuWork> vcpus;  ///< By vCPU; those past the end are idle.
  std::uint64_t seed = kDefaultSeed;
  Fill fill = Fill::kMixed;
  std::string file;  ///< Of Fill::kFile.
  friend bool operator==(const GuestWorkload&, const GuestWorkload&) = default;
};

/// Parses `NAME[:key=value,...][+NAME...]`; kInvalidArgument says what is accepted. An empty text
/// is idle. A file's name cannot hold a comma or a plus sign.
[[nodiscard]] Result<GuestWorkload> parse_workload(std::string_view text);
/// The text that parses to the same.
[[nodiscard]] std::string to_text(const GuestWorkload& workload);
/// Of one vCPU: "writer:rate=200M,set=64M,pattern=uniform".
[[nodiscard]] std::string to_text(const VcpuWork& work);

}  // namespace migrate::vmm
