// CompressionPolicy: whether the next batch of pages leaves as it is or packed, and how hard. Pure:
// told what batches cost, it says what to do with the next.
//
// A lane does two things at a time: its thread looks at pages and packs them, while the kernel
// sends what it was given before. So a batch takes as long as the slower of the two:
//
//   as it is      max(work,               bytes / rate)
//   packed at L   max(work + packing(L),  bytes x ratio(L) / rate')
//
// Work, packing and ratio are measured as batches pass (those of levels not in use on small
// samples). The rates are measured while the socket has a queue, apart for both ways, because a
// target that unpacks may be what limits them. As long as nothing ever queues, the link is not the
// limit and nothing is packed.
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

  /// A batch that is ready to be given to the socket.
  struct Batch {
    std::size_t content = 0;              ///< Bytes of pages and deltas, before packing.
    std::size_t sent = 0;                 ///< Bytes that will be given to the socket.
    std::optional<int> packed;            ///< Level, when it leaves packed.
    std::chrono::nanoseconds took{0};     ///< Since the batch before was ready.
    std::chrono::nanoseconds packing{0};  ///< Of that: packing the whole batch.
    std::chrono::nanoseconds waiting{0};  ///< Of that: for the socket or the bandwidth limit.
    bool limited = false;                 ///< Had to wait for the bandwidth limit.
    std::size_t queued = 0;               ///< Bytes of former batches still in the socket's queue.
    std::size_t sampled = 0;              ///< Bytes of the sample, 0: none.
    std::size_t sampled_to = 0;           ///< What they packed to.
    std::chrono::nanoseconds sampling{0};
  };
  void note(const Batch& batch, const Plan& plan);

 private:
  /// Of batches that shrink.
  struct Level {
    double seconds_per_byte = 0;
    double ratio = 1;
    bool known = false;
  };
  [[nodiscard]] double cost_as_is() const;
  [[nodiscard]] double cost_packed(std::size_t level) const;
  [[nodiscard]] std::optional<int> level_to_sample() const;
  [[nodiscard]] bool tries_as_is() const;
  void learn_rate(const Batch& batch);
  void learn_levels(const Batch& batch, const Plan& plan);
  void learn_level(int level, double seconds_per_byte, double ratio);
  void choose();

  CompressionChoice choice_;
  std::array<Level, kLevels.size()> levels_{};
  double shrinking_ = 1;  ///< Share of batches whose sample shrinks; all levels' alike.
  double work_per_byte_ = 0;
  std::optional<double> rate_as_is_;  ///< Bytes a second that the link takes.
  std::optional<double> rate_packed_;
  std::size_t queued_ = 0;       ///< After the latest batch was given to the socket.
  bool queue_was_busy_ = false;  ///< The queue was not empty when the latest batch was ready.
  std::uint64_t same_way_ = 0;   ///< So many batches before left in the same way, packed or not.
  bool was_packed_ = false;
  std::uint64_t batches_ = 0;
  std::uint64_t chosen_at_ = 0;
  std::optional<std::size_t> chosen_;  ///< Index into kLevels; none: as it is.
};

}  // namespace migrate
