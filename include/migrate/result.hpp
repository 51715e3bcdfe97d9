// Result and Error: how every part of the library reports failure.
//
// Nothing in the library throws across its API. A function that can fail returns Result<T>; its
// members are named as in std::expected, so a later move to it is a search and replace.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace migrate {

/// What went wrong. Numbers and strings (see to_string) are pinned: they travel on the wire, stand
/// in reports and are matched by scripts. Never renumber; add at the end.
enum class ErrorCode : std::uint16_t {
  kInternal = 1,
  kInvalidArgument = 2,
  kIo = 3,
  kConnectFailed = 4,
  kTimeout = 5,
  kLinkLost = 6,
  kProtocol = 7,
  kVersionMismatch = 8,
  kIntegrity = 9,
  kIncompatible = 10,
  kNoMemory = 11,
  kNameTaken = 12,
  kAddressInUse = 13,
  kCancelled = 14,
  kGuest = 15,
  kNotConverging = 16,
  kLeaseExpired = 17,
  kUnauthorized = 18,
  kUnsupported = 19,
  kNotFound = 20,
  kBusy = 21,
  kUncertain = 22,
  kGuestLost = 23,
  kPermission = 24,
};

/// The pinned name of a code, such as "link-lost"; "unknown" for a number this version lacks.
[[nodiscard]] std::string_view to_string(ErrorCode code);

/// Where in a migration something happened. Names are pinned like ErrorCode's.
enum class Phase : std::uint8_t {
  kNone = 0,
  kSetup = 1,
  kPreflight = 2,
  kRounds = 3,
  kQuiesce = 4,
  kFinalSync = 5,
  kStateSave = 6,
  kFinalPages = 7,
  kVerify = 8,
  kStateLoad = 9,
  kHandover = 10,
  kStart = 11,
  kRelease = 12,
  kPostcopy = 13,
};
[[nodiscard]] std::string_view to_string(Phase phase);

/// Which side saw it.
enum class Side : std::uint8_t { kNone = 0, kSource = 1, kTarget = 2 };
[[nodiscard]] std::string_view to_string(Side side);

/// A failure in words an operator can act on.
struct [[nodiscard]] Error {
  ErrorCode code = ErrorCode::kInternal;
  int sys_errno = 0;  ///< errno of the call that failed, or 0.
  Phase phase = Phase::kNone;
  Side side = Side::kNone;
  std::string message;  ///< What failed, where and why; one sentence, no trailing period.
  std::string remedy;   ///< What to do next; may be empty.

  Error& at(Phase p) & { return phase = p, *this; }
  Error&& at(Phase p) && { return phase = p, std::move(*this); }
  Error& on(Side s) & { return side = s, *this; }
  Error&& on(Side s) && { return side = s, std::move(*this); }
  Error& advise(std::string text) & { return remedy = std::move(text), *this; }
  Error&& advise(std::string text) && { return remedy = std::move(text), std::move(*this); }

  /// "phase: message (errno text); remedy", for logs and terminals.
  [[nodiscard]] std::string to_text() const;
};

[[nodiscard]] Error make_error(ErrorCode code, std::string message);
/// Same, with the errno of the failed call; its text is appended by to_text().
[[nodiscard]] Error make_errno_error(ErrorCode code, int sys_errno, std::string message);

namespace detail {
/// Ends the process: a programmer error, never bad input. On in every build type.
[[noreturn]] void check_failed(const char* expression, const char* file, int line) noexcept;
}  // namespace detail

/// Assertion that stays on in release builds; for programmer errors only.
#define MIGRATE_CHECK(expression) \
  (static_cast<bool>(expression)  \
       ? static_cast<void>(0)     \
       : ::migrate::detail::check_failed(#expression, __FILE__, __LINE__))

/// A value or an Error. Reading the wrong one is a programmer error and ends the process.
template <typename T>
class [[nodiscard]] Result {
 public:
  using value_type = T;
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit

  [[nodiscard]] bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }

  [[nodiscard]] T& value() & {
    MIGRATE_CHECK(has_value());
    return std::get<0>(state_);
  }
  [[nodiscard]] const T& value() const& {
    MIGRATE_CHECK(has_value());
    return std::get<0>(state_);
  }
  [[nodiscard]] T&& value() && {
    MIGRATE_CHECK(has_value());
    return std::get<0>(std::move(state_));
  }
  [[nodiscard]] T& operator*() & { return value(); }
  [[nodiscard]] const T& operator*() const& { return value(); }
  [[nodiscard]] T&& operator*() && { return std::move(*this).value(); }
  [[nodiscard]] T* operator->() { return &value(); }
  [[nodiscard]] const T* operator->() const { return &value(); }
  template <typename U>
  [[nodiscard]] T value_or(U&& other) const& {
    return has_value() ? value() : static_cast<T>(std::forward<U>(other));
  }

  [[nodiscard]] Error& error() & {
    MIGRATE_CHECK(!has_value());
    return std::get<1>(state_);
  }
  [[nodiscard]] const Error& error() const& {
    MIGRATE_CHECK(!has_value());
    return std::get<1>(state_);
  }
  [[nodiscard]] Error&& error() && {
    MIGRATE_CHECK(!has_value());
    return std::get<1>(std::move(state_));
  }

 private:
  std::variant<T, Error> state_;
};

/// Success, or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit

  [[nodiscard]] bool has_value() const noexcept { return !error_.has_value(); }
  explicit operator bool() const noexcept { return has_value(); }
  void value() const { MIGRATE_CHECK(has_value()); }

  [[nodiscard]] Error& error() & {
    MIGRATE_CHECK(error_.has_value());
    return *error_;
  }
  [[nodiscard]] const Error& error() const& {
    MIGRATE_CHECK(error_.has_value());
    return *error_;
  }
  [[nodiscard]] Error&& error() && {
    MIGRATE_CHECK(error_.has_value());
    return *std::move(error_);
  }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace migrate

/// Returns the error of `expression` (a Result) from the current function, if it has one.
#define MIGRATE_TRY(expression)                                        \
  do {                                                                 \
    if (auto migrate_try_result = (expression); !migrate_try_result) { \
      return std::move(migrate_try_result).error();                    \
    }                                                                  \
  } while (false)

#define MIGRATE_CONCAT_(a, b) a##b
#define MIGRATE_CONCAT(a, b) MIGRATE_CONCAT_(a, b)
/// `MIGRATE_ASSIGN(auto x, f())`: returns f's error, or binds x to its value.
#define MIGRATE_ASSIGN(declaration, expression) \
  MIGRATE_ASSIGN_(declaration, expression, MIGRATE_CONCAT(migrate_result_, __LINE__))
#define MIGRATE_ASSIGN_(declaration, expression, temporary) \
  auto temporary = (expression);                            \
  if (!temporary) return std::move(temporary).error();      \
  declaration = *std::move(temporary)
