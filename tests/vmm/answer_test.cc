// What a responder makes of frames: its own code, without a guest around it.
#include "adapters/kvm/vmm/demo_guest/answer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "adapters/kvm/vmm/demo_guest/card_memory.hpp"
#include "tests/vmm/frames.hpp"

namespace migrate::vmm::test {
namespace {

using demo::AnswerKind;

demo::CardPlan card() {
  demo::CardPlan plan;
  std::memcpy(plan.mac, kGuestMac.data(), 6);
  plan.addresses[0].version = 4;
  std::memcpy(plan.addresses[0].bytes, ip4(kGuestIp).data(), 4);
  plan.addresses[3].version = 6;
  std::memcpy(plan.addresses[3].bytes, ip6(kGuestIp6).data(), 16);
  return plan;
}

struct Answered {
  AnswerKind kind;
  Bytes frame;
};
/// In memory of exactly the sizes that are promised, so that sanitizers see what goes beyond.
Answered answer(const Bytes& frame) {
  const demo::CardPlan plan = card();
  const std::vector<demo::Byte> in(frame.begin(), frame.end());
  std::vector<demo::Byte> out(demo::kFrameMax);
  const auto made = demo::answer_frame(plan, in.data(), in.size(), out.data());
  EXPECT_LE(made.bytes, out.size());
  return {made.kind, Bytes(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(made.bytes))};
}

/// The frame with its addresses turned round.
Bytes returned(const Bytes& frame) { return frame.substr(6, 6) + frame.substr(0, 6); }

TEST(Answer, ArpTellsTheMacAddress) {
  const auto [kind, frame] = answer(arp());
  EXPECT_EQ(kind, AnswerKind::kArp);
  EXPECT_EQ(frame, kPeerMac + kGuestMac + Bytes("\x08\x06\0\1\x08\0\6\4\0\2", 10) + kGuestMac +
                       ip4(kGuestIp) + kPeerMac + ip4(kPeerIp));
  // As a neighbour asks that has known it before.
  EXPECT_EQ(answer(arp({1, kGuestIp, kGuestMac})).frame, frame);
  // Behind the shortest frame's padding.
  EXPECT_EQ(answer(arp() + Bytes(18, '\x55')).frame, frame);
}

TEST(Answer, UdpEchoKeepsThePayload) {
  for (const std::size_t bytes : {0u, 1u, 2u, 17u, 18u, 1472u}) {
    Bytes payload(bytes, '\0');
    for (std::size_t i = 0; i < bytes; ++i) payload[i] = static_cast<char>(i * 7);
    const Bytes request = udp4(payload);
    const auto [kind, frame] = answer(request);
    ASSERT_EQ(kind, AnswerKind::kUdp) << bytes;
    ASSERT_EQ(frame.size(), request.size());
    EXPECT_EQ(frame.substr(0, 12), returned(request));
    EXPECT_EQ(checksum(frame.substr(14, 20)), Bytes(2, '\0'));
    EXPECT_EQ(frame.substr(26, 8), ip4(kGuestIp) + ip4(kPeerIp));
    const Bytes datagram = frame.substr(34);
    EXPECT_EQ(datagram.substr(0, 4), number16(7) + number16(kPeerPort));
    EXPECT_EQ(datagram.substr(8), payload);
    const Ipv4 back{kGuestIp, kPeerIp};
    EXPECT_EQ(checksum(pseudo4(back, datagram) + datagram), Bytes(2, '\0'));
  }
  // Without a checksum, with options before it, and with padding behind it.
  EXPECT_EQ(answer(ipv4(17, udp("x"))).kind, AnswerKind::kUdp);
  Ipv4 with_options;
  with_options.first = 0x46;
  with_options.options = Bytes("\x94\x04\0\0", 4);
  const auto optional = answer(udp4("x", with_options));
  EXPECT_EQ(optional.kind, AnswerKind::kUdp);
  EXPECT_EQ(optional.frame, answer(udp4("x")).frame);
  EXPECT_EQ(answer(udp4("x") + Bytes(17, '\x55')).frame, answer(udp4("x")).frame);
}

// A checksum that comes to 0 is sent as 0xffff: 0 would say that there is none.
TEST(Answer, NoUdpEchoIsWithoutAChecksum) {
  for (unsigned i = 0; i < 0x10000; ++i) {
    const auto [kind, frame] = answer(udp6(number16(i)));
    ASSERT_EQ(kind, AnswerKind::kUdp);
    ASSERT_NE(frame.substr(14 + 40 + 6, 2), Bytes(2, '\0')) << i;
  }
}

TEST(Answer, UdpEchoOverIpv6) {
  const auto [kind, frame] = answer(udp6("over six"));
  ASSERT_EQ(kind, AnswerKind::kUdp);
  EXPECT_EQ(frame.substr(14 + 8, 32), ip6(kGuestIp6) + ip6(kPeerIp6));
  const Bytes datagram = frame.substr(54);
  EXPECT_EQ(datagram.substr(8), "over six");
  Ipv6 back;
  back.from = kGuestIp6;
  back.to = kPeerIp6;
  EXPECT_EQ(checksum(pseudo6(back, 17, datagram) + datagram), Bytes(2, '\0'));
}

TEST(Answer, EchoRequestsOfBothProtocols) {
  const Bytes rest = Bytes("\0\1\0\2", 4) + "payload of an echo";
  const auto [kind, frame] = answer(icmp(8, rest));
  EXPECT_EQ(kind, AnswerKind::kIcmp);
  EXPECT_EQ(frame.substr(34), icmp_message(0, rest));
  const auto six = answer(icmp6(128, rest));
  EXPECT_EQ(six.kind, AnswerKind::kIcmpv6);
  Ipv6 back;
  back.from = kGuestIp6;
  back.to = kPeerIp6;
  EXPECT_EQ(six.frame.substr(54), icmp6(129, rest, back).substr(54));
}

Bytes advertisement(const char* to, int flags) {
  Ipv6 back;
  back.from = kGuestIp6;
  back.to = to;
  return icmp6(136,
               Bytes(1, static_cast<char>(flags)) + Bytes(3, '\0') + ip6(kGuestIp6) +
                   Bytes("\2\1", 2) + kGuestMac,
               back)
      .substr(54);
}

TEST(Answer, NeighboursAreToldTheMacAddress) {
  Ipv6 to_itself;
  to_itself.hop_limit = 255;
  for (const Bytes& request :
       {solicitation(), solicitation(to_itself), solicitation(to_group(), "")}) {
    const auto [kind, frame] = answer(request);
    EXPECT_EQ(kind, AnswerKind::kNdp);
    EXPECT_EQ(frame.substr(0, 12), kPeerMac + kGuestMac);
    EXPECT_EQ(static_cast<unsigned char>(frame[14 + 7]), 255);
    EXPECT_EQ(frame.substr(54), advertisement(kPeerIp6, 0x60));
  }
  // One that looks whether the address is taken.
  Ipv6 from_nobody = to_group();
  from_nobody.from = "::";
  const auto [kind, frame] = answer(solicitation(from_nobody, ""));
  EXPECT_EQ(kind, AnswerKind::kNdp);
  EXPECT_EQ(frame.substr(0, 6), Bytes("\x33\x33\0\0\0\1", 6));
  EXPECT_EQ(frame.substr(54), advertisement("ff02::1", 0x20));
}

TEST(Answer, BrokenFramesAreNotAnswered) {
  for (const auto& [name, bytes] : broken_frames()) {
    const auto [kind, frame] = answer(bytes);
    EXPECT_EQ(kind, AnswerKind::kMalformed) << name;
    EXPECT_TRUE(frame.empty()) << name;
  }
  for (std::size_t bytes = 0; bytes < 14; ++bytes) {
    EXPECT_EQ(answer(udp4("x").substr(0, bytes)).kind, AnswerKind::kMalformed) << bytes;
  }
}

TEST(Answer, FramesForOthersAreNotAnswered) {
  for (const auto& [name, bytes] : ignored_frames()) {
    const auto [kind, frame] = answer(bytes);
    EXPECT_EQ(kind, AnswerKind::kIgnored) << name;
    EXPECT_TRUE(frame.empty()) << name;
  }
}

// Cut anywhere, and with any byte another: nothing beyond its memory is touched (sanitizers look),
// and what is answered is no longer than what a card takes.
TEST(Answer, AnythingMayCome) {
  std::mt19937 random(1);
  const Bytes good[] = {
      arp(),          udp4("payload"),     udp6("payload"),       icmp(8, "12345"),
      solicitation(), icmp6(128, "12345"), udp4(Bytes(1472, 'x'))};
  for (const Bytes& frame : good) {
    for (std::size_t bytes = 0; bytes <= frame.size(); ++bytes)
      (void)answer(frame.substr(0, bytes));
    for (std::size_t at = 0; at < std::min<std::size_t>(frame.size(), 120); ++at) {
      for (int i = 0; i < 8; ++i) {
        Bytes changed = frame;
        changed[at] = static_cast<char>(random());
        (void)answer(changed);
      }
    }
  }
}

}  // namespace
}  // namespace migrate::vmm::test
