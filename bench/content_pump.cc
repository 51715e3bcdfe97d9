#include "bench/content_pump.hpp"

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "bench/measuring.hpp"
#include "memory/zero_page.hpp"
#include "migrate/memory.hpp"
#include "wire/hasher.hpp"

namespace migrate::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

// As the engine's batches.
constexpr std::size_t kBatchPages = 256;
constexpr std::size_t kWords = kBatchPages / 64;
// Nothing here is ever silent for so long; a hang ends.
constexpr std::chrono::seconds kIdleMax{30};
constexpr std::uint64_t kEnd = ~std::uint64_t{0};

/// Goes before a batch: where it lies, and which of its pages follow.
struct Head {
  std::uint64_t first = kEnd;
  std::array<std::uint64_t, kWords> pages{};
  [[nodiscard]] bool has(std::size_t i) const { return (pages[i / 64] >> (i % 64) & 1) != 0; }
};

struct Lane {
  std::unique_ptr<Channel> source;
  std::unique_ptr<Channel> target;
  std::uint64_t sent_hashes = 0;
  std::uint64_t received_hashes = 0;
  std::uint64_t moved_pages = 0;
};

double ms_since(SteadyClock::time_point start) {
  return std::chrono::duration<double, std::milli>(SteadyClock::now() - start).count();
}

/// Both ends of every lane. A handshake that is done on first use (TLS) is done here.
std::vector<Lane> open_lanes(const Link& link, unsigned count) {
  const Ends ends = link.open();
  std::vector<Lane> lanes(count);
  for (Lane& lane : lanes) {
    std::thread accepting([&] {
      lane.target = must(ends.acceptor->accept(kIdleMax));
      char byte = 0;
      const iovec part{&byte, 1};
      if (must(lane.target->receive({&part, 1}, kIdleMax)) != 1) give_up("a pump's lane closed");
    });
    lane.source = must(ends.connector->connect(kIdleMax));
    char byte = 0;
    const iovec part{&byte, 1};
    must(lane.source->send({&part, 1}, kIdleMax));
    accepting.join();
  }
  return lanes;
}

class Pump {
 public:
  Pump(PumpWork work, std::span<const std::byte> from, std::span<std::byte> to)
      : work_(work), from_(from), to_(to), pages_(from.size() / kPageSize) {
    if (work_ != PumpWork::kMoved) return;
    known_.resize(pages_);
    for (std::size_t i = 0; i < pages_; ++i) known_[i] = !is_zero_page(page(i));
  }

  void send(Lane& lane) {
    std::vector<iovec> parts;
    for (;;) {
      Head head;
      head.first = next_.fetch_add(kBatchPages, std::memory_order_relaxed);
      if (head.first >= pages_) head.first = kEnd;
      parts.assign(1, {&head, sizeof head});
      if (head.first != kEnd) take(head, parts, lane);
      // A batch of zeros is not worth a message.
      if (parts.size() > 1 || head.first == kEnd) must(lane.source->send(parts, kIdleMax));
      if (head.first == kEnd) return;
    }
  }

  void receive(Lane& lane) {
    std::vector<iovec> parts;
    std::vector<iovec> left;
    for (;;) {
      Head head;
      left.assign(1, {&head, sizeof head});
      receive_whole(*lane.target, left);
      if (head.first == kEnd) return;
      parts.clear();
      for (std::size_t i = 0; i < kBatchPages && head.first + i < pages_; ++i) {
        if (head.has(i)) parts.push_back({to_.data() + (head.first + i) * kPageSize, kPageSize});
      }
      left = parts;
      receive_whole(*lane.target, left);
      if (work_ != PumpWork::kHashed) continue;
      for (const iovec& part : parts) lane.received_hashes += hash(part);
    }
  }

 private:
  [[nodiscard]] const std::byte* page(std::size_t i) const { return from_.data() + i * kPageSize; }

  [[nodiscard]] std::uint64_t hash(const iovec& part) const {
    return hasher_.hash({static_cast<const std::byte*>(part.iov_base), part.iov_len});
  }

  void take(Head& head, std::vector<iovec>& parts, Lane& lane) {
    for (std::size_t i = 0; i < kBatchPages && head.first + i < pages_; ++i) {
      const std::size_t number = head.first + i;
      if (work_ == PumpWork::kMoved ? !known_[number] : is_zero_page(page(number))) continue;
      head.pages[i / 64] |= std::uint64_t{1} << (i % 64);
      parts.push_back({const_cast<std::byte*>(page(number)), kPageSize});
      if (work_ == PumpWork::kHashed) lane.sent_hashes += hash(parts.back());
      ++lane.moved_pages;
    }
  }

  const PumpWork work_;
  const std::span<const std::byte> from_;
  const std::span<std::byte> to_;
  const std::size_t pages_;
  const wire::Hasher hasher_{wire::SessionRandom{}, wire::SessionRandom{}};
  std::vector<bool> known_;
  std::atomic<std::uint64_t> next_{0};
};

}  // namespace

std::string_view to_string(PumpWork work) {
  switch (work) {
    case PumpWork::kMoved:
      return "pages only";
    case PumpWork::kScanned:
      return "scan";
    case PumpWork::kHashed:
      return "scan + hash";
  }
  return "unknown";
}

PumpRun run_pump(const Link& link, unsigned lanes, PumpWork work, std::span<const std::byte> from,
                 std::span<std::byte> to) {
  if (from.size() != to.size() || from.size() % kPageSize != 0) give_up("a pump of unequal sizes");
  std::memset(to.data(), 0, to.size());
  std::vector<Lane> opened = open_lanes(link, lanes);
  Pump pump(work, from, to);
  PumpRun run;
  const double cpu_before = cpu_seconds();
  const auto start = SteadyClock::now();
  {
    std::vector<std::jthread> threads;
    for (Lane& lane : opened) {
      threads.emplace_back([&] { pump.receive(lane); });
      threads.emplace_back([&] { pump.send(lane); });
    }
  }
  run.ms = ms_since(start);
  run.cpu_s = cpu_seconds() - cpu_before;
  std::uint64_t hashes = 0;
  for (const Lane& lane : opened) {
    run.moved_bytes += lane.moved_pages * kPageSize;
    hashes += lane.sent_hashes - lane.received_hashes;
  }
  if (hashes != 0 || std::memcmp(from.data(), to.data(), from.size()) != 0) {
    give_up("a pump's memory arrived changed");
  }
  return run;
}

double scan_on_all_cores(std::span<const std::byte> memory) {
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const std::size_t batches = memory.size() / kPageSize / kBatchPages;
  std::atomic<std::size_t> next{0};
  std::atomic<std::size_t> zero{0};
  const auto start = SteadyClock::now();
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < cores; ++i) {
      threads.emplace_back([&] {
        std::size_t found = 0;
        for (std::size_t batch = next++; batch < batches; batch = next++) {
          const std::byte* pages = memory.data() + batch * kBatchPages * kPageSize;
          for (std::size_t j = 0; j < kBatchPages; ++j) {
            found += is_zero_page(pages + j * kPageSize) ? 1 : 0;
          }
        }
        zero += found;
      });
    }
  }
  return ms_since(start);
}

}  // namespace migrate::bench
