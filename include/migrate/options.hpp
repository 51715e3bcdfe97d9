// Options of a migration, and the one registry from which the command line, the control API and the
// documents are made.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/channel.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// How a guest moves. The names are pinned; see to_string.
enum class Strategy : std::uint8_t { kAuto = 0, kStopCopy = 1, kPrecopy = 2 };
[[nodiscard]] std::string_view to_string(Strategy strategy);

enum class VerifyMode : std::uint8_t { kDigest = 0, kFull = 1 };
[[nodiscard]] std::string_view to_string(VerifyMode mode);

/// What to do when the remaining set stops shrinking, in the order given.
enum class StallStep : std::uint8_t { kThrottle = 0, kAbort = 1 };
[[nodiscard]] std::string_view to_string(StallStep step);

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
  std::vector<StallStep> on_stall = {StallStep::kThrottle, StallStep::kAbort};
  VerifyMode verify = VerifyMode::kDigest;
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds hello_timeout{10'000};
  std::chrono::milliseconds peer_timeout{30'000};  ///< A silent peer is given up after this.
  std::chrono::milliseconds ask_window{60'000};  ///< After COMMIT: how long to ask for the outcome.
  /// In the rounds: how long without the link before it is given up; 0: at once.
  std::chrono::milliseconds reconnect{30'000};
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
