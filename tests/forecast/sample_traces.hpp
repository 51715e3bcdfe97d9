// Traces made by hand.
#pragma once

#include <chrono>
#include <cstdint>
#include <random>
#include <vector>

#include "migrate/dirty_trace.hpp"

namespace migrate::testing {

/// Every field has a value of its own; both forms of sets are there.
inline DirtyTrace full_trace() {
  DirtyTrace trace;
  trace.guest = "web";
  trace.vcpus = 2;
  trace.recorded_at_s = 1'790'000'000;
  trace.tracker = "kvm-ring";
  trace.rearms_in_collect = true;
  trace.interval = std::chrono::milliseconds(20);
  trace.regions = {{{0, 1, 0}, {{0}, 160}, Backing::kMemfd},
                   {{0, 2, 3}, {{1u << 20}, 100}, Backing::kAnonymous}};
  trace.costs = {std::chrono::microseconds(210), std::chrono::microseconds(45),
                 std::chrono::microseconds(130), 9000};
  trace.page_wire_bytes = 4113;
  trace.empty = {{10, 20}, {200, 60}};
  trace.samples.push_back({std::chrono::microseconds(20'100), {{0, 1}, {150, 30}}, {31, 0}});
  trace.samples.push_back({std::chrono::microseconds(19'900), {}, {0, 0}});
  TraceSample dotted{std::chrono::microseconds(20'000), {}, {100, 30}};
  for (std::uint32_t page = 0; page < 260; page += 2) dotted.dirtied.push_back({page, 1});
  trace.samples.push_back(dotted);
  return trace;
}

/// A running guest of one region and one vCPU, 1 MiB/s = 256 pages/s, that costs nothing to pause.
inline DirtyTrace plain_trace(std::uint64_t pages, std::chrono::microseconds interval) {
  DirtyTrace trace;
  trace.guest = "plain";
  trace.vcpus = 1;
  trace.tracker = "kvm-bitmap";
  trace.interval = interval;
  trace.regions = {{{0, 1, 0}, {{0}, pages}, Backing::kMemfd}};
  trace.page_wire_bytes = kPageSize;
  return trace;
}

/// A sweep over pages [first, first + set) that writes `each` pages a sample.
inline void add_sweep(DirtyTrace& trace, std::uint32_t first, std::uint32_t set, std::uint32_t each,
                      std::size_t samples) {
  std::uint32_t at = 0;
  for (std::size_t i = 0; i < samples; ++i) {
    TraceSample sample{trace.interval, {}, {}};
    const std::uint32_t end = at + each;
    if (end > set) sample.dirtied.push_back({first, end - set});
    const std::uint32_t up_to = std::min(end, set);
    if (!sample.dirtied.empty() && sample.dirtied.back().count >= at) {
      sample.dirtied = {{first, set}};
    } else {
      sample.dirtied.push_back({first + at, up_to - at});
    }
    at = end % set;
    trace.samples.push_back(std::move(sample));
  }
}

/// Writes at random, with repetition, to a hot set: `each` writes a sample.
inline void add_uniform(DirtyTrace& trace, std::uint32_t set, std::uint32_t each,
                        std::size_t samples, std::uint32_t seed) {
  std::mt19937 random(seed);
  for (std::size_t i = 0; i < samples; ++i) {
    std::vector<bool> written(set);
    for (std::uint32_t w = 0; w < each; ++w) written[random() % set] = true;
    TraceSample sample{trace.interval, {}, {}};
    for (std::uint32_t page = 0; page < set; ++page) {
      if (!written[page]) continue;
      if (!sample.dirtied.empty() &&
          sample.dirtied.back().first + sample.dirtied.back().count == page) {
        ++sample.dirtied.back().count;
      } else {
        sample.dirtied.push_back({page, 1});
      }
    }
    trace.samples.push_back(std::move(sample));
  }
}

}  // namespace migrate::testing
