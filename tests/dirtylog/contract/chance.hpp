// Chance: random choices that a seed repeats, and how long the contract's long tests run.
#pragma once

#include <chrono>
#include <cstdint>
#include <random>

namespace migrate::testing {

class Chance {
 public:
  explicit Chance(std::uint64_t seed) : engine_(seed) {}
  /// 0 <= result < limit; limit > 0.
  std::uint64_t below(std::uint64_t limit) { return engine_() % limit; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }

 private:
  std::mt19937_64 engine_;
};

/// MIGRATE_TEST_SEED, or a new one each time.
[[nodiscard]] std::uint64_t contract_seed();

/// MIGRATE_SOAK_SECONDS, or what a test suite has time for.
[[nodiscard]] std::chrono::milliseconds full_speed_time();

}  // namespace migrate::testing
