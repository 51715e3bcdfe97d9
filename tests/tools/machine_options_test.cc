// What --disk, --net and --console take, and what is said of what they do not.
#include "tools/migrate/machine_options.hpp"

#include <gtest/gtest.h>

#include <filesystem>

namespace migrate::tool {
namespace {

using vmm::ConsoleKind;

TEST(MachineOptions, ADiskIsAFileThatMayBeOnlyRead) {
  const auto plain = parse_disk("/images/a.raw");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->path, "/images/a.raw");
  EXPECT_FALSE(plain->read_only);
  const auto read_only = parse_disk("/images/a,b.raw,ro");
  ASSERT_TRUE(read_only);
  EXPECT_EQ(read_only->path, "/images/a,b.raw");
  EXPECT_TRUE(read_only->read_only);
  const auto relative = parse_disk("a.raw");
  ASSERT_TRUE(relative);
  EXPECT_EQ(relative->path, (std::filesystem::current_path() / "a.raw").string());
}

TEST(MachineOptions, ANetworkCardIsATapAndPerhapsAnAddress) {
  const auto plain = parse_net("tap=vnet0");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->tap, "vnet0");
  EXPECT_FALSE(plain->mac);
  const auto addressed = parse_net("mac=52:54:00:12:34:56,tap=vnet0");
  ASSERT_TRUE(addressed);
  EXPECT_EQ(addressed->tap, "vnet0");
  ASSERT_TRUE(addressed->mac);
  EXPECT_EQ(vmm::to_text(*addressed->mac), "52:54:00:12:34:56");
}

TEST(MachineOptions, ANetworkCardHasAddressesOfBothProtocols) {
  const auto net = parse_net("tap=t,ip=192.0.2.7,mac=52:54:00:12:34:56,ip=2001:DB8::0007");
  ASSERT_TRUE(net);
  ASSERT_EQ(net->addresses.size(), 2u);
  EXPECT_EQ(vmm::to_text(net->addresses[0]), "192.0.2.7");
  EXPECT_EQ(vmm::to_text(net->addresses[1]), "2001:db8::7");
}

TEST(MachineOptions, AConsoleEndsAtOneOfFourPlaces) {
  const auto kind = [](const char* text) -> std::optional<ConsoleKind> {
    const auto console = parse_console(text);
    EXPECT_TRUE(console) << text;
    if (!console || !*console) return std::nullopt;
    return (*console)->kind;
  };
  EXPECT_EQ(kind("stdio"), ConsoleKind::kStandard);
  EXPECT_EQ(kind("pty"), ConsoleKind::kTerminal);
  EXPECT_EQ(kind("file:/tmp/x"), ConsoleKind::kFile);
  EXPECT_EQ(kind("none"), std::nullopt);
  EXPECT_EQ(kind(""), std::nullopt);
}

TEST(MachineOptions, WhatMakesNoSenseIsRefusedWithARemedy) {
  const auto refused = [](const auto& result, const char* text) {
    ASSERT_FALSE(result) << text;
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument) << text;
    EXPECT_FALSE(result.error().remedy.empty()) << text;
  };
  for (const char* text : {"", ",ro"}) refused(parse_disk(text), text);
  for (const char* text : {"",
                           "vnet0",
                           "tap=",
                           "tap=a,tap=b",
                           "tap=a,mac=1:2",
                           "ip=192.0.2.7",
                           "tap=a,announce=",
                           "tap=a,announce=b,announce=c",
                           "tap=a,ip=",
                           "tap=a,ip=192.0.2.7/24",
                           "tap=a,ip=192.0.2.256",
                           "tap=a,ip=0.0.0.0",
                           "tap=a,ip=127.0.0.1",
                           "tap=a,ip=224.0.0.1",
                           "tap=a,ip=255.255.255.255",
                           "tap=a,ip=::",
                           "tap=a,ip=::1",
                           "tap=a,ip=ff02::1",
                           "tap=a,ip=::ffff:192.0.2.7",
                           "tap=a,ip=fe80::1%x",
                           "tap=a,ip=192.0.2.7,ip=192.0.2.7",
                           "tap=a,ip=10.0.0.1,ip=10.0.0.2,ip=10.0.0.3,ip=10.0.0.4,ip=10.0.0.5,"
                           "ip=10.0.0.6,ip=10.0.0.7,ip=10.0.0.8,ip=10.0.0.9",
                           "mac=52:54:00:12:34:56"}) {
    refused(parse_net(text), text);
  }
  for (const char* text : {"file:", "tty", "PTY"}) refused(parse_console(text), text);
}

// A listener tells them to the process of each session.
TEST(MachineOptions, AChoiceIsTheSameAfterItsWords) {
  MachineOptions given;
  given.disks = {"/a", "b,ro"};
  given.nets = {"tap=t0,announce=br7", "tap=t1,mac=52:54:00:12:34:56,ip=192.0.2.7,ip=fe80::7"};
  given.console = "file:out";
  given.kernel = "vmlinuz";
  given.initrd = "initrd";
  const auto choice = parse_machine(given);
  ASSERT_TRUE(choice);
  MachineOptions told;
  CLI::App app;
  add_machine_options(app, told, nullptr);
  app.add_option("--kernel", told.kernel);
  app.add_option("--initrd", told.initrd);
  auto words = machine_arguments(*choice);
  std::reverse(words.begin(), words.end());  // As CLI11 wants them.
  app.parse(words);
  const auto again = parse_machine(told);
  ASSERT_TRUE(again);
  EXPECT_EQ(machine_arguments(*again), machine_arguments(*choice));
  ASSERT_EQ(again->disks.size(), 2u);
  EXPECT_TRUE(again->disks[1].read_only);
  ASSERT_EQ(again->nets.size(), 2u);
  EXPECT_EQ(again->nets[0].announce, "br7");
  EXPECT_EQ(again->nets[1].announce, "");
  EXPECT_EQ(again->nets[1].tap, "t1");
  EXPECT_EQ(again->nets[1].addresses.size(), 2u);
  EXPECT_EQ(again->kernel, (std::filesystem::current_path() / "vmlinuz").string());
}

}  // namespace
}  // namespace migrate::tool
