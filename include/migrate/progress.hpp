// What a migration tells while it runs (Observer) and when it has ended (Report).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/policy.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// How a migration ended. Names are pinned; see to_string.
enum class Outcome : std::uint8_t {
  kDone = 0,       ///< The guest runs (or stands paused) at the target.
  kFailed = 1,     ///< The source guest is as it was.
  kRefused = 2,    ///< As kFailed, and before anything moved.
  kCancelled = 3,  ///< As kFailed, by request.
  kUncertain = 4,  ///< After COMMIT the target cannot be asked; the guest is kept paused here.
  kLost = 5,       ///< The guest is gone.
};
[[nodiscard]] std::string_view to_string(Outcome outcome);

struct RoundReport {
  std::uint32_t round = 0;
  double start_ms = 0;      ///< Since the call.
  std::uint64_t pages = 0;  ///< Looked at in this round.
  std::uint64_t bytes = 0;  ///< On the wire.
  double ms = 0;
  std::uint64_t dirty_after = 0;  ///< Pages dirty when it ended.
  double dirty_rate = 0;          ///< Bytes of pages newly dirtied a second.
  double throttle = 0;            ///< Share of run time withheld, 0..1; mean of the vCPUs.
  /// The same by vCPU, when the round ended; empty where none was.
  std::vector<double> throttle_by_vcpu;
  std::uint64_t hot_after = 0;  ///< Of dirty_after, in the writable working set.
  /// As forecast before the round, of the whole migration.
  Estimate predicted_downtime_ms, predicted_total_ms;
};

/// A switchover that was given up before COMMIT, after which the guest went on here.
struct FailedAttempt {
  std::uint32_t attempt = 0;
  double start_ms = 0;      ///< Since the call.
  double stood_ms = 0;      ///< From the guest's last instruction until it went on.
  double cost_ms = 0;       ///< Until rounds went on.
  std::string phase;        ///< What was under way.
  std::uint64_t pages = 0;  ///< Sent in it, and sent again later.
};

/// Figures of one side. Times in milliseconds of wall time at this side; see DESIGN of the report
/// in docs/report.md for what each means. Numbers that do not apply are 0.
struct Report {
  Outcome outcome = Outcome::kFailed;
  Side side = Side::kSource;
  std::string strategy;
  std::string session;
  std::vector<std::pair<std::string, std::string>> options;
  struct {
    std::string name;
    std::string kind;
    std::uint32_t vcpus = 0;
    std::uint64_t memory_bytes = 0;
    std::string state;    ///< "running" or "paused": the run state that moved.
    std::string tracker;  ///< Which dirty tracker worked.
  } guest;
  std::uint32_t attempts = 0;
  double total_ms = 0;
  std::optional<double> downtime_ms;  ///< nullopt for a guest that was paused.
  struct {
    double setup = 0, rounds = 0, quiesce = 0, final_sync = 0, state_save = 0, final_pages = 0;
    double state_load = 0, handover = 0, start = 0, verify = 0, postcopy = 0;
  } phases_ms;
  std::vector<RoundReport> rounds;
  struct {
    std::uint64_t total = 0, raw = 0, zero = 0, delta = 0, duplicate = 0, compressed = 0;
    std::uint64_t unchanged = 0, redirtied = 0, demand = 0, pushed = 0;
  } pages;
  struct {
    std::uint64_t guest = 0;  ///< Page content represented, sent or skipped.
    std::uint64_t wire = 0;
  } bytes;
  double bandwidth_mib_s = 0;
  double cpu_s = 0;
  /// At the last switchover.
  struct {
    Estimate downtime_ms, total_ms;
  } predicted;
  std::vector<FailedAttempt> failed_attempts;
  double capacity_mib_s = 0;  ///< Of the link, as measured by what it took.
  /// Of post-copy, as the target saw them: from when a fault was heard of until its page was there.
  struct {
    std::uint64_t count = 0;  ///< Of pages that were at the source.
    double p50_us = 0, p99_us = 0, max_us = 0;
    std::uint64_t local = 0;       ///< Of pages that are zero, and needed nobody.
    std::vector<double> stall_ms;  ///< By vCPU; empty where its threads are not known.
  } faults;
  /// Post-copy whose source was lost: what never came.
  struct {
    std::uint64_t pages = 0;
    std::vector<std::string> ranges;  ///< "0:0.0 17-42": region and pages of it, at most 1000.
  } missing;
  struct {
    std::string digest = "off", full = "off", sampled = "off";  ///< "equal", "unequal" or "off".
  } integrity;
  struct {
    std::uint32_t count =
        0;          ///< Times that the link was lost, in rounds or post-copy, and came back.
    double ms = 0;  ///< Without it, all of them together.
  } reconnects;
  /// Frames that came to the guest at the source after its pause. There: sent to the target, and
  /// dropped with a link that was lost. At the target: given to the guest, and dropped there.
  struct {
    std::uint64_t frames = 0, bytes = 0, dropped = 0;
  } forwarded;
  std::optional<Error> error;
};

/// Where a running migration is.
struct Progress {
  Phase phase = Phase::kSetup;
  std::uint32_t round = 0;
  std::uint64_t pages_left = 0;   ///< Of this round.
  std::uint64_t pages_total = 0;  ///< Of the guest.
  double dirty_bytes_per_s = 0;
  double throughput_bytes_per_s = 0;  ///< On the wire.
  double predicted_downtime_ms = 0;   ///< p50.
  double eta_ms = 0;                  ///< Until the switchover, by the forecast; 0 when unknown.
  double elapsed_ms = 0;
  std::uint64_t bytes_sent = 0;
};

/// Something worth a line in a log: "round 3 ended", "stall: throttle".
struct Event {
  std::string name;  ///< Pinned, such as "round-end", "stall", "switchover", "reconnecting".
  Phase phase = Phase::kNone;
  std::uint32_t round = 0;
  std::string detail;  ///< Words for people.
};

/// Hears of progress. Called from the thread that called run(); must return fast and not call back.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void on_progress(const Progress& progress) = 0;  ///< At most every 100 ms.
  virtual void on_event(const Event& event) = 0;
};

}  // namespace migrate
