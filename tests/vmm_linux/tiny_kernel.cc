// A kernel of a page: prints a line, then writes sectors of its disk and reads them back for ever,
// by a virtio driver that polls. Entered as Linux is. It needs no interrupts.
#include "tests/vmm_linux/tiny_kernel.hpp"

namespace {

using namespace migrate::vmm::tiny;

constexpr std::uint64_t kDevice = 0xd0000000;
constexpr std::uint64_t kNowhere = 0xd0100000;
constexpr std::uint16_t kSerial = 0x3f8;
constexpr std::uint16_t kNoPort = 0x80;

struct Descriptor {
  std::uint64_t address;
  std::uint32_t bytes;
  std::uint16_t flags;
  std::uint16_t next;
};
struct Header {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};

template <typename T>
volatile T& at(std::uint64_t address) {
  return *reinterpret_cast<volatile T*>(address);
}

void out(std::uint16_t port, std::uint8_t value) {
  asm volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
std::uint8_t in(std::uint16_t port) {
  std::uint8_t value = 0;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

void print(const char* text) {
  for (; *text != 0; ++text) {
    while ((in(kSerial + 5) & 0x20) == 0) {
    }
    out(kSerial, static_cast<std::uint8_t>(*text));
  }
}

void set(std::uint32_t offset, std::uint32_t value) { at<std::uint32_t>(kDevice + offset) = value; }

void set_queue(std::uint32_t offset, std::uint64_t address) {
  set(offset, static_cast<std::uint32_t>(address));
  set(offset + 4, static_cast<std::uint32_t>(address >> 32));
}

void describe(unsigned entry, std::uint64_t address, std::uint32_t bytes, std::uint16_t flags) {
  auto& descriptor = at<Descriptor>(kDescriptors + entry * sizeof(Descriptor));
  descriptor.address = address;
  descriptor.bytes = bytes;
  descriptor.flags = flags;
  descriptor.next = static_cast<std::uint16_t>(entry + 1);
}

void start_disk() {
  set(0x70, 0);  // Status: reset, then acknowledge, driver.
  set(0x70, 1);
  set(0x70, 3);
  set(0x24, 1);  // Driver features, upper half: VERSION_1.
  set(0x20, 1);
  set(0x70, 0xb);                     // Features agreed on.
  at<std::uint32_t>(kAvailable) = 1;  // No interrupts; nothing in the rings.
  at<std::uint32_t>(kUsed) = 0;
  set(0x30, 0);  // Queue 0, of 4 entries.
  set(0x38, 4);
  set_queue(0x80, kDescriptors);
  set_queue(0x90, kAvailable);
  set_queue(0xa0, kUsed);
  set(0x44, 1);
  set(0x70, 0xf);  // Driver ready.
}

/// One request, whole; `type` 0 reads, 1 writes.
void request(std::uint32_t type, std::uint64_t sector) {
  at<Header>(kHeader).type = type;
  at<Header>(kHeader).sector = sector;
  at<std::uint8_t>(kStatus) = 0xff;
  describe(0, kHeader, sizeof(Header), 1);
  describe(1, kData, 512, type == 0 ? 3 : 1);
  describe(2, kStatus, 1, 2);
  auto& index = at<std::uint16_t>(kAvailable + 2);
  at<std::uint16_t>(kAvailable + 4 + index % 4 * 2) = 0;
  index = static_cast<std::uint16_t>(index + 1);
  set(0x50, 0);
  while (at<std::uint16_t>(kUsed + 2) != index) {
  }
  if (at<std::uint8_t>(kStatus) != 0) at<Shared>(kShared).errors = at<Shared>(kShared).errors + 1;
}

void fill(std::uint64_t value) {
  for (std::uint64_t i = 0; i < kSectorWords; ++i) at<std::uint64_t>(kData + 8 * i) = value;
}

void check(std::uint64_t sector, std::uint64_t expected) {
  fill(~expected);
  request(0, sector);
  for (std::uint64_t i = 0; i < kSectorWords; ++i) {
    if (at<std::uint64_t>(kData + 8 * i) == expected) continue;
    at<Shared>(kShared).errors = at<Shared>(kShared).errors + 1;
    return;
  }
}

void obey(Order order) {
  switch (order) {
    case Order::kNone:
      return;
    case Order::kOff:
      return out(0x600, 5 << 2 | 1 << 5);
    case Order::kReset:
      at<Shared>(kShared).order = 0;
      return out(0x602, 1);
    case Order::kPanic:
      return out(0x505, 1);
    case Order::kTripleFault: {
      struct [[gnu::packed]] {
        std::uint16_t limit;
        std::uint64_t base;
      } none{0, 0};
      asm volatile("lidt %0; ud2" : : "m"(none));
    }
  }
}

}  // namespace

extern "C" [[gnu::section(".text.entry"), noreturn]] void tiny_kernel_entry() {
  auto& shared = at<Shared>(kShared);
  shared.starts = shared.starts + 1;
  print("tiny kernel\n");
  shared.empty_port = in(kNoPort);
  shared.empty_memory = at<std::uint32_t>(kNowhere);
  start_disk();
  for (;;) {
    const std::uint64_t round = shared.rounds + 1;
    fill(round);
    request(1, round % kSectors);
    // What the round before has left on the disk, too, perhaps at another host.
    if (round > 1) check((round - 1) % kSectors, round - 1);
    check(round % kSectors, round);
    shared.rounds = round;
    obey(static_cast<Order>(static_cast<std::uint64_t>(shared.order)));
  }
}
