#include "bench/machine_limits.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench/link.hpp"
#include "memory/zero_page.hpp"
#include "migrate/channel.hpp"

namespace migrate::bench {
namespace {

// As many iovecs a system call as the engine's batches have.
constexpr std::size_t kBatchPages = 256;
// Nothing on loopback takes this long; a hang ends.
constexpr std::chrono::seconds kIdleMax{30};

/// Keeps the compiler from leaving work out.
std::atomic<std::uint64_t> sink;

/// One connection with its share of the pages, scattered.
struct Lane {
  std::unique_ptr<Channel> source;
  std::unique_ptr<Channel> target;
  std::vector<std::size_t> pages;
  std::uint64_t sent_hashes = 0;
  std::uint64_t received_hashes = 0;
};

std::vector<Lane> open_lanes(unsigned count, std::size_t pages, const SocketOptions& options) {
  const auto acceptor = must(make_tcp_acceptor("127.0.0.1", "0", options));
  const std::string address = acceptor->address();
  const auto connector =
      make_tcp_connector("127.0.0.1", address.substr(address.rfind(':') + 1), options);
  // The same order in each run: batches do not find neighbours, nor do two runs differ by chance.
  std::vector<std::size_t> order(pages);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
  std::vector<Lane> lanes(count);
  for (unsigned i = 0; i < count; ++i) {
    lanes[i].source = must(connector->connect(kIdleMax));
    lanes[i].target = must(acceptor->accept(kIdleMax));
    const auto first = static_cast<std::ptrdiff_t>(pages * i / count);
    const auto end = static_cast<std::ptrdiff_t>(pages * (i + 1) / count);
    lanes[i].pages.assign(order.begin() + first, order.begin() + end);
  }
  return lanes;
}

std::uint64_t hash_of(const wire::Hasher& hasher, std::span<const iovec> parts) {
  std::uint64_t sum = 0;
  for (const iovec& part : parts) {
    sum += hasher.hash({static_cast<const std::byte*>(part.iov_base), part.iov_len});
  }
  return sum;
}

std::uint64_t zero_pages_of(std::span<const iovec> parts) {
  std::uint64_t count = 0;
  for (const iovec& part : parts) {
    count += is_zero_page(static_cast<const std::byte*>(part.iov_base)) ? 1 : 0;
  }
  return count;
}

void run_source(Lane& lane, const Memory& memory, PageWork work, const wire::Hasher& hasher) {
  std::vector<iovec> parts;
  std::vector<std::byte> staging(work == PageWork::kStaged ? kBatchPages * kPageSize : 0);
  lane.sent_hashes = 0;
  for (std::size_t first = 0; first < lane.pages.size(); first += kBatchPages) {
    const std::size_t count = std::min(kBatchPages, lane.pages.size() - first);
    parts.clear();
    for (std::size_t i = 0; i < count; ++i) {
      std::byte* page = memory.page(lane.pages[first + i]);
      if (work == PageWork::kStaged) {
        page = static_cast<std::byte*>(std::memcpy(&staging[i * kPageSize], page, kPageSize));
      }
      parts.push_back({page, kPageSize});
    }
    if (work != PageWork::kNone) {
      sink += zero_pages_of(parts);
      lane.sent_hashes += hash_of(hasher, parts);
    }
    must(lane.source->send(parts, kIdleMax));
  }
}

void run_target(Lane& lane, const Memory& memory, PageWork work, const wire::Hasher& hasher) {
  std::vector<iovec> parts;
  std::vector<iovec> left;
  lane.received_hashes = 0;
  for (std::size_t first = 0; first < lane.pages.size(); first += kBatchPages) {
    const std::size_t count = std::min(kBatchPages, lane.pages.size() - first);
    parts.clear();
    for (std::size_t i = 0; i < count; ++i) {
      parts.push_back({memory.page(lane.pages[first + i]), kPageSize});
    }
    left = parts;
    receive_whole(*lane.target, left);
    if (work != PageWork::kNone) lane.received_hashes += hash_of(hasher, parts);
  }
}

}  // namespace

Memory::Memory(std::uint64_t bytes, std::uint64_t seed) : bytes_(bytes) {
  void* address =
      ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) give_up("not enough memory; give a smaller --memory");
  base_ = static_cast<std::byte*>(address);
  // As the engine does with a target's memory.
  ::madvise(base_, bytes_, MADV_HUGEPAGE);
  fill(seed);
}

Memory::~Memory() { ::munmap(base_, bytes_); }

void Memory::fill(std::uint64_t seed) {
  if (seed == 0) {
    std::memset(base_, 0, bytes_);
    return;
  }
  auto* words = reinterpret_cast<std::uint64_t*>(base_);
  std::mt19937_64 random(seed);
  for (std::size_t i = 0; i < bytes_ / sizeof *words; ++i) words[i] = random();
}

Figure measure_memcpy(unsigned repeats, const Memory& from, const Memory& to) {
  return measure("memcpy", from.bytes(), repeats,
                 [&] { std::memcpy(to.page(0), from.page(0), from.bytes()); });
}

Figure measure_zero_scan(unsigned repeats, std::uint64_t bytes) {
  // Only a zero page is looked at whole.
  const Memory zero(bytes, 0);
  return measure("zero scan", zero.bytes(), repeats, [&] {
    std::uint64_t found = 0;
    for (std::size_t i = 0; i < zero.pages(); ++i) found += is_zero_page(zero.page(i)) ? 1 : 0;
    sink += found;
  });
}

Figure measure_hash(unsigned repeats, const Memory& memory, const wire::Hasher& hasher) {
  return measure("XXH3, 4 KiB pages", memory.bytes(), repeats, [&] {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < memory.pages(); ++i) {
      sum += hasher.hash({memory.page(i), kPageSize});
    }
    sink += sum;
  });
}

std::string_view to_string(PageWork work) {
  switch (work) {
    case PageWork::kNone:
      return "pages only";
    case PageWork::kHashed:
      return "scan + hash";
    case PageWork::kStaged:
      return "copy + scan + hash";
  }
  return "unknown";
}

std::vector<Figure> measure_pumps(unsigned repeats, unsigned lanes, PageWork work,
                                  std::span<const PumpMeans> means, const Memory& from,
                                  const Memory& to, const wire::Hasher& hasher) {
  std::memset(to.page(0), 0, to.bytes());
  std::vector<std::vector<Lane>> opened;
  std::vector<std::function<void()>> works;
  std::vector<std::string> names;
  opened.reserve(means.size());
  for (const PumpMeans& each : means) {
    opened.push_back(open_lanes(lanes, from.pages(), each.sockets));
    works.push_back([&, pump = std::span(opened.back())] {
      std::vector<std::jthread> threads;
      for (Lane& lane : pump) {
        threads.emplace_back([&] { run_target(lane, to, work, hasher); });
        threads.emplace_back([&] { run_source(lane, from, work, hasher); });
      }
    });
    names.push_back("pump, " + std::to_string(lanes) + (lanes == 1 ? " lane, " : " lanes, ") +
                    std::string(to_string(work)) + each.name);
  }
  std::vector<Figure> figures = measure_in_turns(names, from.bytes(), repeats, works);
  for (const Lane& lane : opened.back()) {
    if (work != PageWork::kNone && lane.sent_hashes != lane.received_hashes) {
      give_up("pages arrived changed");
    }
  }
  if (std::memcmp(from.page(0), to.page(0), from.bytes()) != 0) give_up("memory arrived changed");
  return figures;
}

Figure measure_pump(unsigned repeats, unsigned lanes, PageWork work, const Memory& from,
                    const Memory& to, const wire::Hasher& hasher) {
  const PumpMeans usual;
  return measure_pumps(repeats, lanes, work, std::span(&usual, 1), from, to, hasher).front();
}

}  // namespace migrate::bench
