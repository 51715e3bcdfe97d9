// Options of a migration, and the one registry from which the command line, the control API and the
// documents are made.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/channel.hpp"
#include "migrate/policy.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// How a guest moves. The names are pinned; see to_string.
enum class Strategy : std::uint8_t {
  kAuto = 0,  ///< Pre-copy where its downtime keeps the limit, else hybrid where that is possible.
  kStopCopy = 1,  ///< The guest stands while all of it is sent.
  kPrecopy = 2,   ///< It runs on while rounds send what it has written, and stands for the last.
  kPostcopy = 3,  ///< It goes first, and its memory follows.
  kHybrid = 4,    ///< Rounds, then post-copy for what they have left.
};
[[nodiscard]] std::string_view to_string(Strategy strategy);

enum class VerifyMode : std::uint8_t { kDigest = 0, kFull = 1 };
[[nodiscard]] std::string_view to_string(VerifyMode mode);

/// A step of the ladder that is climbed when the remaining set stops shrinking.
struct StallStep {
  enum class Kind : std::uint8_t {
    kThrottle,  ///< The guest is held back until its writes fit through the link.
    kPostcopy,  ///< The guest goes first, and what is left of its memory follows.
    kRaise,     ///< A longer downtime is accepted.
    kAbort,     ///< The guest goes on here.
  };
  Kind kind = Kind::kAbort;
  std::chrono::microseconds limit{0};  ///< Of kRaise: the downtime from then on.
  friend bool operator==(const StallStep&, const StallStep&) = default;
};
/// "throttle", "postcopy", "raise:200ms", "abort".
[[nodiscard]] std::string to_string(const StallStep& step);

/// What `--compress` asks for: nothing but whole pages and zeros; what pays, as measured; or zstd
/// at a level (-7 to 19), always.
struct CompressionChoice {
  enum class Mode : std::uint8_t { kNone = 0, kAuto = 1, kZstd = 2 };
  Mode mode = Mode::kAuto;
  int level = 1;  ///< For kZstd.
  friend bool operator==(const CompressionChoice&, const CompressionChoice&) = default;
};
/// "auto", "none", "zstd:1".
[[nodiscard]] std::string to_string(const CompressionChoice& choice);

/// While the guest runs at the source nothing is lost but time; once it runs at the target its
/// memory is in two places.
inline constexpr std::chrono::milliseconds kReconnectInRounds{30'000};
inline constexpr std::chrono::milliseconds kReconnectOfPostcopy{600'000};

/// With post-copy: what leaves next of what nobody asked for. The names are pinned; see to_string.
enum class PushPattern : std::uint8_t {
  kBubble = 0,   ///< Around the latest faults, then what was written lately, then the rest.
  kAddress = 1,  ///< In order of addresses: what the other is compared with.
};
[[nodiscard]] std::string_view to_string(PushPattern pattern);

/// By then the network sends to the target, or never will.
inline constexpr std::chrono::milliseconds kForwardMax{30'000};

/// Options of the sending side. Defaults are the command's.
struct OutgoingOptions {
  Strategy strategy = Strategy::kAuto;
  std::chrono::microseconds max_downtime{50'000};
  std::uint32_t max_rounds = 30;
  std::uint64_t bandwidth_bytes_per_s = 0;  ///< 0: no limit. All lanes together.
  /// The limit while the guest stands; 0: none. Without it bandwidth_bytes_per_s holds then, too.
  std::optional<std::uint64_t> switchover_bandwidth_bytes_per_s;
  std::uint32_t lanes = 0;  ///< Bulk lanes; 0: by cores.
  CompressionChoice compress;
  /// Memory for pages as they were last sent, so that only what changed in them is sent.
  std::uint64_t delta_cache_bytes = 32ull << 20;
  /// Empty: as the strategy has it, see effective_ladder().
  std::vector<StallStep> on_stall;
  /// When rounds end.
  PolicyChoice policy;
  /// Instead of `policy`, where a program brings its own. Not an option of the command.
  std::shared_ptr<const PrecopyPolicy> custom_policy;
  /// Most of a vCPU's run time that throttling withholds, 0..0.99.
  double throttle_max = 0.99;
  /// A switchover whose target is not ready for the guest this long after its last instruction is
  /// given up: the guest goes on, and so does pre-copy. Time spent hashing for VerifyMode::kFull is
  /// not counted.
  std::optional<std::chrono::microseconds> downtime_hard;
  /// Switchovers tried with downtime_hard before the migration fails.
  std::uint32_t max_attempts = 10;
  VerifyMode verify = VerifyMode::kDigest;
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds hello_timeout{10'000};
  std::chrono::milliseconds peer_timeout{30'000};  ///< A silent peer is given up after this.
  std::chrono::milliseconds ask_window{60'000};  ///< After COMMIT: how long to ask for the outcome.
  /// How long without the link before it is given up; 0: at once. nullopt: kReconnectInRounds and
  /// kReconnectOfPostcopy.
  std::optional<std::chrono::milliseconds> reconnect;
  /// With post-copy: a limit for what is sent unasked, beside bandwidth_bytes_per_s; 0: none. What
  /// the guest waits for is not held back by either.
  std::uint64_t push_bandwidth_bytes_per_s = 0;
  PushPattern push_order = PushPattern::kBubble;
  /// With post-copy: memory goes back to the source's host page by page as it has arrived.
  bool release_early = false;
  /// From COMMIT until this long after STARTED, frames that still come to the guest here go to the
  /// target; 0: none do. The guest is let go that much later. At most kForwardMax.
  std::chrono::milliseconds forward{0};
  /// Not the engine's, which is given a Connector: for whoever makes that.
  SocketOptions sockets;
};

/// Options of the receiving side.
struct IncomingOptions {
  std::chrono::milliseconds hello_timeout{10'000};
  std::chrono::milliseconds peer_timeout{30'000};
  std::chrono::milliseconds ask_window{60'000};
  std::chrono::milliseconds lease{10'000};  ///< How long a READY binds this side.
  std::uint64_t state_bytes_max = 64ull << 20;
  /// Where the journal goes, which says what became of a session when this process is gone: a
  /// folder on a tmpfs, the same for all that receive on this host, such as /run/NAME. Made where
  /// it is not there, for its owner alone. Must not be empty.
  std::string runtime_dir;
};

/// What is done, step by step, when rounds stop getting anywhere: on_stall, or where that is empty
/// throttle and abort, for kAuto with postcopy before them.
[[nodiscard]] std::vector<StallStep> effective_ladder(const OutgoingOptions& options);

/// How long without the link before it is given up: while the guest runs at the source, and once it
/// runs at the target.
[[nodiscard]] inline std::chrono::milliseconds reconnect_in_rounds(const OutgoingOptions& options) {
  return options.reconnect.value_or(kReconnectInRounds);
}
[[nodiscard]] inline std::chrono::milliseconds reconnect_of_postcopy(
    const OutgoingOptions& options) {
  const auto window = options.reconnect.value_or(kReconnectOfPostcopy);
  // A guest that is in two places is not given up for a connection that was reset.
  return window.count() == 0 ? kReconnectInRounds : window;
}

/// One option as the registry knows it.
struct OptionSpec {
  std::string_view name;      ///< Without dashes: "max-downtime".
  std::string_view argument;  ///< Shape of the value, such as "TIME" or "auto|stop-copy|precopy".
  std::string_view help;      ///< One sentence.
  std::function<Status(OutgoingOptions&, std::string_view)> set;
  std::function<std::string(const OutgoingOptions&)> get;
};

/// All options of `send`, in the order in which help shows them.
[[nodiscard]] std::span<const OptionSpec> outgoing_option_registry();
/// Sets one by name; kInvalidArgument names what is accepted.
[[nodiscard]] Status set_option(OutgoingOptions& options, std::string_view name,
                                std::string_view value);

/// "256M": bytes by powers of two; K, M, G, T and none.
[[nodiscard]] Result<std::uint64_t> parse_size(std::string_view text);
/// "200M" bytes a second by powers of two; "10Gbit", "500Mbit" bits by powers of ten. In bytes/s.
[[nodiscard]] Result<std::uint64_t> parse_rate(std::string_view text);
/// "50ms", "200us", "2s", "1.5s".
[[nodiscard]] Result<std::chrono::microseconds> parse_duration(std::string_view text);
[[nodiscard]] std::string format_duration(std::chrono::microseconds duration);
[[nodiscard]] std::string format_size(std::uint64_t bytes);

}  // namespace migrate
