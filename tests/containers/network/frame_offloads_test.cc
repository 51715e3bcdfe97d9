// Frames as a wire has them, made of what the kernel leaves to a card.
#include "adapters/containers/network/frame_offloads.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>

namespace migrate::containers {
namespace {

constexpr std::size_t kIpAt = 14;

void put(FrameBytes& frame, std::size_t at, std::initializer_list<int> bytes) {
  for (const int byte : bytes) frame[at++] = static_cast<std::byte>(byte);
}
std::uint32_t word(const FrameBytes& frame, std::size_t at) {
  return static_cast<std::uint32_t>(std::to_integer<int>(frame[at]) << 8 |
                                    std::to_integer<int>(frame[at + 1]));
}
/// Of all 16 bit words, carries added: 0xffff where a checksum within is right.
std::uint32_t folded(const FrameBytes& frame, std::size_t from, std::size_t to,
                     std::uint32_t begin = 0) {
  std::uint32_t sum = begin;
  for (std::size_t at = from; at < to; at += 2) {
    sum += at + 1 < to ? word(frame, at)
                       : static_cast<std::uint32_t>(std::to_integer<int>(frame[at])) << 8;
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return sum;
}

FrameBytes make_frame(bool ipv6, bool udp, std::size_t payload) {
  const std::size_t ip = ipv6 ? 40 : 20;
  const std::size_t transport = kIpAt + ip;
  const std::size_t header = udp ? 8 : 20;
  FrameBytes frame(transport + header + payload);
  put(frame, 12, {ipv6 ? 0x86 : 0x08, ipv6 ? 0xdd : 0x00});
  const int protocol = udp ? 17 : 6;
  if (ipv6) {
    put(frame, kIpAt, {0x60});
    put(frame, kIpAt + 6, {protocol, 64});
    for (std::size_t i = 0; i < 32; ++i) put(frame, kIpAt + 8 + i, {static_cast<int>(i + 1)});
  } else {
    put(frame, kIpAt, {0x45});
    put(frame, kIpAt + 4, {0xff, 0xff});
    put(frame, kIpAt + 8, {64, protocol});
    put(frame, kIpAt + 12, {10, 0, 0, 1, 10, 0, 0, 2});
  }
  put(frame, transport, {0x12, 0x34, 0x56, 0x78});
  if (!udp) {
    put(frame, transport + 4, {0xff, 0xff, 0xff, 0x00});
    // FIN, PSH, ACK and CWR.
    put(frame, transport + 12, {0x50, 0x99});
  }
  for (std::size_t i = 0; i < payload; ++i) {
    frame[transport + header + i] = static_cast<std::byte>(i * 7);
  }
  return frame;
}

void expect_right(const FrameBytes& frame, bool ipv6, bool udp) {
  const std::size_t transport = kIpAt + (ipv6 ? 40 : 20);
  const auto length = static_cast<std::uint32_t>(frame.size() - transport);
  if (ipv6) {
    EXPECT_EQ(word(frame, kIpAt + 4), length);
  } else {
    EXPECT_EQ(word(frame, kIpAt + 2), frame.size() - kIpAt);
    EXPECT_EQ(folded(frame, kIpAt, transport), 0xffffu) << "the header's checksum";
  }
  if (udp) {
    EXPECT_EQ(word(frame, transport + 4), length);
  }
  const std::uint32_t pseudo =
      folded(frame, kIpAt + (ipv6 ? 8 : 12), transport, length + (udp ? 17 : 6));
  EXPECT_EQ(folded(frame, transport, frame.size(), pseudo), 0xffffu) << "the segment's checksum";
}

TEST(FrameOffloads, ALargeSegmentIsCutWithEveryByteInItsPlace) {
  for (const bool ipv6 : {false, true}) {
    const FrameBytes whole = make_frame(ipv6, false, 3001);
    FrameOffload left;
    left.segments = ipv6 ? FrameOffload::kTcp6 : FrameOffload::kTcp4;
    left.segment_bytes = 1000;
    const auto frames = finish_frame(left, whole);
    ASSERT_TRUE(frames);
    ASSERT_EQ(frames->size(), 4u);
    const std::size_t transport = kIpAt + (ipv6 ? 40 : 20);
    std::size_t at = transport + 20;
    for (std::size_t i = 0; i < frames->size(); ++i) {
      const FrameBytes& frame = (*frames)[i];
      expect_right(frame, ipv6, false);
      const std::size_t bytes = frame.size() - transport - 20;
      EXPECT_EQ(bytes, i < 3 ? 1000u : 1u);
      EXPECT_EQ(std::memcmp(frame.data() + transport + 20, whole.data() + at, bytes), 0);
      at += bytes;
      // It goes on behind the largest number.
      const std::uint32_t sequence = word(frame, transport + 4) << 16 | word(frame, transport + 6);
      EXPECT_EQ(sequence, static_cast<std::uint32_t>(0xffffff00u + 1000 * i));
      const int flags = std::to_integer<int>(frame[transport + 13]);
      EXPECT_EQ(flags, i == 0 ? 0x90 : i < 3 ? 0x10 : 0x19) << "CWR first, FIN and PSH last";
      if (!ipv6) {
        EXPECT_EQ(word(frame, kIpAt + 4), (0xffff + i) & 0xffff);
      }
    }
    EXPECT_EQ(at, whole.size());
  }
}

TEST(FrameOffloads, ALargeDatagramIsCutIntoSeveral) {
  for (const bool ipv6 : {false, true}) {
    FrameOffload left;
    left.segments = FrameOffload::kUdp;
    left.segment_bytes = 500;
    const auto frames = finish_frame(left, make_frame(ipv6, true, 1200));
    ASSERT_TRUE(frames);
    ASSERT_EQ(frames->size(), 3u);
    for (const FrameBytes& frame : *frames) expect_right(frame, ipv6, true);
  }
}

TEST(FrameOffloads, AChecksumIsFilledIn) {
  FrameBytes frame = make_frame(false, true, 99);
  const std::size_t transport = kIpAt + 20;
  put(frame, transport + 4, {0, 107});
  // What the kernel leaves there: the pseudo header's sum.
  const std::uint32_t pseudo = folded(frame, kIpAt + 12, transport, 107 + 17);
  put(frame, transport + 6, {static_cast<int>(pseudo >> 8), static_cast<int>(pseudo & 0xff)});
  FrameOffload left;
  left.flags = FrameOffload::kNeedsChecksum;
  left.checksum_start = static_cast<std::uint16_t>(transport);
  left.checksum_offset = 6;
  const auto frames = finish_frame(left, frame);
  ASSERT_TRUE(frames);
  ASSERT_EQ(frames->size(), 1u);
  EXPECT_EQ(folded((*frames)[0], transport, frame.size(), pseudo), 0xffffu);
}

TEST(FrameOffloads, WhatIsNoSuchFrameIsRefused) {
  const FrameBytes tcp = make_frame(false, false, 100);
  FrameOffload left;
  left.segments = FrameOffload::kTcp4;
  EXPECT_FALSE(finish_frame(left, tcp)) << "parts of no bytes";
  left.segment_bytes = 10;
  for (std::size_t bytes = 0; bytes <= 54; ++bytes) {
    EXPECT_FALSE(finish_frame(left, std::span(tcp).first(bytes))) << bytes;
  }
  left.segments = FrameOffload::kUdp;
  EXPECT_FALSE(finish_frame(left, tcp));
  FrameOffload sum;
  sum.flags = FrameOffload::kNeedsChecksum;
  sum.checksum_start = 150;
  sum.checksum_offset = 16;
  EXPECT_FALSE(finish_frame(sum, tcp));
  EXPECT_FALSE(finish_frame({}, std::span(tcp).first(13)));
  EXPECT_TRUE(finish_frame({}, std::span(tcp).first(14)));
}

TEST(FrameOffloads, ATagStandsBehindTheAddresses) {
  FrameBytes frame = make_frame(false, true, 4);
  const FrameBytes before = frame;
  insert_vlan_tag(frame, 0x8100, 0x2007);
  ASSERT_EQ(frame.size(), before.size() + 4);
  EXPECT_EQ(word(frame, 12), 0x8100u);
  EXPECT_EQ(word(frame, 14), 0x2007u);
  EXPECT_EQ(std::memcmp(frame.data() + 16, before.data() + 12, before.size() - 12), 0);
}

}  // namespace
}  // namespace migrate::containers
