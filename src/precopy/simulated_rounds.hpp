// SimulatedRounds: what Rounds does, to a guest replayed from a trace over a link that is a number.
//
// The same rules decide which page is sent when and how often: the order of windows, re-arming
// ahead of reading, pages left to a later round, batches waiting for a lane. See rounds.hpp.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "forecast/trace_replay.hpp"
#include "migrate/dirty_trace.hpp"
#include "migrate/memory.hpp"
#include "precopy/page_heat.hpp"

namespace migrate::precopy {

struct SimulatedLink {
  double bytes_per_s = 0;  ///< Positive.
  double round_trip_ms = 0;
  double page_bytes = 0;   ///< Of a page with content, on the wire.
  double page_ms_min = 0;  ///< What a page takes however fast the link is, all lanes together.
  std::uint32_t lanes = 1;
};

/// One thread.
class SimulatedRounds {
 public:
  struct Outcome {
    std::uint64_t set_pages = 0;
    std::uint64_t sent = 0;  ///< Of those; the others were written again before.
    double wire_bytes = 0;
    double ms = 0;                               ///< Through the target's acknowledgement.
    std::uint64_t dirty_after = 0;               ///< When the collect that ended it had run.
    std::vector<std::uint64_t> dirtied_by_vcpu;  ///< Of those; empty: not known.
  };
  /// A moment within a round.
  struct Moment {
    double ms = 0;                           ///< Since the round began.
    std::uint64_t dirtied = 0;               ///< Pages due in a later round.
    std::span<const std::uint64_t> by_vcpu;  ///< The same by writer; empty: not known.
    std::uint64_t left_pages = 0;            ///< Of the round, still to be sent.
  };
  using OnMoment = std::function<void(const Moment&)>;

  /// The guest is where its trace is at `offset`. `trace` must outlive this.
  SimulatedRounds(const DirtyTrace& trace, std::chrono::microseconds offset, SimulatedLink link);

  [[nodiscard]] std::uint64_t pages_left() const { return set_.count(); }
  /// Slower than the link; 0: not.
  void set_rate(double bytes_per_s) { rate_ = bytes_per_s; }
  /// Run time withheld from each vCPU from now on.
  void set_withheld(std::vector<double> withheld) { withheld_ = std::move(withheld); }

  /// One round, and the collect after it. `on_moment` is called as often as the engine looks at its
  /// tracker, and may set what is withheld.
  Outcome run(const OnMoment& on_moment);
  /// The last one, while the guest stands. Takes bytes at the link's own speed.
  Outcome run_final();
  /// Without any round before: the guest stands, and all of it is sent.
  Outcome run_whole() { return run_final(); }

 private:
  void pass(double ms);
  void wrote(TraceRun run);
  void send_part(const PageBitmap& part);
  void dispatch(const PageBitmap& part, PageRange window);
  void submit(std::uint64_t pages);
  void look_again();
  [[nodiscard]] std::vector<std::uint64_t> by_vcpu() const;
  void collect();
  [[nodiscard]] double cost_ms(std::uint64_t pages, double bytes_per_s) const;

  const DirtyTrace& trace_;
  const SimulatedLink link_;
  forecast::TraceReplay replay_;
  double rate_ = 0;
  std::vector<double> withheld_;

  // One region of all pages, as the trace numbers them.
  PageBitmap set_;      // What the next round sends.
  PageBitmap log_;      // Written since it was armed.
  PageBitmap unarmed_;  // Of the open round: writes to them are not logged, and sent with it.
  PageBitmap again_;  // Written again since they were armed, as of the latest look before a window.
  PageHeat heat_;
  std::vector<std::uint32_t> seen_;   // The same, since a window was begun.
  std::vector<std::uint32_t> fresh_;  // Logged since the latest look.
  std::deque<double> queue_;          // Batches that wait for a lane, by what they take.

  const OnMoment* on_moment_ = nullptr;
  double bytes_per_s_ = 0;  // Of page content, in the last long round.
  // Of the open round.
  double now_ms_ = 0;
  double looked_ms_ = 0;
  std::uint64_t dispatched_ = 0;
  std::uint64_t passed_ = 0;  // Dispatched, or left to a later round.
  std::uint64_t dirtied_ = 0;
  std::vector<double> dirtied_by_vcpu_;
};

}  // namespace migrate::precopy
