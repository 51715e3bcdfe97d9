#include "tests/dirtylog/contract/chance.hpp"

#include <cstdlib>
#include <optional>

namespace migrate::testing {
namespace {

// Hundreds to thousands of collects, for each tracker.
constexpr std::chrono::milliseconds kSuiteTime{400};

std::optional<std::uint64_t> number_from(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return std::nullopt;
  return std::strtoull(text, nullptr, 0);
}

}  // namespace

std::uint64_t contract_seed() {
  const auto given = number_from("MIGRATE_TEST_SEED");
  return given ? *given : std::random_device{}();
}

std::chrono::milliseconds full_speed_time() {
  const auto seconds = number_from("MIGRATE_SOAK_SECONDS");
  return seconds ? std::chrono::seconds(*seconds) : kSuiteTime;
}

}  // namespace migrate::testing
