#include "adapters/kvm/state_fit.hpp"

#include <cstring>
#include <string>

namespace migrate::kvm {
namespace {

/// XSTATE_BV's place in the area (Intel SDM volume 1, 13.4.2).
constexpr std::size_t kXstateBv = 512;
/// x87 and SSE, which are always there.
constexpr std::uint64_t kLegacyComponents = 3;

Error cannot_take(const std::string& what) {
  return make_error(ErrorCode::kIncompatible,
                    "the guest has " + what + " pending, which this host's KVM cannot be given")
      .advise("try again, or choose a target with a kernel as new as the source's");
}

}  // namespace

Result<kvm_vcpu_events> fit_events(kvm_vcpu_events events, const VcpuCaps& caps) {
  if (!caps.exception_payload && (events.flags & KVM_VCPUEVENT_VALID_PAYLOAD) != 0) {
    if (events.exception.pending != 0) return cannot_take("an exception");
    events.flags &= ~static_cast<__u32>(KVM_VCPUEVENT_VALID_PAYLOAD);
  }
  if (!caps.triple_fault && (events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) != 0) {
    if (events.triple_fault.pending != 0) return cannot_take("a triple fault");
    events.flags &= ~static_cast<__u32>(KVM_VCPUEVENT_VALID_TRIPLE_FAULT);
  }
  return events;
}

void fit_xsave(std::span<std::byte> area, std::uint64_t components) {
  if (area.size() < kXstateBv + sizeof(std::uint64_t)) return;
  std::uint64_t used = 0;
  std::memcpy(&used, area.data() + kXstateBv, sizeof used);
  used &= components | kLegacyComponents;
  std::memcpy(area.data() + kXstateBv, &used, sizeof used);
}

}  // namespace migrate::kvm
