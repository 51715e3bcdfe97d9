// ThrottleController: how much run time to withhold from whom, so that a round's writes fit through
// the link. Pure: samples in, shares out.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "forecast/dirty_curve.hpp"

namespace migrate::precopy {

/// What the tracker knows at one moment of a round. Counts are since the round began.
struct DirtySample {
  double ms = 0;              ///< Since the round began.
  std::uint64_t dirtied = 0;  ///< Pages written, so due in a later round.
  /// The same by vCPU, each page counted for who wrote it first; empty: not known.
  std::span<const std::uint64_t> by_vcpu;
  std::uint64_t left_pages = 0;  ///< Of the round, still to be sent.
};

/// Learns the guest's dirty curve in any case, and once engaged withholds run time: a round may
/// leave behind no more than kRhoTarget of what it has sent.
///
/// It steers by what comes of it, not by a model of the guest: a guest that has time to spare loses
/// none of its writes until that time is used up. At each sample it forecasts what will be dirty at
/// the round's end (by how fast each writer dirties now, and how earlier rounds came to their
/// ends), and lets each writer run by as much more or less as the budget that is left allows. The
/// budget is shared out so that who writes little is left alone and the others are held to the same
/// number of pages. One thread.
class ThrottleController {
 public:
  /// Just under the link's capacity: the set shrinks by a seventh each round. Closer to 1 would
  /// withhold a little less for far longer (rounds until the set has shrunk to a tenth: 14 at 0.85,
  /// 22 at 0.9, 45 at 0.95), further away more than is needed.
  static constexpr double kRhoTarget = 0.85;

  /// `most`: the largest share withheld.
  ThrottleController(std::uint32_t vcpus, double most);

  void begin_round(std::uint64_t set_pages);
  void note(const DirtySample& sample);
  /// The round is over.
  void end_round(const DirtySample& sample);

  void engage();
  /// Asks for more than kRhoTarget, when that did not help: false when nothing more can be had.
  bool press();
  void release();
  [[nodiscard]] bool engaged() const { return engaged_; }

  /// Withheld now, by vCPU, 0 to `most`.
  [[nodiscard]] const std::vector<double>& shares() const { return shares_; }
  [[nodiscard]] double mean_share() const;
  /// Mean of the vCPUs' run shares over the round's time so far.
  [[nodiscard]] double mean_run_share_of_round() const;

  /// Pages dirty after a round of `ms`, as the guest was let run lately; 0: not known.
  [[nodiscard]] double dirtied_after(double ms) const { return curve_.after(ms); }
  /// Where rounds end up: the set that dirties as much again while it is sent. 0: it vanishes.
  [[nodiscard]] double floor_pages(double set_pages, double ms_per_page) const;
  [[nodiscard]] bool knows() const { return curve_.known(); }

 private:
  struct Writer {
    double dirtied = 0;  ///< In this round.
    double paced = 0;    ///< Of that, what its pace knows of.
    double pace = 0;     ///< What a whole round comes to as it writes now.
    double run = 1;      ///< Of run time, what it is let have.
    double whole = 0;    ///< In the whole round, as forecast.
    double to_come = 0;  ///< Of that, still to come.
  };
  /// How a round comes to what it leaves: the part that is dirty when a part of it is sent.
  class Course {
   public:
    void begin() { seen_.fill(0); }
    void note(double progress, double dirtied);
    void end(double dirtied);
    [[nodiscard]] double part_at(double progress) const;

   private:
    static constexpr std::size_t kSteps = 16;
    std::array<double, kSteps> part_ = linear();
    std::array<double, kSteps> seen_{};
    static std::array<double, kSteps> linear();
  };

  void attribute(const DirtySample& sample);
  void count_time(const DirtySample& sample);
  void follow_pace(double part);
  void steer_by_whole_round();
  void steer(double budget, double step);
  void publish();

  const double most_;
  forecast::DirtyCurve curve_;
  Course course_;
  std::vector<Writer> writers_;  // One for all, until the tracker tells them apart.
  std::vector<double> shares_;
  bool engaged_ = false;
  bool clean_start_ = true;  // Nothing was dirty when the round began: the first does so.
  double target_ = kRhoTarget;
  double set_pages_ = 0;
  double part_ = 0;        // Of what the round leaves, dirty at the latest sample that told.
  double sampled_ms_ = 0;  // When the latest sample of the round was.
  double ran_ms_ = 0;      // Of that, mean of the vCPUs.
};

}  // namespace migrate::precopy
