// The frames byte by byte, as an implementation of the RFCs by other means made them.
#include "net-takeover/frames.hpp"

#include <gtest/gtest.h>

#include <string>

namespace migrate::takeover {
namespace {

std::string hex(const std::vector<std::byte>& bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : bytes) {
    text += kDigits[std::to_integer<unsigned>(byte) >> 4];
    text += kDigits[std::to_integer<unsigned>(byte) & 0xf];
  }
  return text;
}

MacAddress mac() { return *parse_mac("52:54:00:12:34:56"); }
IpAddress ip(std::string_view text) { return *parse_ip(text); }

struct Golden {
  const char* name;
  Frame frame;
  const char* bytes;
};

std::vector<Golden> golden() {
  return {
      {"ARP announcement", arp_request(mac(), ip("192.0.2.7"), std::nullopt),
       "ffffffffffff52540012345608060001080006040001525400123456c0000207"
       "000000000000c0000207000000000000000000000000000000000000"},
      {"ARP reply", arp_reply(mac(), ip("192.0.2.7"), std::nullopt),
       "ffffffffffff52540012345608060001080006040002525400123456c0000207"
       "525400123456c0000207000000000000000000000000000000000000"},
      {"ARP reply in a VLAN", arp_reply(mac(), ip("192.0.2.7"), 42),
       "ffffffffffff5254001234568100002a08060001080006040002525400123456"
       "c0000207525400123456c00002070000000000000000000000000000"},
      {"RARP", reverse_request(mac(), std::nullopt),
       "ffffffffffff5254001234568035000108000604000352540012345600000000"
       "52540012345600000000000000000000000000000000000000000000"},
      {"NA", neighbour_advertisement(mac(), ip("2001:db8::7"), std::nullopt),
       "33330000000152540012345686dd6000000000203aff20010db8000000000000"
       "000000000007ff02000000000000000000000000000188007463200000002001"
       "0db80000000000000000000000070201525400123456"},
      {"NA in a VLAN", neighbour_advertisement(mac(), ip("2001:db8::7"), 4094),
       "33330000000152540012345681000ffe86dd6000000000203aff20010db80000"
       "00000000000000000007ff020000000000000000000000000001880074632000"
       "000020010db80000000000000000000000070201525400123456"},
      {"NA of a link-local address",
       neighbour_advertisement(mac(), ip("fe80::5054:ff:fe12:3456"), std::nullopt),
       "33330000000152540012345686dd6000000000203afffe800000000000005054"
       "00fffe123456ff0200000000000000000000000000018800cb6820000000fe80"
       "000000000000505400fffe1234560201525400123456"},
  };
}

TEST(Frames, AreByteByByteWhatTheStandardsSay) {
  for (const Golden& one : golden()) EXPECT_EQ(hex(one.frame.bytes), one.bytes) << one.name;
}

TEST(Frames, NoneIsTooShortForEthernetNorLongerThanItsMtuAllows) {
  for (const Golden& one : golden()) {
    EXPECT_GE(one.frame.bytes.size(), kFrameBytesMin) << one.name;
    EXPECT_LE(one.frame.bytes.size(), 18 + kPayloadBytesMax) << one.name;
  }
}

std::vector<std::string> kinds(const std::vector<Frame>& frames) {
  std::vector<std::string> names;
  for (const Frame& frame : frames) names.emplace_back(frame.kind);
  return names;
}

TEST(Frames, ACardIsAnnouncedByEachOfItsAddresses) {
  const std::vector<IpAddress> ips = {ip("192.0.2.7"), ip("2001:db8::7"), ip("fe80::7")};
  EXPECT_EQ(kinds(frames_of(mac(), ips, std::nullopt)),
            (std::vector<std::string>{"arp-request", "arp-reply", "na", "na"}));
}

TEST(Frames, ACardWithoutAddressesIsAnnouncedToSwitches) {
  EXPECT_EQ(kinds(frames_of(mac(), {}, std::nullopt)), std::vector<std::string>{"rarp"});
}

TEST(NetAddress, AMachinesAddressesAreTakenAndToldAlike) {
  for (const char* text : {"192.0.2.7", "10.0.0.1", "2001:db8::7", "fe80::1"}) {
    const auto parsed = parse_ip(text);
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(to_text(*parsed), text);
  }
}

TEST(NetAddress, WhatNoCardHasIsRefusedWithARemedy) {
  for (const char* text :
       {"", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "0.1.2.3", "::", "::1",
        "ff02::1", "192.0.2.7/24", "192.0.2", "guest", "1.2.3.4.5", "fe80::1%eth0"}) {
    const auto parsed = parse_ip(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument) << text;
    EXPECT_FALSE(parsed.error().remedy.empty()) << text;
  }
  for (const char* text : {"", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01",
                           "52:54:00:12:34", "52-54-00-12-34-56", "52:54:00:12:34:5g"}) {
    EXPECT_FALSE(parse_mac(text)) << text;
  }
  for (const char* text : {"", "0", "4095", "-1", "1x", "70000"})
    EXPECT_FALSE(parse_vlan(text)) << text;
  EXPECT_EQ(parse_vlan("4094").value_or(0), 4094);
}

}  // namespace
}  // namespace migrate::takeover
