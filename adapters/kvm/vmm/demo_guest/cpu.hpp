// The instructions the demo guest needs by name. Only for the guest.
#pragma once

#include <cstdint>

namespace migrate::vmm::demo {

inline std::uint64_t read_tsc() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  asm volatile("rdtsc" : "=a"(low), "=d"(high));
  return std::uint64_t{high} << 32 | low;
}

/// The memory clobber makes counters reach memory before the VMM may look at them.
inline void port_out(std::uint16_t port, std::uint32_t value) {
  asm volatile("outl %0, %1" : : "a"(value), "d"(port) : "memory");
}
inline void port_out_byte(std::uint16_t port, std::uint8_t value) {
  asm volatile("outb %0, %1" : : "a"(value), "d"(port) : "memory");
}

/// The guest is compiled for general registers only, so XMM15 holds what was put there for as long
/// as saving and loading a vCPU keeps it.
inline void set_canary(std::uint64_t value) { asm volatile("movq %0, %%xmm15" : : "r"(value)); }
inline std::uint64_t canary() {
  std::uint64_t value = 0;
  asm volatile("movq %%xmm15, %0" : "=r"(value));
  return value;
}

}  // namespace migrate::vmm::demo
