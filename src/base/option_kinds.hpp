// Kinds of options of the registry: a choice, a time, a count.
#pragma once

#include <charconv>
#include <chrono>
#include <string>
#include <string_view>
#include <type_traits>

#include "migrate/options.hpp"

namespace migrate::options {

// Longer than any maintenance window, and far from where now + timeout overflows.
inline constexpr std::chrono::hours kTimeoutMax{24};

[[nodiscard]] inline Error refused(std::string_view option, std::string_view value,
                                   const std::string& accepted) {
  return make_error(ErrorCode::kInvalidArgument,
                    "option " + std::string(option) + ": cannot use \"" + std::string(value) + "\"")
      .advise("accepted: " + accepted);
}

/// The error of a parser, with the option's name in front.
[[nodiscard]] inline Error in_option(std::string_view option, Error error) {
  error.message = "option " + std::string(option) + ": " + error.message;
  return error;
}

template <typename Choices>
std::string listed(const Choices& choices) {
  std::string text;
  for (const auto choice : choices) {
    if (!text.empty()) text += ", ";
    text += to_string(choice);
  }
  return text;
}

template <typename Choices>
auto choose(std::string_view option, std::string_view value, const Choices& choices)
    -> Result<typename Choices::value_type> {
  for (const auto choice : choices) {
    if (to_string(choice) == value) return choice;
  }
  return refused(option, value, listed(choices));
}

template <typename Enum, typename Choices>
[[nodiscard]] OptionSpec choice_option(std::string_view name, std::string_view argument,
                                       std::string_view help, Enum OutgoingOptions::*field,
                                       const Choices& choices) {
  return {name, argument, help,
          [=](OutgoingOptions& options, std::string_view value) -> Status {
            MIGRATE_ASSIGN(options.*field, choose(name, value, choices));
            return {};
          },
          [=](const OutgoingOptions& options) { return std::string(to_string(options.*field)); }};
}

template <typename Duration>
[[nodiscard]] OptionSpec time_option(std::string_view name, std::string_view help,
                                     Duration OutgoingOptions::*field) {
  return {name, "TIME", help,
          [=](OutgoingOptions& options, std::string_view value) -> Status {
            auto parsed = parse_duration(value);
            if (!parsed) return in_option(name, std::move(parsed).error());
            const auto time = std::chrono::duration_cast<Duration>(*parsed);
            if (time != *parsed || time <= Duration::zero() || time > kTimeoutMax) {
              return refused(
                  name, value,
                  std::is_same_v<Duration, std::chrono::microseconds>
                      ? "a time from 1us to 24 hours (86400s), such as 50ms"
                      : "a time from 1ms to 24 hours (86400s), in whole ms, such as 10s");
            }
            options.*field = time;
            return {};
          },
          [=](const OutgoingOptions& options) { return format_duration(options.*field); }};
}

[[nodiscard]] inline OptionSpec count_option(std::string_view name, std::string_view help,
                                             std::uint32_t OutgoingOptions::*field,
                                             std::uint32_t least, std::uint32_t most) {
  return {name, "N", help,
          [=](OutgoingOptions& options, std::string_view value) -> Status {
            std::uint32_t count = 0;
            const char* end = value.data() + value.size();
            const auto [stopped, failure] = std::from_chars(value.data(), end, count);
            if (failure != std::errc() || stopped != end || count < least || count > most) {
              return refused(
                  name, value,
                  "a whole number from " + std::to_string(least) + " to " + std::to_string(most));
            }
            options.*field = count;
            return {};
          },
          [=](const OutgoingOptions& options) { return std::to_string(options.*field); }};
}

}  // namespace migrate::options
