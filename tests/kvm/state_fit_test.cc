// What a host with other capabilities takes of a saved state, and in which order MSRs go.
#include "adapters/kvm/state_fit.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "adapters/kvm/msrs.hpp"

namespace migrate::kvm {
namespace {

struct EventsCase {
  const char* name;
  bool host_has;
  bool pending;
  bool refused;
};

constexpr EventsCase kCases[] = {
    {"known and pending", true, true, false},
    {"known and idle", true, false, false},
    {"unknown and idle", false, false, false},
    {"unknown and pending", false, true, true},
};

TEST(FitEvents, APayloadThatIsPendingNeedsAKernelThatTakesIt) {
  for (const EventsCase& c : kCases) {
    kvm_vcpu_events events{};
    events.flags = KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_NMI_PENDING;
    events.exception.pending = c.pending ? 1 : 0;
    VcpuCaps caps;
    caps.exception_payload = c.host_has;
    const auto fit = fit_events(events, caps);
    ASSERT_EQ(fit.has_value(), !c.refused) << c.name;
    if (!fit) {
      EXPECT_EQ(fit.error().code, ErrorCode::kIncompatible);
      EXPECT_FALSE(fit.error().remedy.empty());
      continue;
    }
    EXPECT_EQ((fit->flags & KVM_VCPUEVENT_VALID_PAYLOAD) != 0, c.host_has) << c.name;
    EXPECT_NE(fit->flags & KVM_VCPUEVENT_VALID_NMI_PENDING, 0U) << "others are left alone";
    EXPECT_EQ(fit->exception.pending, events.exception.pending);
  }
}

TEST(FitEvents, ATripleFaultThatIsPendingIsNotLost) {
  for (const EventsCase& c : kCases) {
    kvm_vcpu_events events{};
    events.flags = KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    events.triple_fault.pending = c.pending ? 1 : 0;
    VcpuCaps caps;
    caps.triple_fault = c.host_has;
    const auto fit = fit_events(events, caps);
    ASSERT_EQ(fit.has_value(), !c.refused) << c.name;
    if (fit) {
      EXPECT_EQ((fit->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) != 0, c.host_has) << c.name;
    }
  }
}

TEST(FitXsave, OnlyComponentsTheGuestCanHaveAreLeft) {
  std::vector<std::byte> area(4096, std::byte{0x11});
  const std::uint64_t used = 0x2e7;
  std::memcpy(area.data() + 512, &used, sizeof used);
  const std::vector<std::byte> before = area;
  fit_xsave(area, 0x4);
  std::uint64_t left = 0;
  std::memcpy(&left, area.data() + 512, sizeof left);
  EXPECT_EQ(left, 0x7U) << "x87 and SSE are always there";
  std::memcpy(area.data() + 512, &used, sizeof used);
  EXPECT_EQ(area, before) << "nothing else is touched";
  std::vector<std::byte> stub(519);
  fit_xsave(stub, 0);
}

TEST(MsrOrder, FeaturesComeFirstAndCountersAreSwitchedOnLast) {
  std::vector<kvm_msr_entry> values;
  for (const std::uint32_t index :
       {0x38fU, 0x10U, 0xc0000301U, 0xc1U, 0x345U, 0x174U, 0x48dU, 0x10aU, 0x186U}) {
    values.push_back({index, 0, 0});
  }
  sort_for_loading(values);
  std::vector<std::uint32_t> order;
  for (const kvm_msr_entry& entry : values) order.push_back(entry.index);
  EXPECT_EQ(order, (std::vector<std::uint32_t>{0x345, 0x48d, 0x10a, 0x10, 0xc1, 0x174, 0x186, 0x38f,
                                               0xc0000301}));
}

}  // namespace
}  // namespace migrate::kvm
