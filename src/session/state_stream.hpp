// Device state on its way: sections written to the control lane, collected, and read back.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "migrate/guest.hpp"
#include "transport/record_channel.hpp"

namespace migrate::session {

/// The source's StateWriter: streams sections as records.
class StateSender final : public StateWriter {
 public:
  /// `on_memory_settled` is called from memory_settled(), `on_memory_final` once, from
  /// memory_final() or finish().
  /// `in_time` is asked before each record; its error is what the caller of begin() and so on gets.
  StateSender(RecordChannel& control, nanoseconds idle_max,
              std::function<Status()> on_memory_settled, std::function<Status()> on_memory_final,
              std::function<Status()> in_time)
      : control_(control),
        idle_max_(idle_max),
        on_memory_settled_(std::move(on_memory_settled)),
        on_memory_final_(std::move(on_memory_final)),
        in_time_(std::move(in_time)) {}

  Status begin(const SectionInfo& section) override;
  Status append(std::span<const std::byte> bytes) override;
  Status end() override;
  Status memory_settled() override;
  Status memory_final() override;

  /// After save_state(): memory is final now, if it was not before; sends STATE_END.
  Status finish();
  /// The attempt is given up: no section stays open.
  Status close();

 private:
  RecordChannel& control_;
  nanoseconds idle_max_;
  std::function<Status()> on_memory_settled_;
  std::function<Status()> on_memory_final_;
  std::function<Status()> in_time_;
  bool open_ = false;
  bool memory_final_ = false;
  std::uint32_t sections_ = 0;
  std::uint64_t section_bytes_ = 0;
  std::uint64_t total_bytes_ = 0;
};

/// The target's side: takes the records of one attempt, then is a StateReader over them.
class StateBuffer final : public StateReader {
 public:
  /// More than `bytes_max` of state is refused.
  explicit StateBuffer(std::uint64_t bytes_max) : bytes_max_(bytes_max) {}

  Status take(const wire::SectionBegin& begin);
  Status take_data(std::span<const std::byte> bytes);
  Status take(const wire::SectionEnd& end);
  Status take(const wire::StateEnd& end);
  /// A section or STATE_END came.
  [[nodiscard]] bool begun() const { return open_ || complete_ || !sections_.empty(); }
  /// STATE_END came.
  [[nodiscard]] bool complete() const { return complete_; }
  /// Drops everything, for another attempt.
  void reset();
  /// Reads from the first section again.
  void rewind();

  Result<std::optional<SectionInfo>> next() override;
  [[nodiscard]] std::uint64_t remaining() const override;
  Status read(std::span<std::byte> into) override;

 private:
  struct Section {
    SectionInfo info;
    std::vector<std::byte> body;
  };
  std::uint64_t bytes_max_;
  std::uint64_t bytes_ = 0;
  std::vector<Section> sections_;
  bool open_ = false;
  bool complete_ = false;
  std::size_t next_ = 0;  // The section after the current one.
  std::size_t at_ = 0;    // In the current section's body.
};

}  // namespace migrate::session
