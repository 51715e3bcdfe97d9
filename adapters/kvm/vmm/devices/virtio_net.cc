#include "adapters/kvm/vmm/devices/virtio_net.hpp"

#include <linux/virtio_ids.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "adapters/kvm/vmm/devices/chain_io.hpp"
#include "adapters/kvm/vmm/devices/tap.hpp"
#include "base/log.hpp"

namespace migrate::vmm {
namespace {

constexpr std::size_t kReceiveQueue = 0;
constexpr std::size_t kSendQueue = 1;

// Ethernet's own header, and the longest packet an interface can have behind it.
constexpr std::size_t kFrameBytesMin = 14;
constexpr std::size_t kFrameBytesMax = 14 + 4 + 65535;
// Packets of one direction before the other has its turn: a queue full.
constexpr int kTurn = kQueueSizeMax;

// From <linux/virtio_net.h>, which is not C++.
constexpr unsigned kFeatureMac = 5;
struct PacketHeader {
  std::uint8_t flags = 0;
  std::uint8_t gso_type = 0;
  std::uint16_t header_bytes = 0;
  std::uint16_t gso_size = 0;
  std::uint16_t checksum_start = 0;
  std::uint16_t checksum_offset = 0;
  std::uint16_t buffers = 0;
};
static_assert(sizeof(PacketHeader) == kPacketHeaderBytes);

}  // namespace

VirtioNet::VirtioNet(std::string name, const MacAddress& mac, const GuestRam& ram, int port,
                     const std::optional<MacAddress>& former)
    : name_(std::move(name)),
      mac_(mac),
      former_mac_(former),
      ram_(ram),
      port_(port),
      packet_(kPacketHeaderBytes + kFrameBytesMax) {
  std::memcpy(config_.data(), mac_.bytes.data(), config_.size());
}

Result<std::unique_ptr<VirtioNet>> VirtioNet::create(std::string name, const MacAddress& mac,
                                                     const GuestRam& ram, int port,
                                                     const std::optional<MacAddress>& former) {
  std::unique_ptr<VirtioNet> made(new VirtioNet(std::move(name), mac, ram, port, former));
  MIGRATE_ASSIGN(made->worker_, DeviceWorker::create(
                                    made->name_, [raw = made.get()] { return raw->work(); }, port));
  return made;
}

VirtioNet::~VirtioNet() = default;

std::uint32_t VirtioNet::type() const { return VIRTIO_ID_NET; }
std::uint64_t VirtioNet::features() const { return std::uint64_t{1} << kFeatureMac; }

VirtioNet::Counts VirtioNet::counts() const {
  return {received_.load(), sent_.load(), dropped_.load()};
}

void VirtioNet::start(VirtioTransport& transport, std::uint64_t, std::span<Virtqueue> queues) {
  transport_ = &transport;
  queues_ = queues;
  broken_ = false;
  worker_->start();
}

DeviceWorker::Next VirtioNet::work() {
  if (shedding_) return drop_some();
  if (broken_) return {};
  const auto sent = send_some();
  const auto received = sent ? receive_some() : sent;
  if (!received) {
    broken_ = true;
    transport_->needs_reset(received.error().message);
    return {};
  }
  return {*sent == Outcome::kMore || *received == Outcome::kMore, *received == Outcome::kNoPackets};
}

void VirtioNet::complete(Virtqueue& queue, std::uint32_t written) {
  queue.complete(chain_, written);
  if (queue.wants_interrupt()) transport_->interrupt();
}

Result<VirtioNet::Outcome> VirtioNet::send_some() {
  Virtqueue& queue = queues_[kSendQueue];
  if (!queue.started()) return Outcome::kStopped;
  for (int i = 0; i < kTurn; ++i) {
    if (!worker_->go_on()) return Outcome::kStopped;
    MIGRATE_ASSIGN(const bool taken, queue.take(chain_));
    if (!taken) {
      MIGRATE_ASSIGN(const bool more, queue.await_notification());
      if (more) continue;
      return Outcome::kNoBuffers;
    }
    send(chain_);
    complete(queue, 0);
  }
  return Outcome::kMore;
}

/// A packet that cannot leave is lost, as on any wire. Without offloads the guest's header says
/// nothing, so the tap gets one of our own.
void VirtioNet::send(const Chain& chain) {
  const std::uint64_t bytes = chain.readable_bytes;
  const bool possible =
      bytes >= kPacketHeaderBytes + kFrameBytesMin && bytes <= kPacketHeaderBytes + kFrameBytesMax;
  if (!possible) {
    ++dropped_;
    return;
  }
  std::array<std::byte, kPacketHeaderBytes> header{};
  auto memory = memory_of(ram_, chain.readable, kPacketHeaderBytes, bytes - kPacketHeaderBytes);
  memory.insert(memory.begin(), {header.data(), header.size()});
  ssize_t written = 0;
  do {
    written = ::writev(port_, memory.data(), static_cast<int>(memory.size()));
  } while (written < 0 && errno == EINTR);
  ++(written < 0 ? dropped_ : sent_);
}

Result<VirtioNet::Outcome> VirtioNet::receive_some() {
  Virtqueue& queue = queues_[kReceiveQueue];
  if (!queue.started()) return Outcome::kStopped;
  for (int i = 0; i < kTurn; ++i) {
    if (!worker_->go_on()) return Outcome::kStopped;
    MIGRATE_ASSIGN(bool waiting, queue.waiting());
    if (!waiting) {
      MIGRATE_ASSIGN(waiting, queue.await_notification());
    }
    if (!waiting) return Outcome::kNoBuffers;
    const ssize_t bytes = next_packet();
    if (bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Outcome::kNoPackets;
    if (bytes <= 0) {
      // The interface is gone. What the guest sends next tries again.
      log_line(LogLevel::kWarning, name_ + ": nothing can be received: " + std::strerror(errno));
      return Outcome::kStopped;
    }
    MIGRATE_ASSIGN(const bool delivered,
                   receive(std::span(packet_).first(static_cast<std::size_t>(bytes))));
    ++(delivered ? received_ : dropped_);
  }
  return Outcome::kMore;
}

/// Into packet_, as ::read() of the port. What was delivered lacks a header, and gets one later.
ssize_t VirtioNet::next_packet() {
  if (backlog_.take(delivered_)) {
    std::memcpy(packet_.data() + kPacketHeaderBytes, delivered_.data(), delivered_.size());
    return static_cast<ssize_t>(kPacketHeaderBytes + delivered_.size());
  }
  return read_port();
}

ssize_t VirtioNet::read_port() {
  ssize_t bytes = 0;
  do {
    bytes = ::read(port_, packet_.data(), packet_.size());
  } while (bytes < 0 && errno == EINTR);
  return bytes;
}

bool VirtioNet::deliver(std::span<const std::byte> frame) {
  const bool possible = frame.size() >= kFrameBytesMin && frame.size() <= kFrameBytesMax;
  if (!possible || !backlog_.put(frame)) {
    ++dropped_;
    return false;
  }
  worker_->kick();
  return true;
}

bool VirtioNet::is_reached_here_alone(std::span<const std::byte> frame) const {
  if (frame.size() < kFrameBytesMin) return false;
  const auto is_mine = [&](std::span<const std::byte> address) {
    const auto is = [&](const MacAddress& mac) {
      return std::ranges::equal(address, std::as_bytes(std::span(mac.bytes)));
    };
    return is(mac_) || (former_mac_ && is(*former_mac_));
  };
  constexpr std::size_t kAddress = 6;  // The receiver's, then the sender's.
  return is_mine(frame.first(kAddress)) && !is_mine(frame.subspan(kAddress, kAddress));
}

bool VirtioNet::take_waiting(std::vector<std::byte>& frame) {
  if (backlog_.take(frame)) return true;
  for (;;) {
    const ssize_t bytes = read_port();
    if (bytes <= 0) return false;
    if (static_cast<std::size_t>(bytes) < kPacketHeaderBytes + kFrameBytesMin) continue;
    frame.assign(packet_.begin() + kPacketHeaderBytes, packet_.begin() + bytes);
    return true;
  }
}

void VirtioNet::shed_waiting() {
  shedding_ = true;
  worker_->start();
  worker_->resume();
}

DeviceWorker::Next VirtioNet::drop_some() {
  for (int i = 0; i < kTurn; ++i) {
    if (!worker_->go_on()) return {};
    if (read_port() <= 0) return {false, errno == EAGAIN || errno == EWOULDBLOCK};
  }
  return {true, false};
}

void VirtioNet::keep_waiting() {
  if (shedding_) {
    worker_->stop();
    // It stands already, and is as new.
    (void)worker_->quiesce(std::chrono::steady_clock::now());
    shedding_ = false;
  }
  // More than a tap's queue holds, so that a flood cannot keep us here.
  constexpr int kTakenMax = 4096;
  for (int taken = 0; taken < kTakenMax && read_port() > 0; ++taken) {
  }
}

void VirtioNet::resume() {
  if (shedding_) keep_waiting();
  worker_->resume();
}

/// False: the packet does not fit the guest's buffer, which waits for the next one.
Result<bool> VirtioNet::receive(std::span<std::byte> packet) {
  if (packet.size() < kPacketHeaderBytes + kFrameBytesMin) return false;
  // No offloads were agreed on, and one buffer a packet.
  PacketHeader header;
  header.buffers = 1;
  std::memcpy(packet.data(), &header, sizeof header);
  Virtqueue& queue = queues_[kReceiveQueue];
  MIGRATE_ASSIGN(const bool taken, queue.take(chain_));
  if (!taken) return false;
  if (packet.size() > chain_.writable_bytes) {
    queue.put_back();
    return false;
  }
  copy_to(ram_, chain_.writable, 0, packet);
  complete(queue, static_cast<std::uint32_t>(packet.size()));
  return true;
}

/// The MAC address, 6 bytes.
void VirtioNet::save(SectionBytes& bytes) const {
  for (const std::uint8_t byte : mac_.bytes) bytes.number(byte);
}

Status VirtioNet::check(SectionCursor& cursor) const {
  MacAddress theirs;
  for (std::uint8_t& byte : theirs.bytes) {
    MIGRATE_ASSIGN(byte, cursor.number<std::uint8_t>());
  }
  const MacAddress& expected = former_mac_ ? *former_mac_ : mac_;
  if (theirs == expected) return {};
  return make_error(ErrorCode::kIncompatible, "the guest's " + name_ + " has the MAC address " +
                                                  to_text(theirs) + ", and the one here " +
                                                  to_text(expected))
      .advise("give the target the source's MAC address, or none: then it takes it over");
}

}  // namespace migrate::vmm
