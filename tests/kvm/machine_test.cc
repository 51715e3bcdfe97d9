// The machine in a description: what a VMM builds from, and what a peer may not make it build.
#include "adapters/kvm/machine.hpp"

#include <gtest/gtest.h>

namespace migrate {
namespace {

std::byte* const kSomewhere = reinterpret_cast<std::byte*>(0x1000);

KvmMemorySlot slot(std::uint32_t number, std::uint64_t address, std::uint64_t bytes) {
  KvmMemorySlot result;
  result.slot = number;
  result.guest_address = {address};
  result.bytes = bytes;
  result.host = kSomewhere;
  result.backing = Backing::kMemfd;
  return result;
}

KvmVm vm() {
  KvmVm result;
  result.vm_fd = 1;
  result.vcpu_fds = {2, 3};
  result.irqchip = true;
  result.slots = {slot(0, 0, 1 << 20), slot(4, 1ull << 32, 3 << 20)};
  result.slots[1].read_only = true;
  return result;
}

GuestDescription description() {
  GuestDescription result;
  result.vcpus = 2;
  for (const KvmMemorySlot& each : vm().slots) result.regions.push_back(region_of(each));
  result.properties.push_back(kvm::machine_property(vm(), 2'600'000));
  return result;
}

TEST(KvmMachine, IsReadAsItWasDescribed) {
  const auto machine = kvm_machine(description());
  ASSERT_TRUE(machine) << machine.error().to_text();
  EXPECT_EQ(machine->vcpus, 2U);
  EXPECT_TRUE(machine->irqchip);
  EXPECT_FALSE(machine->pit);
  EXPECT_EQ(machine->tsc_khz, 2'600'000U);
  ASSERT_EQ(machine->slots.size(), 2U);
  EXPECT_EQ(machine->slots[1].slot, 4U);
  EXPECT_EQ(machine->slots[1].guest_address.value, 1ull << 32);
  EXPECT_EQ(machine->slots[1].bytes, 3U << 20);
  EXPECT_TRUE(machine->slots[1].read_only);
  EXPECT_TRUE(kvm::check_built(*machine, vm()));
}

TEST(KvmMachine, ADoctoredDescriptionIsRefused) {
  const auto refused = [](auto change) {
    GuestDescription doctored = description();
    change(doctored);
    return !kvm_machine(doctored);
  };
  EXPECT_FALSE(refused([](GuestDescription&) {}));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.kind = GuestKind::kContainer; }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.vcpus = 0; }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.vcpus = 1'000'000; }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.regions.clear(); }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.regions.pop_back(); }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.regions[1].id.space = 1; }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.regions[1].id.id = 0; }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.regions[1].range.first = {255}; }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.regions[0].range.count = 0; }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.regions[1].range.count = ~0ull; }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.regions[1].range.first = {~0ull}; }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.properties.clear(); }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.properties[0].info.version = 2; }));
  for (std::size_t length = 0; length < description().properties[0].body.size(); ++length) {
    EXPECT_TRUE(refused([&](GuestDescription& d) { d.properties[0].body.resize(length); }));
  }
  EXPECT_TRUE(refused([](GuestDescription& d) { d.properties[0].body.push_back({}); }));
  EXPECT_TRUE(refused([](GuestDescription& d) { d.properties[0].body[0] = std::byte{0x80}; }));
}

TEST(KvmMachine, WhatTheVmmBuiltIsCompared) {
  const auto machine = kvm_machine(description());
  ASSERT_TRUE(machine);
  const auto refused = [&](auto change) {
    KvmVm built = vm();
    change(built);
    return !kvm::check_built(*machine, built);
  };
  EXPECT_TRUE(refused([](KvmVm& v) { v.vm_fd = -1; }));
  EXPECT_TRUE(refused([](KvmVm& v) { v.vcpu_fds.pop_back(); }));
  EXPECT_TRUE(refused([](KvmVm& v) { v.irqchip = false; }));
  EXPECT_TRUE(refused([](KvmVm& v) { v.pit = true; }));
  EXPECT_TRUE(refused([](KvmVm& v) { v.slots.pop_back(); }));
  EXPECT_TRUE(refused([](KvmVm& v) { v.slots[0].bytes /= 2; }));
  EXPECT_TRUE(refused([](KvmVm& v) { v.slots[0].slot = 9; }));
  EXPECT_TRUE(refused([](KvmVm& v) { v.slots[0].host = nullptr; }));
}

}  // namespace
}  // namespace migrate
