// The guest: a program of a few instructions that counts, writes to its memory and checks it.
//
// Each vCPU goes through a working set of its own again and again. A page of it holds the number of
// the pass, and that number mixed with the page's address; what the guest finds there must be what
// it wrote in the pass before. Then it tells the counter device, which must have counted as many
// passes, and must have put that number into the vCPU's mailbox in guest memory. Beside that it
// goes through the rest of memory, which holds its own addresses for ever. What is not as it must
// be is an error, and errors are told to the device as well.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace tiny {

constexpr std::uint64_t kPage = 4096;

// Where things are in guest memory, which is mapped one to one.
constexpr std::uint64_t kProgram = 0x1000;
constexpr std::uint64_t kPageTables = 0x10000;  // Three pages.
constexpr std::uint64_t kMailboxes = 0x20000;   // A page a vCPU, written by the device.
constexpr std::uint64_t kWorkingSets = 2 << 20;
constexpr std::uint64_t kWorkingSetPages = 256;
constexpr std::uint64_t kStatic = 8 << 20;  // From here to the end of memory.
constexpr unsigned kVcpusMax = 4;
constexpr std::uint64_t kMemoryMin = 16 << 20;
constexpr std::uint64_t kMemoryMax = 1 << 30;  // What its page tables map.

// The counter device's ports. Each vCPU has a counter of its own behind them.
constexpr std::uint16_t kCounterPort = 0x10;  // Out: one more pass. In: how many.
constexpr std::uint16_t kErrorPort = 0x14;    // Out: errors so far.

/// Program, page tables, and what memory holds at the start.
void load_guest(std::span<std::byte> memory, unsigned vcpus);

/// The registers that vCPU `id` starts with. Throws std::system_error.
void set_start_registers(int vcpu_fd, unsigned id, std::uint64_t memory_bytes);

/// Pages that never change and do not hold what they must.
std::uint64_t count_wrong_pages(std::span<const std::byte> memory);

}  // namespace tiny
