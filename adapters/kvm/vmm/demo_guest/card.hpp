// The demo guest's driver of a virtio network card (virtio 1.2, sections 4.2 and 5.1), and its
// checks of what it shares with it. Only for the guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/answer.hpp"
#include "adapters/kvm/vmm/demo_guest/ring.hpp"
#include "adapters/kvm/vmm/demo_guest/vcpu_state.hpp"

namespace migrate::vmm::demo {

/// A card's registers. Each access leaves the guest.
class CardRegisters {
 public:
  // Offsets, as in <linux/virtio_mmio.h>, which is not freestanding.
  static constexpr std::uint64_t kDriverFeatures = 0x20;
  static constexpr std::uint64_t kDriverFeaturesSelect = 0x24;
  static constexpr std::uint64_t kQueueSelect = 0x30;
  static constexpr std::uint64_t kQueueSizeMax = 0x34;
  static constexpr std::uint64_t kQueueSize = 0x38;
  static constexpr std::uint64_t kQueueReady = 0x44;
  static constexpr std::uint64_t kQueueNotify = 0x50;
  static constexpr std::uint64_t kStatus = 0x70;
  static constexpr std::uint64_t kQueueDescriptors = 0x80;
  static constexpr std::uint64_t kQueueAvailable = 0x90;
  static constexpr std::uint64_t kQueueUsed = 0xa0;

  explicit CardRegisters(std::uint64_t address) : address_(address) {}

  void write(std::uint64_t offset, std::uint32_t value) const {
    asm volatile("movl %0, (%1)" : : "r"(value), "r"(address_ + offset) : "memory");
  }
  [[nodiscard]] std::uint32_t read(std::uint64_t offset) const {
    std::uint32_t value = 0;
    asm volatile("movl (%1), %0" : "=r"(value) : "r"(address_ + offset) : "memory");
    return value;
  }
  void write_address(std::uint64_t offset, const void* address) const {
    const auto value = reinterpret_cast<std::uint64_t>(address);
    write(offset, static_cast<std::uint32_t>(value));
    write(offset + 4, static_cast<std::uint32_t>(value >> 32));
  }

 private:
  const std::uint64_t address_;
};

class Card {
 public:
  Card(VcpuState& vcpu, const CardPlan& plan, volatile CardCounters& counters)
      : vcpu_(vcpu),
        plan_(plan),
        counters_(counters),
        registers_(plan.registers),
        memory_(*reinterpret_cast<CardMemory*>(plan.memory)) {}

  void start() {
    for (std::uint16_t i = 0; i < kCardBuffers; ++i) {
      receive_.describe(i, memory_.receive_buffers[i].bytes, kCardRoom, RingDriver::kDeviceWrites);
      set_guard(memory_.receive_buffers[i]);
      set_guard(memory_.send_buffers[i]);
    }
    if (!set_up_device()) return report(&memory_);
    for (std::uint16_t i = 0; i < kCardBuffers; ++i) receive_.offer(i);
    publish(receive_, kReceiveQueue);
  }

  /// Answers what has come; returns how many frames that was.
  std::uint64_t poll() {
    take_sent();
    std::uint64_t frames = 0;
    std::uint16_t answers = 0;
    RingDriver::Taken taken;
    // Without a buffer for an answer a frame stays where it is, and in the end in the tap's queue.
    while (frames < kCardBuffers && send_.spare() != kCardBuffers && receive_.take(taken)) {
      ++frames;
      if (!taken.valid || taken.bytes < kCardHeaderBytes || taken.bytes > kCardRoom) {
        report(&memory_.receive.used);
        if (!taken.valid) continue;
      } else if (answer(memory_.receive_buffers[taken.buffer].bytes, taken.bytes)) {
        ++answers;
      }
      receive_.offer(static_cast<std::uint16_t>(taken.buffer));
      ++owed_;
    }
    if (answers != 0) publish(send_, kSendQueue);
    // Not for each frame: to notify leaves the guest.
    if (owed_ >= kOwedMax) {
      owed_ = 0;
      publish(receive_, kReceiveQueue);
    }
    return frames;
  }

  /// One buffer more of all there are, its descriptor and its guard.
  void check_next() {
    const std::uint16_t i = checked_++ % kCardBuffers;
    const CardBuffer& came = memory_.receive_buffers[i];
    if (!receive_.describes(i, came.bytes, kCardRoom, RingDriver::kDeviceWrites)) {
      report(&memory_.receive.descriptors[i]);
    }
    check_guard(came);
    const CardBuffer& left = memory_.send_buffers[i];
    check_guard(left);
    const SentBuffer& sent = memory_.sent[i];
    if (sent.bytes == 0) return;
    if (!send_.describes(i, left.bytes, static_cast<std::uint32_t>(sent.bytes), 0)) {
      report(&memory_.send.descriptors[i]);
    }
    if (hash(left) != sent.hash) report(&left);
  }

 private:
  static constexpr std::uint32_t kReceiveQueue = 0;
  static constexpr std::uint32_t kSendQueue = 1;
  static constexpr std::uint16_t kOwedMax = kCardBuffers / 4;

  bool set_up_device() {
    constexpr std::uint32_t kAcknowledge = 1;
    constexpr std::uint32_t kDriver = 2;
    constexpr std::uint32_t kDriverOk = 4;
    constexpr std::uint32_t kFeaturesOk = 8;
    constexpr std::uint32_t kMacFeature = 1u << 5;
    registers_.write(CardRegisters::kStatus, 0);
    registers_.write(CardRegisters::kStatus, kAcknowledge);
    registers_.write(CardRegisters::kStatus, kAcknowledge | kDriver);
    registers_.write(CardRegisters::kDriverFeaturesSelect, 0);
    registers_.write(CardRegisters::kDriverFeatures, kMacFeature);
    registers_.write(CardRegisters::kDriverFeaturesSelect, 1);
    registers_.write(CardRegisters::kDriverFeatures, 1);  // VIRTIO_F_VERSION_1
    registers_.write(CardRegisters::kStatus, kAcknowledge | kDriver | kFeaturesOk);
    if ((registers_.read(CardRegisters::kStatus) & kFeaturesOk) == 0) return false;
    if (!set_up_queue(kReceiveQueue, memory_.receive)) return false;
    if (!set_up_queue(kSendQueue, memory_.send)) return false;
    constexpr std::uint32_t kLive = kAcknowledge | kDriver | kFeaturesOk | kDriverOk;
    registers_.write(CardRegisters::kStatus, kLive);
    return registers_.read(CardRegisters::kStatus) == kLive;
  }

  bool set_up_queue(std::uint32_t number, const Ring& ring) {
    registers_.write(CardRegisters::kQueueSelect, number);
    if (registers_.read(CardRegisters::kQueueSizeMax) < kCardBuffers) return false;
    registers_.write(CardRegisters::kQueueSize, kCardBuffers);
    registers_.write_address(CardRegisters::kQueueDescriptors, ring.descriptors);
    registers_.write_address(CardRegisters::kQueueAvailable, &ring.available);
    registers_.write_address(CardRegisters::kQueueUsed, &ring.used);
    registers_.write(CardRegisters::kQueueReady, 1);
    return registers_.read(CardRegisters::kQueueReady) == 1;
  }

  void publish(RingDriver& ring, std::uint32_t queue) {
    if (ring.publish()) registers_.write(CardRegisters::kQueueNotify, queue);
  }

  void take_sent() {
    RingDriver::Taken taken;
    for (std::uint16_t i = 0; i < kCardBuffers && send_.take(taken); ++i) {
      if (!taken.valid) report(&memory_.send.used);
    }
  }

  /// True: an answer was offered to the card. A buffer is there for it.
  bool answer(const Byte* received, std::uint32_t bytes) {
    const std::uint16_t spare = send_.spare();
    CardBuffer& buffer = memory_.send_buffers[spare];
    SentBuffer& sent = memory_.sent[spare];
    const Answer made = answer_frame(plan_, received + kCardHeaderBytes, bytes - kCardHeaderBytes,
                                     buffer.bytes + kCardHeaderBytes);
    count(made.kind);
    // Its frame has been written over, or begun to be.
    sent.hash = hash(buffer);
    if (made.bytes == 0) return false;
    sent.bytes = kCardHeaderBytes + made.bytes;
    send_.describe(spare, buffer.bytes, static_cast<std::uint32_t>(sent.bytes), 0);
    send_.offer(spare);
    return true;
  }

  void count(AnswerKind kind) {
    volatile std::uint64_t& counter = counter_of(kind);
    counter = counter + 1;
  }
  volatile std::uint64_t& counter_of(AnswerKind kind) {
    switch (kind) {
      case AnswerKind::kArp:
        return counters_.arp;
      case AnswerKind::kIcmp:
        return counters_.icmp;
      case AnswerKind::kUdp:
        return counters_.udp;
      case AnswerKind::kNdp:
        return counters_.ndp;
      case AnswerKind::kIcmpv6:
        return counters_.icmpv6;
      case AnswerKind::kMalformed:
        return counters_.malformed;
      case AnswerKind::kIgnored:
        break;
    }
    return counters_.ignored;
  }

  static std::uint64_t guard_word(const CardBuffer& buffer) {
    return mix(control().seed ^ reinterpret_cast<std::uint64_t>(&buffer));
  }
  static void set_guard(CardBuffer& buffer) {
    for (std::uint64_t& word : buffer.guard) word = guard_word(buffer);
  }
  void check_guard(const CardBuffer& buffer) {
    for (const std::uint64_t& word : buffer.guard) {
      if (word != guard_word(buffer)) return report(&word);
    }
  }
  static std::uint64_t hash(const CardBuffer& buffer) {
    std::uint64_t hash = 1;
    for (std::uint64_t at = 0; at < kCardRoom; at += 8) {
      std::uint64_t word = 0;
      __builtin_memcpy(&word, buffer.bytes + at, 8);
      hash = (hash ^ word) * kGolden;
      hash ^= hash >> 29;
    }
    return hash;
  }

  /// The card's memory lies below 3 GiB, where addresses are pages by index, too.
  void report(const volatile void* at) {
    vcpu_.report(ErrorKind::kCard, reinterpret_cast<std::uint64_t>(at) / kPage, 0, 0);
  }

  VcpuState& vcpu_;
  const CardPlan& plan_;
  volatile CardCounters& counters_;
  const CardRegisters registers_;
  CardMemory& memory_;
  RingDriver receive_{memory_.receive};
  RingDriver send_{memory_.send};
  std::uint16_t owed_ = 0;  ///< Buffers offered, and not yet published.
  std::uint16_t checked_ = 0;
};

}  // namespace migrate::vmm::demo
