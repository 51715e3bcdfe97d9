// CompressionPolicy: whether the next batch of pages leaves as it is or packed, and how hard. Pure:
// told what batches took, it says what to do with the next.
//
// What counts is how long a lane is busy with a byte of content, its waiting for the socket
// included. That is measured for the way in use, and kept for the other. While batches leave as
// they are, levels are tried on small samples, and packing is taken up when
//
//   max(work + packing(L), ratio(L) x time as it is)
//
// promises to be less than the time as it is: packing fills time that was waiting. What it is
// really worth is measured then; when it is worse (a target that unpacks slowly, two sides on one
// processor) batches leave as they are again. Neither way is taken for good: the other one is tried
// again, more and more seldom as it loses.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "migrate/options.hpp"

namespace migrate {

/// One lane's; no locks.
class CompressionPolicy {
 public:
  /// Levels that kAuto chooses from. On text-like pages -1 takes as long as 1 and packs less, and 3
  /// takes three times as long and packs no better.
  static constexpr std::array<int, 2> kLevels = {-5, 1};
  /// Content to try a level on, spread over the batch: packed in 0.1 ms.
  static constexpr std::size_t kSampleBytes = 32 << 10;

  explicit CompressionPolicy(CompressionChoice choice) : choice_(choice) {}

  struct Plan {
    std::optional<int> pack;    ///< Pack the batch at this level, where its sample says so.
    std::optional<int> sample;  ///< Pack a sample at this level, and tell what came of it.
  };
  /// For the next batch.
  [[nodiscard]] Plan next() const;
  /// Whether a batch whose sample came out so is worth packing whole; where not, send it as it is.
  [[nodiscard]] static bool compressible(std::size_t sample, std::size_t packed) {
    // Less than a tenth saved is less than the work of packing and unpacking at any rate of a link
    // where levels of this speed are used.
    return packed * 10 < sample * 9;
  }

  /// A batch that was sent.
  struct Batch {
    std::size_t content = 0;              ///< Bytes of pages and deltas, before packing.
    std::size_t sent = 0;                 ///< Bytes given to the socket.
    std::optional<int> packed;            ///< Level, when it left packed.
    std::chrono::nanoseconds took{0};     ///< The lane was busy with it so long.
    std::chrono::nanoseconds waiting{0};  ///< Of that: for the socket or the bandwidth limit.
    std::chrono::nanoseconds packing{0};  ///< Of that: packing the whole batch.
    std::size_t sampled = 0;              ///< Bytes of the sample, 0: none.
    std::size_t sampled_to = 0;           ///< What they packed to.
    std::chrono::nanoseconds sampling{0};
  };
  void note(const Batch& batch, const Plan& plan);

 private:
  enum class Way : std::uint8_t { kAsIs = 0, kPacked = 1 };
  /// Seconds a byte of content.
  struct Measured {
    double time = 0;  ///< Busy; 0: not known.
    double work = 0;  ///< Of it, neither waiting nor packing.
    double waiting = 0;
  };
  /// Of batches that shrink.
  struct Level {
    double seconds_per_byte = 0;
    double ratio = 1;
    bool known = false;
  };
  [[nodiscard]] Measured& measured(Way way) { return measured_[static_cast<std::size_t>(way)]; }
  [[nodiscard]] const Measured& measured(Way way) const {
    return measured_[static_cast<std::size_t>(way)];
  }
  [[nodiscard]] double promise(std::size_t level) const;
  [[nodiscard]] std::optional<std::size_t> most_promising() const;
  [[nodiscard]] std::optional<int> level_to_sample() const;
  [[nodiscard]] std::uint64_t on_this_way() const { return batches_ - since_; }
  /// Packing has not been tried yet.
  [[nodiscard]] bool is_first_way() const { return since_ == 0; }
  void watch_the_link(const Batch& batch);
  void learn_levels(const Batch& batch, const Plan& plan);
  void choose();
  void take(Way way);

  CompressionChoice choice_;
  std::array<Level, kLevels.size()> levels_{};
  std::array<Measured, 2> measured_{};
  double shrinking_ = 1;  ///< Share of batches whose sample shrinks; all levels' alike.
  Way way_ = Way::kAsIs;
  std::size_t level_ = 0;  ///< Index into kLevels, when packing.
  std::uint64_t batches_ = 0;
  std::uint64_t since_ = 0;       ///< When this way was taken.
  std::uint64_t held_ = 0;        ///< Batches in a row that mostly waited, before packing is tried.
  std::uint64_t patience_ = 256;  ///< So many batches pass before the other way is tried again.
};

}  // namespace migrate
