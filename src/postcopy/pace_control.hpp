// PaceControl: how fast the bulk lanes may push, so that the link carries nearly all it can and
// nothing waits in its queues. Pure policy, told every kStep or so how it went.
//
// It keeps an estimate of what the link carries, by what came through when round trips grew or when
// less went out than was allowed (then the limit is the peer or a processor), and uses kShare of
// it. Now and then it tries whether there is more, a little at a time, and steps back at once.
#pragma once

#include <chrono>
#include <cstdint>

namespace migrate::postcopy {

class PaceControl {
 public:
  /// Some round trips of a fast network, and rarely enough to cost nothing.
  static constexpr std::chrono::milliseconds kStep{10};
  /// Of what the link carries, the share that is used.
  static constexpr double kShare = 0.9;

  struct Limits {
    std::uint64_t capacity_bytes_per_s = 0;  ///< As measured before; 0: not known.
    std::uint64_t bytes_per_s_max = 0;       ///< Never more; 0: no limit.
  };
  explicit PaceControl(const Limits& limits);

  /// Of all lanes together, since the former step.
  struct Sample {
    std::chrono::nanoseconds took{0};
    std::uint64_t bytes = 0;                  ///< That the lanes took.
    std::uint64_t delivered_bytes_per_s = 0;  ///< As acknowledged, in bursts too; 0: not known.
    bool hungry = false;                      ///< They waited for pages to send.
    std::chrono::microseconds round_trip{0};  ///< The longest of a lane; 0: not known.
    std::chrono::microseconds round_trip_min{0};
  };
  void step(const Sample& sample);

  [[nodiscard]] std::uint64_t bytes_per_s() const;

 private:
  /// What came of what was allowed, over long enough to tell.
  struct Window {
    double bytes = 0, allowed = 0, seconds = 0;
  };
  [[nodiscard]] double allowed() const;
  /// True once lanes have fallen short: by how much `capacity` says.
  bool falls_short(double& capacity);
  void search(double came);
  void step_back(double came);
  bool is_accident();
  void go_on(double came);
  void found(double capacity, int hold);

  const Limits limits_;
  double capacity_;                          ///< What the link carries, as far as known.
  double share_;                             ///< Of that, what is allowed now.
  double proven_ = 0;                        ///< Came through without a queue: fades.
  double growth_;                            ///< By which the share grows next.
  bool searching_;                           ///< Nothing is known of the link.
  int settle_ = 0;                           ///< Steps until round trips tell of the present rate.
  int hold_;                                 ///< Steps until the next try,
  int hold_next_;                            ///< and after that.
  int clean_;                                ///< Steps without a queue at the full share.
  int queues_ = 0;                           ///< Looks in a row that saw a queue.
  int strikes_ = 0;                          ///< Queues in a row that came soon after another.
  std::chrono::microseconds round_trip_{0};  ///< When last looked at.
  Window window_;
};

}  // namespace migrate::postcopy
