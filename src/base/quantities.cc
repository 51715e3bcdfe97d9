// Sizes, rates and times as people write them: exact, or refused.
#include <array>
#include <limits>
#include <optional>

#include "migrate/options.hpp"

namespace migrate {
namespace {

struct Unit {
  std::string_view suffix;
  std::uint64_t factor;
};

constexpr std::array kSizeUnits = {Unit{"", 1}, Unit{"K", 1ull << 10}, Unit{"M", 1ull << 20},
                                   Unit{"G", 1ull << 30}, Unit{"T", 1ull << 40}};
// In bytes: an eighth of the power of ten.
constexpr std::array kBitRateUnits = {Unit{"Kbit", 125}, Unit{"Mbit", 125'000},
                                      Unit{"Gbit", 125'000'000}};
constexpr std::array kTimeUnits = {Unit{"us", 1}, Unit{"ms", 1'000}, Unit{"s", 1'000'000}};

constexpr std::string_view kSizesAccepted = "a number with K, M, G, T or no unit, such as 256M";
constexpr std::string_view kRatesAccepted =
    "bytes a second with K, M, G, T or no unit, such as 200M, or bits with Kbit, Mbit or Gbit, "
    "such as 10Gbit";
constexpr std::string_view kTimesAccepted =
    "a number with us, ms or s, such as 50ms or 1.5s, in whole microseconds";

// Whatever is a nanosecond count elsewhere must hold it.
constexpr std::uint64_t kMicrosecondsMax =
    static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / 1000;

std::string_view take_digits(std::string_view& text) {
  std::size_t length = 0;
  while (length < text.size() && text[length] >= '0' && text[length] <= '9') ++length;
  const std::string_view digits = text.substr(0, length);
  text.remove_prefix(length);
  return digits;
}

std::optional<std::uint64_t> number(std::string_view digits) {
  std::uint64_t value = 0;
  for (const char digit : digits) {
    if (__builtin_mul_overflow(value, std::uint64_t{10}, &value) ||
        __builtin_add_overflow(value, static_cast<std::uint64_t>(digit - '0'), &value)) {
      return std::nullopt;
    }
  }
  return value;
}

/// 0.<digits> of `factor`, where that is a whole number.
std::optional<std::uint64_t> fraction_of(std::string_view digits, std::uint64_t factor) {
  while (!digits.empty() && digits.back() == '0') digits.remove_suffix(1);
  const auto numerator = number(digits);
  std::uint64_t product = 0;
  if (!numerator || __builtin_mul_overflow(*numerator, factor, &product)) return std::nullopt;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (product % 10 != 0) return std::nullopt;
    product /= 10;
  }
  return product;
}

std::optional<std::uint64_t> scaled(std::string_view whole, std::string_view fraction,
                                    std::uint64_t factor) {
  const auto units = number(whole);
  const auto part = fraction_of(fraction, factor);
  std::uint64_t value = 0;
  if (!units || !part || __builtin_mul_overflow(*units, factor, &value) ||
      __builtin_add_overflow(value, *part, &value)) {
    return std::nullopt;
  }
  return value;
}

/// "<digits>[.<digits>]<suffix>" with one of `units`.
std::optional<std::uint64_t> parse_quantity(std::string_view text, std::span<const Unit> units) {
  const std::string_view whole = take_digits(text);
  if (whole.empty()) return std::nullopt;
  std::string_view fraction;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    fraction = take_digits(text);
    if (fraction.empty()) return std::nullopt;
  }
  for (const Unit& unit : units) {
    if (unit.suffix == text) return scaled(whole, fraction, unit.factor);
  }
  return std::nullopt;
}

Error refused(std::string_view text, std::string_view what, std::string_view accepted) {
  return make_error(ErrorCode::kInvalidArgument,
                    "\"" + std::string(text) + "\" is not a usable " + std::string(what))
      .advise("accepted: " + std::string(accepted));
}

std::string without_trailing_zeros(std::string digits) {
  while (!digits.empty() && digits.back() == '0') digits.pop_back();
  return digits;
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  const auto bytes = parse_quantity(text, kSizeUnits);
  if (!bytes) return refused(text, "size", kSizesAccepted);
  return *bytes;
}

Result<std::uint64_t> parse_rate(std::string_view text) {
  auto bytes = parse_quantity(text, kSizeUnits);
  if (!bytes) bytes = parse_quantity(text, kBitRateUnits);
  if (!bytes) return refused(text, "rate", kRatesAccepted);
  return *bytes;
}

Result<std::chrono::microseconds> parse_duration(std::string_view text) {
  const auto count = parse_quantity(text, kTimeUnits);
  if (!count || *count > kMicrosecondsMax) return refused(text, "time", kTimesAccepted);
  return std::chrono::microseconds(static_cast<std::int64_t>(*count));
}

std::string format_duration(std::chrono::microseconds duration) {
  const bool negative = duration.count() < 0;
  const auto signed_count = static_cast<std::uint64_t>(duration.count());
  const std::uint64_t count = negative ? 0 - signed_count : signed_count;
  const std::size_t unit = count >= kTimeUnits[2].factor   ? 2
                           : count >= kTimeUnits[1].factor ? 1
                                                           : 0;
  std::string text = negative ? "-" : "";
  text += std::to_string(count / kTimeUnits[unit].factor);
  if (const std::uint64_t rest = count % kTimeUnits[unit].factor; rest != 0) {
    std::string digits = std::to_string(rest);
    digits.insert(0, unit * 3 - digits.size(), '0');
    text += "." + without_trailing_zeros(std::move(digits));
  }
  return text.append(kTimeUnits[unit].suffix);
}

std::string format_size(std::uint64_t bytes) {
  std::size_t unit = 0;
  while (unit + 1 < kSizeUnits.size() && bytes >= kSizeUnits[unit + 1].factor) ++unit;
  const std::uint64_t factor = kSizeUnits[unit].factor;
  std::string text = std::to_string(bytes / factor);
  // Two digits, cut and not rounded: 1023.99M must not read as 1024M.
  if (const std::uint64_t hundredths = bytes % factor * 100 / factor; hundredths != 0) {
    std::string digits = std::to_string(hundredths);
    digits.insert(0, 2 - digits.size(), '0');
    text += "." + without_trailing_zeros(std::move(digits));
  }
  return text.append(kSizeUnits[unit].suffix);
}

}  // namespace migrate
