// The demo guest's responder: looks for frames again and again, and answers them. Only for the
// guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/card.hpp"
#include "adapters/kvm/vmm/demo_guest/check.hpp"

namespace migrate::vmm::demo {

// Between two looks of one that has been asked lately, and of one that has not. So an answer takes
// a fifth of a millisecond at most where milliseconds are measured, and silence costs little.
inline constexpr std::uint32_t kLookAgainUs = 200;
inline constexpr std::uint32_t kQuietLookAgainUs = 1000;
inline constexpr std::uint64_t kLatelyUs = 100'000;
// Spent on checking before each wait.
inline constexpr std::uint64_t kResponderSliceUs = 20;

/// The card that a vCPU drives; null for none, which the VMM does not make.
inline const CardPlan* card_of(std::uint64_t vcpu) {
  for (const CardPlan& card : control().cards) {
    if (card.present != 0 && card.vcpu == vcpu) return &card;
  }
  return nullptr;
}

[[noreturn]] inline void run_responder(VcpuState& vcpu, std::uint64_t id) {
  const CardPlan* const plan = card_of(id);
  Walk walk(vcpu);
  while (plan == nullptr) port_out(kPortWait, kQuietLookAgainUs);
  auto* const counters = reinterpret_cast<volatile CardCounters*>(kCardCounters);
  Card card(vcpu, *plan, counters[plan - control().cards]);
  card.start();
  std::uint64_t quiet_ticks = 0;
  for (;;) {
    quiet_ticks += vcpu.tick();
    if (const std::uint64_t frames = card.poll(); frames != 0) {
      quiet_ticks = 0;
      vcpu.counters.work = vcpu.counters.work + frames;
      walk.check(1);
      continue;
    }
    walk.check_for(VcpuState::ticks(kResponderSliceUs));
    card.check_next();
    const bool lately = quiet_ticks < VcpuState::ticks(kLatelyUs);
    port_out(kPortWait, lately ? kLookAgainUs : kQuietLookAgainUs);
  }
}

}  // namespace migrate::vmm::demo
