// Machine limits: what this machine can do at most. Copying, scanning and hashing memory, and
// moving scattered pages through loopback TCP, with and without what a migration does to each page.
// Whole migrations are compared with these figures, measured in the same run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/measuring.hpp"
#include "migrate/channel.hpp"
#include "migrate/memory.hpp"
#include "wire/hasher.hpp"

namespace migrate::bench {

/// Anonymous memory, prefaulted by being written.
class Memory {
 public:
  /// Zero for seed 0, else bytes that no compression or zero check could make use of.
  Memory(std::uint64_t bytes, std::uint64_t seed);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  [[nodiscard]] std::byte* page(std::size_t number) const { return base_ + number * kPageSize; }
  [[nodiscard]] std::size_t pages() const { return bytes_ / kPageSize; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  void fill(std::uint64_t seed);

  std::uint64_t bytes_;
  std::byte* base_ = nullptr;
};

[[nodiscard]] Figure measure_memcpy(unsigned repeats, const Memory& from, const Memory& to);
[[nodiscard]] Figure measure_zero_scan(unsigned repeats, std::uint64_t bytes);
[[nodiscard]] Figure measure_hash(unsigned repeats, const Memory& memory,
                                  const wire::Hasher& hasher);

/// What is done to each page beside moving it.
enum class PageWork {
  kNone,
  kHashed,  ///< Zero check and hash at the source, hash at the target; sent from where it lies.
  kStaged,  ///< As kHashed, through a copy, as must be done while the guest may write.
};
[[nodiscard]] std::string_view to_string(PageWork work);

/// All pages of `from` in random order to `to`, over `lanes` connections with a thread at each end.
/// Gives up when memory arrives changed.
[[nodiscard]] Figure measure_pump(unsigned repeats, unsigned lanes, PageWork work,
                                  const Memory& from, const Memory& to, const wire::Hasher& hasher);

/// A way to move bytes.
struct PumpMeans {
  std::string name;  ///< Put behind the figure's.
  SocketOptions sockets;
};
/// The same by each of `means`, in turns: what disturbs the machine for a while disturbs all.
[[nodiscard]] std::vector<Figure> measure_pumps(unsigned repeats, unsigned lanes, PageWork work,
                                                std::span<const PumpMeans> means,
                                                const Memory& from, const Memory& to,
                                                const wire::Hasher& hasher);

}  // namespace migrate::bench
