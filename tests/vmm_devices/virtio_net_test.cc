#include "adapters/kvm/vmm/devices/virtio_net.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "adapters/kvm/vmm/devices/tap.hpp"
#include "tests/vmm_devices/virtio_driver.hpp"

namespace migrate::vmm::test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

constexpr std::uint64_t kBuffers = 32 * kPageSize;
constexpr std::uint32_t kBufferBytes = 2048;
constexpr std::uint64_t kPacket = 24 * kPageSize;
const std::string kNoHeader(kPacketHeaderBytes, '\0');

/// A socket whose messages are packets, as a tap's are: one end for the device, one for the test.
class Wire {
 public:
  Wire() {
    int ends[2];
    MIGRATE_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) ==
                  0);
    device_.reset(ends[0]);
    test_.reset(ends[1]);
  }
  [[nodiscard]] int device() const { return device_.get(); }
  void put(const std::string& packet) const {
    EXPECT_EQ(::send(test_.get(), packet.data(), packet.size(), 0),
              static_cast<ssize_t>(packet.size()));
  }
  /// The next packet; empty when none comes.
  [[nodiscard]] std::string take() const {
    std::string packet(70'000, '\0');
    ssize_t bytes = -1;
    (void)eventually([&] {
      bytes = ::recv(test_.get(), packet.data(), packet.size(), 0);
      return bytes >= 0;
    });
    packet.resize(bytes < 0 ? 0 : static_cast<std::size_t>(bytes));
    return packet;
  }
  [[nodiscard]] bool empty() const {
    char byte = 0;
    return ::recv(test_.get(), &byte, 1, MSG_PEEK) < 0;
  }

 private:
  Fd device_;
  Fd test_;
};

struct Card {
  Card(TestRam& memory, int port, const std::string& mac = "52:54:00:12:34:56",
       const std::optional<MacAddress>& former = std::nullopt)
      : net(*VirtioNet::create("virtio-net.0", *parse_mac(mac), memory.ram(), port, former)),
        mmio(*net, memory.ram(), line),
        driver(mmio) {}
  std::unique_ptr<VirtioNet> net;
  FakeLine line;
  VirtioMmio mmio;
  VirtioDriver driver;
};

class VirtioNetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(card_.driver.agree(kVersion1 | kEventIndexFeature | 1 << 5));
    card_.driver.set_up_queue(0, receive_.layout());
    card_.driver.set_up_queue(1, send_.layout());
    card_.driver.go();
    card_.mmio.resume();
  }
  void give_buffers(std::uint16_t first, std::uint16_t count) {
    for (std::uint16_t i = first; i < first + count; ++i) {
      receive_.offer(i, {{kBuffers + i * kBufferBytes, kBufferBytes, kWrite}});
    }
    card_.driver.notify(0);
  }
  void send_packet(const std::string& packet) {
    memory_.poke_text(kPacket, packet);
    send_.offer(0, {{kPacket, static_cast<std::uint32_t>(packet.size())}});
    card_.driver.notify(1);
  }
  bool received(std::uint16_t count) {
    return eventually([&] { return receive_.used_index() == count; });
  }

  Wire wire_;
  TestRam memory_;
  TestQueue receive_{memory_, 8, 0};
  TestQueue send_{memory_, 8, 8 * kPageSize};
  Card card_{memory_, wire_.device()};
};

TEST_F(VirtioNetTest, ConfigurationHasTheMacAddress) {
  EXPECT_EQ(in8(card_.mmio, VIRTIO_MMIO_CONFIG), 0x52);
  EXPECT_EQ(in8(card_.mmio, VIRTIO_MMIO_CONFIG + 5), 0x56);
}

TEST_F(VirtioNetTest, APacketLeavesWithAHeaderThatAsksForNothing) {
  const std::string frame(60, 'f');
  send_packet(std::string(kPacketHeaderBytes, '\xff') + frame);
  EXPECT_EQ(wire_.take(), kNoHeader + frame);
  EXPECT_TRUE(eventually([this] { return send_.used_index() == 1; }));
  EXPECT_EQ(send_.used(0), (Used{0, 0}));
  EXPECT_EQ(card_.net->counts().sent, 1u);
}

TEST_F(VirtioNetTest, APacketInPartsLeavesWhole) {
  memory_.poke_text(kPacket, std::string(14, '\0') + "head and ");
  memory_.poke_text(TestRam::kHigh, "tail of a frame");
  send_.offer(0, {{kPacket, 5}, {kPacket + 5, 18}, {TestRam::kHigh, 15}});
  card_.driver.notify(1);
  EXPECT_EQ(wire_.take().substr(14), "head and tail of a frame");
}

TEST_F(VirtioNetTest, APacketArrivesInOneBuffer) {
  give_buffers(0, 2);
  wire_.put(std::string(kPacketHeaderBytes, '\xff') + std::string(100, 'p'));
  ASSERT_TRUE(received(1));
  EXPECT_EQ(receive_.used(0), (Used{0, 112}));
  const std::string header = std::string(10, '\0') + '\1' + '\0';
  EXPECT_EQ(memory_.peek_text(kBuffers, 112), header + std::string(100, 'p'));
  EXPECT_TRUE(eventually([this] { return card_.line.high(); }));
  ASSERT_TRUE(card_.mmio.quiesce(soon()));
  EXPECT_THAT(memory_.take_marked(), IsSupersetOf({TestRam::page(kBuffers), std::uint64_t{2}}));
}

TEST_F(VirtioNetTest, PacketsTooLongAreDroppedAndTheirBufferWaitsForTheNext) {
  give_buffers(0, 1);
  wire_.put(kNoHeader + std::string(kBufferBytes, 'x'));
  wire_.put("short");
  wire_.put(kNoHeader + std::string(64, 'y'));
  ASSERT_TRUE(received(1));
  EXPECT_EQ(receive_.used(0), (Used{0, 76}));
  EXPECT_EQ(card_.net->counts().dropped, 2u);
  EXPECT_EQ(card_.net->counts().received, 1u);
}

TEST_F(VirtioNetTest, PacketsThatNoWireTakesAreDropped) {
  send_packet("too short");
  ASSERT_TRUE(eventually([this] { return send_.used_index() == 1; }));
  send_packet(std::string(20, 'a'));
  ASSERT_TRUE(eventually([this] { return send_.used_index() == 2; }));
  send_packet(kNoHeader + std::string(14, 'b'));
  EXPECT_EQ(wire_.take(), kNoHeader + std::string(14, 'b'));
  EXPECT_EQ(card_.net->counts().dropped, 2u);
  EXPECT_TRUE(eventually([this] { return send_.used_index() == 3; }));
}

TEST_F(VirtioNetTest, PacketsWaitOnTheWireForBuffers) {
  for (const char name : std::string("abc")) wire_.put(kNoHeader + std::string(50, name));
  give_buffers(0, 2);
  ASSERT_TRUE(received(2));
  give_buffers(2, 1);
  ASSERT_TRUE(received(3));
  EXPECT_EQ(memory_.peek_text(kBuffers + 2 * kBufferBytes + 12, 50), std::string(50, 'c'));
}

TEST_F(VirtioNetTest, AQuiescedCardLeavesPacketsWhereTheyAre) {
  give_buffers(0, 4);
  ASSERT_TRUE(card_.mmio.quiesce(soon()));
  (void)memory_.take_marked();
  wire_.put(kNoHeader + std::string(70, 'i'));
  send_packet(kNoHeader + std::string(70, 'o'));
  const auto section = saved(card_.mmio);
  EXPECT_EQ(receive_.used_index(), 0);
  EXPECT_TRUE(wire_.empty());
  EXPECT_TRUE(memory_.take_marked().empty());

  Card moved(memory_, wire_.device());
  ASSERT_TRUE(load(moved.mmio, section));
  moved.mmio.resume();
  EXPECT_EQ(wire_.take(), kNoHeader + std::string(70, 'o'));
  ASSERT_TRUE(received(1));
  EXPECT_EQ(receive_.used(0), (Used{0, 82}));
  ASSERT_TRUE(moved.mmio.quiesce(soon()));
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}
std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST_F(VirtioNetTest, DeliveredFramesGoBeforeThoseOnTheWireAndCostNoBuffer) {
  ASSERT_TRUE(card_.mmio.quiesce(soon()));
  give_buffers(0, 4);
  wire_.put(kNoHeader + std::string(60, 'w'));
  EXPECT_TRUE(card_.net->deliver(bytes_of(std::string(60, 'a'))));
  EXPECT_FALSE(card_.net->deliver(bytes_of("short")));
  EXPECT_FALSE(card_.net->deliver(std::vector<std::byte>(14 + 4 + 65'536)));
  EXPECT_TRUE(card_.net->deliver(bytes_of(std::string(60, 'b'))));
  EXPECT_EQ(receive_.used_index(), 0);
  card_.mmio.resume();
  ASSERT_TRUE(received(3));
  const std::string header = std::string(10, '\0') + '\1' + '\0';
  for (std::uint64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(memory_.peek_text(kBuffers + i * kBufferBytes, 72),
              header + std::string(60, "abw"[i]));
  }
  EXPECT_EQ(card_.net->counts().dropped, 2u);
  EXPECT_TRUE(card_.net->deliver(bytes_of(std::string(60, 'c'))));
  EXPECT_TRUE(received(4)) << "while it waits for the wire";
}

TEST_F(VirtioNetTest, DeliveredFramesWaitForBuffersWithinBounds) {
  const std::string frame(60, 'f');
  for (std::size_t i = 0; i < FrameBacklog::kFramesMax; ++i) {
    ASSERT_TRUE(card_.net->deliver(bytes_of(frame))) << i;
  }
  EXPECT_FALSE(card_.net->deliver(bytes_of(frame)));
  EXPECT_EQ(card_.net->counts().dropped, 1u);
  give_buffers(0, 2);
  ASSERT_TRUE(received(2));
  EXPECT_TRUE(eventually([&] { return card_.net->deliver(bytes_of(frame)); }));
}

TEST_F(VirtioNetTest, OnlyWhatIsForTheCardAloneFollowsTheGuest) {
  const auto follows = [this](const char* to, const char* from) {
    std::vector<std::byte> frame(60);
    std::ranges::copy(std::as_bytes(std::span(parse_mac(from)->bytes)), frame.begin() + 6);
    for (std::size_t i = 0; i < 6; ++i) {
      frame[i] = static_cast<std::byte>(std::stoi(std::string(to).substr(3 * i, 2), nullptr, 16));
    }
    return card_.net->is_reached_here_alone(frame);
  };
  const char* const card = "52:54:00:12:34:56";
  const char* const other = "52:54:00:12:34:57";
  EXPECT_TRUE(follows(card, other));
  EXPECT_FALSE(follows("ff:ff:ff:ff:ff:ff", other));
  EXPECT_FALSE(follows("33:33:ff:00:00:07", other));
  EXPECT_FALSE(follows("ff:ff:ff:ff:ff:ff", card)) << "such as its announcement";
  EXPECT_FALSE(follows(card, card));
  EXPECT_FALSE(follows(other, other)) << "flooded";
  EXPECT_FALSE(card_.net->is_reached_here_alone(bytes_of("short")));
}

TEST_F(VirtioNetTest, WhatWaitsCanBeTakenInsteadAndInOrder) {
  give_buffers(0, 4);
  ASSERT_TRUE(card_.mmio.quiesce(soon()));
  wire_.put(kNoHeader + std::string(60, 'w'));
  wire_.put("short");
  wire_.put(kNoHeader + std::string(60, 'x'));
  EXPECT_TRUE(card_.net->deliver(bytes_of(std::string(60, 'a'))));
  std::vector<std::byte> frame;
  for (const char name : std::string("aw")) {
    ASSERT_TRUE(card_.net->take_waiting(frame));
    EXPECT_EQ(text_of(frame), std::string(60, name));
  }
  card_.mmio.resume();
  ASSERT_TRUE(received(1));
  EXPECT_EQ(memory_.peek_text(kBuffers + 12, 60), std::string(60, 'x'));
  ASSERT_TRUE(card_.mmio.quiesce(soon()));
  EXPECT_FALSE(card_.net->take_waiting(frame));
}

TEST(FrameBacklog, HasAnEndInBytes) {
  FrameBacklog backlog;
  const std::vector<std::byte> large(65'000);
  std::size_t taken = 0;
  while (taken < 10'000 && backlog.put(large)) ++taken;
  EXPECT_EQ(taken, FrameBacklog::kBytesMax / large.size());
  std::vector<std::byte> frame;
  ASSERT_TRUE(backlog.take(frame));
  EXPECT_EQ(frame.size(), large.size());
  EXPECT_TRUE(backlog.put(large));
}

TEST_F(VirtioNetTest, AHostileQueueStopsTheCardUntilItIsReset) {
  send_.offer(0, {{TestRam::kSlotBytes - 4, 100}});
  card_.driver.notify(1);
  ASSERT_TRUE(eventually([this] { return card_.driver.needs_reset(); }));
  give_buffers(0, 1);
  wire_.put(kNoHeader + std::string(64, 'y'));
  ASSERT_TRUE(card_.mmio.quiesce(soon()));
  EXPECT_EQ(receive_.used_index(), 0);
  card_.mmio.resume();

  ASSERT_TRUE(card_.driver.agree(kVersion1));
  TestQueue again(memory_, 8, 16 * kPageSize);
  card_.driver.set_up_queue(0, again.layout());
  card_.driver.go();
  again.offer(0, {{kBuffers, kBufferBytes, kWrite}});
  card_.driver.notify(0);
  EXPECT_TRUE(eventually([&] { return again.used_index() == 1; }));
}

TEST_F(VirtioNetTest, ACardThatGotAnotherAddressTakesTheStateOfTheFormer) {
  const auto former = parse_mac("52:54:00:12:34:56");
  Card renewed(memory_, wire_.device(), "52:aa:bb:cc:dd:ee", *former);
  ASSERT_TRUE(card_.mmio.quiesce(soon()));
  ASSERT_TRUE(load(renewed.mmio, saved(card_.mmio)));
  EXPECT_TRUE(renewed.line.high()) << "the driver is told";
  EXPECT_EQ(in8(renewed.mmio, VIRTIO_MMIO_CONFIG + 5), 0xee);
  // Frames are sent to either: a driver that runs goes on with what it has read.
  std::vector<std::byte> frame(60);
  for (const auto& mac : {former, parse_mac("52:aa:bb:cc:dd:ee")}) {
    std::ranges::copy(std::as_bytes(std::span(mac->bytes)), frame.begin());
    EXPECT_TRUE(renewed.net->is_reached_here_alone(frame));
  }
  // From here on it is a card like any other.
  Card next(memory_, wire_.device(), "52:aa:bb:cc:dd:ee");
  ASSERT_TRUE(load(next.mmio, saved(renewed.mmio)));
  EXPECT_FALSE(load(renewed.mmio, saved(next.mmio))) << "nor is it the former card any more";
}

TEST_F(VirtioNetTest, AnotherCardIsNotTakenForThisOne) {
  Card other(memory_, wire_.device(), "52:54:00:12:34:57");
  const Status loaded = load(other.mmio, saved(card_.mmio));
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, ErrorCode::kIncompatible);
  EXPECT_THAT(loaded.error().message, HasSubstr("52:54:00:12:34:56"));
}

TEST(MacAddress, IsReadAndWritten) {
  const auto mac = parse_mac("52:54:00:aB:0c:ff");
  ASSERT_TRUE(mac);
  EXPECT_EQ(to_text(*mac), "52:54:00:ab:0c:ff");
  for (const char* const wrong :
       {"", "52:54:00:ab:0c", "52:54:00:ab:0c:f", "52:54:00:ab:0c:fg", "52-54-00-ab-0c-ff",
        "52:54:00:ab:0c:ff ", "01:00:5e:00:00:01", "00:00:00:00:00:00", "+2:54:00:ab:0c:ff"}) {
    EXPECT_FALSE(parse_mac(wrong)) << wrong;
  }
}

}  // namespace
}  // namespace migrate::vmm::test
