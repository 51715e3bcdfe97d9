#include "adapters/kvm/vmm/demo_stats.hpp"

#include <algorithm>
#include <atomic>
#include <limits>

namespace migrate::vmm {
namespace {

using demo::CardCounters;
using demo::ControlBlock;
using demo::VcpuCounters;

/// The guest writes beside this.
template <typename T>
T load(T& field) {
  return std::atomic_ref<T>(field).load(std::memory_order_relaxed);
}

std::string name_of(demo::ErrorKind kind) {
  switch (kind) {
    case demo::ErrorKind::kNone:
      break;
    case demo::ErrorKind::kFill:
      return "fill";
    case demo::ErrorKind::kStale:
      return "stale";
    case demo::ErrorKind::kMisplaced:
      return "misplaced";
    case demo::ErrorKind::kCorrupt:
      return "corrupt";
    case demo::ErrorKind::kRegisters:
      return "registers";
    case demo::ErrorKind::kClock:
      return "clock";
    case demo::ErrorKind::kCard:
      return "card";
  }
  return "unknown";
}

VerifyFailure first_failure(std::uint32_t vcpu, VcpuCounters& counters) {
  return {name_of(load(counters.first_kind)), vcpu, load(counters.first_page),
          load(counters.first_expected), load(counters.first_found)};
}

bool checks_nothing(demo::VcpuPlan& plan) {
  return load(plan.share_pages) == 0 &&
         (load(plan.kind) != WorkKind::kWriter || load(plan.set_pages) == 0);
}

std::uint64_t uptime_ms(ControlBlock& plan, VcpuCounters& counters) {
  const std::uint32_t khz = load(plan.tsc_khz);
  return khz == 0 ? 0 : load(counters.uptime_ticks) / khz;
}

void add_packets(PacketStats& packets, CardCounters& counters) {
  packets.arp += load(counters.arp);
  packets.icmp += load(counters.icmp);
  packets.udp += load(counters.udp);
  packets.ndp += load(counters.ndp);
  packets.icmpv6 += load(counters.icmpv6);
  packets.ignored += load(counters.ignored);
  packets.malformed += load(counters.malformed);
}

}  // namespace

Result<GuestStats> read_demo_stats(const GuestMemory& memory, const VmmConfig& config) {
  auto& plan = *memory.at<ControlBlock>(demo::kControlBlock);
  if (load(plan.magic) != ControlBlock::kMagic) {
    return make_error(ErrorCode::kBusy, "the guest's memory has not arrived yet");
  }
  GuestStats stats;
  stats.uptime_ms = uptime_ms(plan, *memory.at<VcpuCounters>(demo::kCounters));
  constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t passes = kNone;
  for (std::uint32_t i = 0; i < config.vcpus; ++i) {
    auto& counters = *memory.at<VcpuCounters>(demo::kCounters + i * sizeof(VcpuCounters));
    const VcpuWork work = i < config.workload.vcpus.size() ? config.workload.vcpus[i] : VcpuWork{};
    stats.vcpus.push_back({to_text(work), load(counters.work), 0});
    stats.pages_written += load(counters.pages_written);
    // All of memory has been checked as often as the share checked least.
    if (!checks_nothing(plan.plans[i])) passes = std::min(passes, load(counters.passes));
    const std::uint64_t errors = load(counters.errors);
    stats.verify_errors += errors;
    if (errors != 0 && !stats.first_error) stats.first_error = first_failure(i, counters);
  }
  for (std::size_t i = 0; i < config.nets.size(); ++i) {
    add_packets(stats.packets,
                *memory.at<CardCounters>(demo::kCardCounters + i * sizeof(CardCounters)));
  }
  stats.verify_passes = passes == kNone ? 0 : passes;
  return stats;
}

}  // namespace migrate::vmm
