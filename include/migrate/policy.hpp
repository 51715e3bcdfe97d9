// PrecopyPolicy: when pre-copy goes on, when it stops, and when it is stuck. A pure function from
// what is known after a round to what to do next, so that a migration and a simulation share it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "migrate/result.hpp"

namespace migrate {

/// A figure that is not known for sure: it is expected to be `p50`, and in 19 of 20 cases at most
/// `p95`.
struct Estimate {
  double p50 = 0;
  double p95 = 0;
  friend bool operator==(const Estimate&, const Estimate&) = default;
};

/// One round that has ended.
struct RoundSample {
  std::uint64_t set_pages = 0;          ///< Dirty when it began.
  std::uint64_t pages_sent = 0;         ///< Looked at; the rest was dirtied again before.
  std::uint64_t bytes_sent = 0;         ///< On the wire.
  double ms = 0;                        ///< Through the target's acknowledgement.
  std::uint64_t dirty_after_pages = 0;  ///< Dirty when it ended: the next round's set.
  double run_share = 1;                 ///< Of run time the guest was let have in it, 0..1.
  /// Where further rounds like it would end up: pages that are dirty again each time, by the
  /// writable working set measured so far; nullopt: not known.
  std::optional<std::uint64_t> floor_pages;
};

/// What a policy decides by. Bytes are on the wire, times milliseconds, pages 4 KiB.
struct PolicyInput {
  /// Since the ladder's latest step (its effect is not seen in what came before); at least one. The
  /// first of them may be round 0, which sends all of memory.
  std::span<const RoundSample> rounds;
  std::uint32_t rounds_done = 0;      ///< All so far.
  std::uint64_t memory_pages = 0;     ///< Of the guest, holes included.
  std::uint64_t bytes_sent = 0;       ///< All so far.
  double ms_per_page = 0;             ///< What a dirty page costs to move in a round, measured.
  double switchover_ms_per_page = 0;  ///< The same while the guest stands.
  double fixed_ms = 0;                ///< Of a switchover without any pages, expected.
  Estimate downtime_ms;               ///< If the guest were paused now.
  double max_downtime_ms = 0;
  std::uint32_t max_rounds = 0;
  std::uint64_t capacity_bytes_per_s = 0;   ///< Of the link, as measured; 0: not known yet.
  std::uint64_t bandwidth_bytes_per_s = 0;  ///< The user's limit; 0: none.
  std::uint64_t rate_bytes_per_s = 0;       ///< In force in the last round, as decided; 0: none.
};

struct PolicyDecision {
  enum class Action : std::uint8_t {
    kNextRound,
    kSwitchover,
    kStalled,  ///< More rounds do not help: the ladder's next step is due.
  };
  Action action = Action::kNextRound;
  /// For the next round, when less than the user's limit; 0: no less.
  std::uint64_t rate_bytes_per_s = 0;
  std::string reason;  ///< One clause, for events and errors.
};

/// Has no state of its own: what it needs is in the input. Any thread.
class PrecopyPolicy {
 public:
  virtual ~PrecopyPolicy() = default;
  /// For reports: "own", "xen", "qemu", "fixed:5".
  [[nodiscard]] virtual std::string name() const = 0;
  /// Of round 0, as PolicyDecision::rate_bytes_per_s.
  [[nodiscard]] virtual std::uint64_t first_rate(std::uint64_t bandwidth_bytes_per_s) const = 0;
  [[nodiscard]] virtual PolicyDecision decide(const PolicyInput& input) const = 0;
};

/// The policies there are. The names are pinned; see to_string.
struct PolicyChoice {
  enum class Kind : std::uint8_t {
    kOwn,    ///< Stops when the forecast keeps the limit.
    kXen,    ///< Clark et al., NSDI 2005: rate adaptation, 29 rounds, 50 pages, 3 times memory.
    kQemu,   ///< What remains over the bandwidth measured keeps the limit, or another round.
    kFixed,  ///< So many rounds, whatever they bring.
  };
  Kind kind = Kind::kOwn;
  std::uint32_t rounds = 0;  ///< Of kFixed.
  friend bool operator==(const PolicyChoice&, const PolicyChoice&) = default;
};
/// "own", "xen", "qemu", "fixed:5".
[[nodiscard]] std::string to_string(const PolicyChoice& choice);
/// The other way; kInvalidArgument says what is accepted.
[[nodiscard]] Result<PolicyChoice> parse_policy(std::string_view text);

[[nodiscard]] std::shared_ptr<const PrecopyPolicy> make_policy(const PolicyChoice& choice);

}  // namespace migrate
