#include "forecast/rehearsal.hpp"

#include "base/guarded.hpp"

namespace migrate::forecast {
namespace {

using Clock = std::chrono::steady_clock;

/// Takes a guest's state for its length.
class CountingWriter final : public StateWriter {
 public:
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  Status begin(const SectionInfo&) override { return {}; }
  Status append(std::span<const std::byte> bytes) override {
    bytes_ += bytes.size();
    return {};
  }
  Status end() override { return {}; }
  Status memory_final() override { return {}; }

 private:
  std::uint64_t bytes_ = 0;
};

}  // namespace

Result<Rehearsal> rehearse(SourceGuest& guest) {
  Rehearsal rehearsal;
  if (const auto expected = guest.expected_cost()) {
    rehearsal.pause = expected->pause;
    rehearsal.save = expected->save;
    rehearsal.state_bytes = expected->state_bytes;
    return rehearsal;
  }
  const auto begin = Clock::now();
  MIGRATE_ASSIGN(const PauseResult paused, guest.pause());
  const auto saving = Clock::now();
  CountingWriter writer;
  Status saved = guarded([&] { return guest.save_state(writer); });
  const auto end = Clock::now();
  rehearsal.paused = paused.before == RunState::kPaused;
  // It goes on whatever came of the saving.
  Status resumed = rehearsal.paused ? Status{} : guest.resume();
  if (!rehearsal.paused) rehearsal.stood = Clock::now() - paused.stopped_at;
  MIGRATE_TRY(std::move(resumed));
  MIGRATE_TRY(std::move(saved));
  rehearsal.pause = saving - begin;
  rehearsal.save = end - saving;
  rehearsal.state_bytes = writer.bytes();
  return rehearsal;
}

}  // namespace migrate::forecast
