#include <gtest/gtest.h>

#include "adapters/kvm/vmm/devices/panic_port.hpp"
#include "adapters/kvm/vmm/devices/power_ports.hpp"
#include "tests/vmm_devices/device_fixture.hpp"

namespace migrate::vmm::test {
namespace {

TEST(PowerPorts, OnlyTheOrderOfSleepFiveSwitchesOff) {
  std::vector<PowerEvent> events;
  PowerPorts ports([&events](PowerEvent event) { events.push_back(event); });
  out8(ports, PowerPorts::kSleepStatus, 0x80);
  for (const unsigned value : {0u, 5u << 2, 1u << 5, 4u << 2 | 1u << 5}) {
    out8(ports, PowerPorts::kSleepControl, value);
  }
  EXPECT_TRUE(events.empty());
  out8(ports, PowerPorts::kSleepControl, 5u << 2 | 1u << 5);
  EXPECT_EQ(events, std::vector{PowerEvent::kOff});
  EXPECT_EQ(in8(ports, PowerPorts::kSleepStatus), 0) << "the guest is not told that it woke";
}

TEST(PowerPorts, TheResetValueResets) {
  std::vector<PowerEvent> events;
  PowerPorts ports([&events](PowerEvent event) { events.push_back(event); });
  out8(ports, PowerPorts::kReset, 0);
  out8(ports, PowerPorts::kReset, 6);
  EXPECT_TRUE(events.empty());
  out8(ports, PowerPorts::kReset, PowerPorts::kResetValue);
  EXPECT_EQ(events, std::vector{PowerEvent::kReset});
}

TEST(PanicPort, TellsWhatItTakesAndReportsIt) {
  std::vector<PanicEvent> events;
  PanicPort port([&events](PanicEvent event) { events.push_back(event); });
  EXPECT_EQ(in8(port, 0), 3);
  out8(port, 0, 0xfc);
  EXPECT_TRUE(events.empty());
  out8(port, 0, 2);
  out8(port, 0, 1);
  EXPECT_EQ(events, (std::vector{PanicEvent::kCrashKernel, PanicEvent::kPanicked}));
}

}  // namespace
}  // namespace migrate::vmm::test
