// What a Linux guest's machine is on the wire, and what a target makes of it.
#include "adapters/kvm/vmm/linux_config.hpp"

#include <gmock/gmock.h>

#include "adapters/kvm/vmm/machine_section.hpp"
#include "tests/vmm_devices/temporary_disk.hpp"

namespace migrate::vmm {
namespace {

using test::TemporaryDisk;
using ::testing::HasSubstr;

constexpr std::uint64_t kDiskBytes = 1 << 20;

VmmConfig linux_config(const std::string& disk) {
  VmmConfig config;
  config.name = "web";
  config.memory_bytes = 64 << 20;
  config.vcpus = 2;
  LinuxGuest& guest = config.linux_guest.emplace();
  guest.kernel = "/boot/vmlinuz";
  guest.command_line = "console=ttyS0 quiet";
  guest.disks = {{disk, false, 0}, {disk, true, 0}};
  config.nets = {{"tap0", std::nullopt}, {"tap1", parse_mac("52:54:00:00:00:09").value()}};
  return config;
}

GuestDescription describe(const VmmConfig& config) {
  GuestDescription description;
  description.name = config.name;
  description.properties = encode_machine(config);
  return description;
}

class LinuxConfigTest : public ::testing::Test {
 protected:
  void SetUp() override {
    source_ = linux_config(disk_.path());
    const Status complete = complete_linux(source_);
    ASSERT_TRUE(complete) << complete.error().to_text();
    here_.disks = {{disk_.path(), false, 0}, {disk_.path(), true, 0}};
    here_.nets = {{"tap7", std::nullopt}, {"tap8", std::nullopt}};
  }
  /// What a target that has `here_` makes of the source's guest.
  Result<VmmConfig> arrive() const {
    MIGRATE_ASSIGN(VmmConfig config, decode_machine(describe(source_)));
    MIGRATE_TRY(fit_linux(config, here_));
    return config;
  }
  void expect_refused(const std::string& what, const std::string& remedy) const {
    const auto arrived = arrive();
    ASSERT_FALSE(arrived);
    EXPECT_EQ(arrived.error().code, ErrorCode::kIncompatible);
    EXPECT_THAT(arrived.error().message, HasSubstr(what));
    EXPECT_THAT(arrived.error().remedy, HasSubstr(remedy));
  }

  TemporaryDisk disk_{kDiskBytes};
  VmmConfig source_;
  ArrivalConfig here_;
};

TEST_F(LinuxConfigTest, WhatIsLeftOpenIsFilledInAndTheSameEachTime) {
  const LinuxGuest& guest = *source_.linux_guest;
  EXPECT_EQ(guest.disks[0].sectors, kDiskBytes / 512);
  ASSERT_TRUE(source_.nets[0].mac);
  EXPECT_TRUE(parse_mac(to_text(*source_.nets[0].mac)));
  EXPECT_EQ(to_text(*source_.nets[1].mac), "52:54:00:00:00:09");
  VmmConfig again = linux_config(disk_.path());
  ASSERT_TRUE(complete_linux(again));
  EXPECT_EQ(again.nets[0].mac, source_.nets[0].mac);
  again = linux_config(disk_.path());
  again.name = "other";
  ASSERT_TRUE(complete_linux(again));
  EXPECT_NE(again.nets[0].mac, source_.nets[0].mac);
}

TEST_F(LinuxConfigTest, ATargetMakesTheSameMachineOfItsOwnParts) {
  here_.kernel = "/boot/here";
  const auto arrived = arrive();
  ASSERT_TRUE(arrived) << arrived.error().to_text();
  EXPECT_EQ(arrived->memory_bytes, source_.memory_bytes);
  EXPECT_EQ(arrived->vcpus, 2u);
  const LinuxGuest& guest = *arrived->linux_guest;
  EXPECT_EQ(guest.command_line, "console=ttyS0 quiet");
  EXPECT_EQ(guest.kernel, "/boot/here") << "a peer's path is not opened";
  EXPECT_EQ(guest.disks[1].path, disk_.path());
  EXPECT_TRUE(guest.disks[1].read_only);
  EXPECT_EQ(arrived->nets[1].tap, "tap8");
  EXPECT_EQ(arrived->nets[0].mac, source_.nets[0].mac);
}

TEST_F(LinuxConfigTest, ACopysCardsGetAddressesOfTheirOwn) {
  here_.new_identity = true;
  here_.nets[1].mac = parse_mac("52:54:00:00:00:07").value();
  const auto one = arrive();
  const auto two = arrive();
  ASSERT_TRUE(one && two) << one.error().to_text();
  EXPECT_EQ(one->nets[0].former_mac, source_.nets[0].mac);
  EXPECT_NE(one->nets[0].mac, source_.nets[0].mac);
  EXPECT_NE(one->nets[0].mac, two->nets[0].mac);
  EXPECT_EQ(one->nets[0].mac->bytes[0] & 3, 2) << "locally administered, one card's";
  EXPECT_EQ(one->nets[1].mac, here_.nets[1].mac) << "as it was given here";
  // On its way from here it is a guest like any other.
  const auto next = decode_machine(describe(*one));
  ASSERT_TRUE(next);
  EXPECT_EQ(next->nets[0].mac, one->nets[0].mac);
  EXPECT_FALSE(next->nets[0].former_mac);
}

TEST_F(LinuxConfigTest, ATargetWithoutTheGuestsPartsRefusesIt) {
  const ArrivalConfig good = here_;
  here_.disks.pop_back();
  expect_refused("2 disks (1M; 1M, read-only), and 1 is given", "--disk FILE");
  here_ = good;
  here_.nets.clear();
  expect_refused("2 network cards", "--net tap=NAME");
  here_ = good;
  std::swap(here_.disks[0], here_.disks[1]);
  expect_refused("disk 1 of the guest is writable", "leave out ,ro");
  here_ = good;
  const TemporaryDisk other{2 * kDiskBytes};
  here_.disks[0].path = other.path();
  expect_refused("disk 1 of the guest has 2048 sectors, and", "both hosts share");
  here_ = good;
  here_.nets[1].mac = parse_mac("52:54:00:00:00:01").value();
  expect_refused("52:54:00:00:00:09", "leave out mac=");
  here_.nets[1].mac = parse_mac("52:54:00:00:00:09").value();
  EXPECT_TRUE(arrive());
}

TEST_F(LinuxConfigTest, WhatNoMachineCanHaveIsRefused) {
  VmmConfig config = source_;
  config.nets.resize(7);
  EXPECT_THAT(check_linux(config).error().message, HasSubstr("9 disks and network cards"));
  config = source_;
  config.memory_bytes += 4096;
  EXPECT_EQ(check_linux(config).error().code, ErrorCode::kInvalidArgument);
  config = source_;
  config.vcpus = 0;
  EXPECT_EQ(check_linux(config).error().code, ErrorCode::kInvalidArgument);
  config = source_;
  config.linux_guest->disks[0].path += "-none";
  EXPECT_EQ(complete_linux(config).error().code, ErrorCode::kNotFound);
}

TEST_F(LinuxConfigTest, ABrokenPeersBytesAreRefused) {
  const auto good = encode_machine(source_).front();
  GuestDescription description;
  for (std::size_t cut = 0; cut < good.body.size(); ++cut) {
    description.properties = {good};
    description.properties[0].body.resize(cut);
    const auto decoded = decode_machine(description);
    ASSERT_FALSE(decoded) << cut;
    EXPECT_EQ(decoded.error().code, ErrorCode::kProtocol) << cut;
  }
  for (std::size_t at = 0; at < good.body.size(); ++at) {
    for (const unsigned value : {0u, 1u, 0x7fu, 0xffu}) {
      description.properties = {good};
      description.properties[0].body[at] = static_cast<std::byte>(value);
      const auto decoded = decode_machine(description);
      if (!decoded) {
        EXPECT_EQ(decoded.error().code, ErrorCode::kProtocol) << decoded.error().to_text();
        continue;
      }
      EXPECT_TRUE(check_linux(*decoded));
    }
  }
}

}  // namespace
}  // namespace migrate::vmm
