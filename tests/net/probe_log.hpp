// ProbeLog: what was asked and what was answered, and what a client felt of it. Pure arithmetic.
#pragma once

#include <cstdint>
#include <vector>

namespace migrate::probe {

/// Nanoseconds of one clock, the same for all that a log is told.
using Nanoseconds = std::int64_t;

struct Stretch {
  Nanoseconds began = 0;
  Nanoseconds lasted = 0;
};

struct Figures {
  std::uint64_t sent = 0;
  std::uint64_t answered = 0;  ///< Probes, each once.
  std::uint64_t lost = 0;
  std::uint64_t reordered = 0;   ///< Answers that came after one to a later probe.
  std::uint64_t duplicated = 0;  ///< Answers to probes that had been answered.
  /// Client-seen downtime: the longest time that a client which asks waited for any answer. It
  /// begins when the first probe after the newest one answered is sent, or with the last answer if
  /// that came later, and ends with the next answer, or with the run. So a sender that was held up
  /// adds nothing to it, answers that were only kept waiting do not hide it, and it is the length
  /// of an outage give or take one interval, and the round trip.
  Stretch gap;
  /// The most probes lost one after the other, from the sending of the first of them to that of the
  /// next one answered, or to the end of the run.
  std::uint64_t lost_in_a_row = 0;
  Stretch lost_run;
  /// Round trips; by nearest rank, 0 without an answer.
  Nanoseconds rtt_p50 = 0;
  Nanoseconds rtt_p99 = 0;
  Nanoseconds rtt_max = 0;
};

/// What can be said while it goes on.
struct Glance {
  std::uint64_t answered = 0;
  std::uint64_t lost = 0;  ///< Not answered although a later one was.
  Nanoseconds gap = 0;     ///< The longest so far, the present one included.
};

class ProbeLog {
 public:
  /// A probe leaves at `when`, not before the one before it; returns its number: 0, 1, 2...
  std::uint64_t sent(Nanoseconds when);
  /// An answer came; answers are told in the order in which they came. False for a number that was
  /// never given out.
  bool answered(std::uint64_t number, Nanoseconds when);

  [[nodiscard]] std::uint64_t sent_count() const { return probes_.size(); }
  [[nodiscard]] bool all_answered() const { return answered_ == probes_.size(); }
  [[nodiscard]] Glance glance(Nanoseconds now) const;
  /// Of a run whose sending ended at `ended`.
  [[nodiscard]] Figures figures(Nanoseconds ended) const;

 private:
  struct Probe {
    Nanoseconds sent = 0;
    Nanoseconds answered = kNever;
  };
  static constexpr Nanoseconds kNever = INT64_MIN;

  [[nodiscard]] Stretch waiting(Nanoseconds until) const;
  void add_losses(Nanoseconds ended, Figures& figures) const;
  void add_round_trips(Figures& figures) const;

  std::vector<Probe> probes_;
  std::uint64_t first_after_newest_ = 0;  ///< The probe after the newest one answered.
  Nanoseconds last_answer_ = kNever;
  std::uint64_t answered_ = 0;
  std::uint64_t reordered_ = 0;
  std::uint64_t duplicated_ = 0;
  Stretch gap_;
};

}  // namespace migrate::probe
