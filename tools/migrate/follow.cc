#include "follow.hpp"

#include "exit_code.hpp"

namespace migrate::tool {
namespace {

// The guest's process waits a few seconds for other followers before it closes its socket; this is
// only for one that hangs.
constexpr std::chrono::milliseconds kFarewellMax{15'000};

/// What to say of a guest's process that ended without a last word.
Report report_of_death(Phase last, const std::string& target) {
  // From the switchover on COMMIT may have been sent.
  const bool handing_over = last >= Phase::kQuiesce;
  Error error = make_error(
      handing_over ? ErrorCode::kUncertain : ErrorCode::kGuestLost,
      handing_over ? "the guest's process ended while it handed the guest over to " + target
                   : "the guest's process ended during the migration");
  error.phase = last;
  error.side = Side::kSource;
  error.remedy = handing_over
                     ? "see on the target (`migrate ps`) whether the guest runs there"
                     : "the guest is gone unless it runs at the target: see `migrate ps` there";
  return report_of(handing_over ? Outcome::kUncertain : Outcome::kLost, Side::kSource, error);
}

/// A guest that left takes its socket with it before its followers are let go.
void wait_for_close(EventStream& stream) {
  const auto deadline = std::chrono::steady_clock::now() + kFarewellMax;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return;
    const auto next = stream.next(-1, left);
    if (next.got != EventStream::Got::kMessage) return;
  }
}

/// Shows messages; says in which phase the last one was.
class Display {
 public:
  explicit Display(const FollowOptions& options)
      : options_(options), line_(stderr, options.event_lines) {}

  void show(const EventStream::Next& next) {
    if (options_.events != nullptr) {
      std::fputs((next.text + "\n").c_str(), options_.events);
      std::fflush(options_.events);
    }
    const std::string type = next.message.value("type", "");
    if (type == "progress") {
      const Progress progress = progress_from_json(next.message);
      last_ = progress.phase;
      line_.show(progress);
    } else if (type == "event") {
      const Event event = event_from_json(next.message);
      if (event.phase != Phase::kNone) last_ = event.phase;
      line_.show(event);
    }
  }
  [[nodiscard]] Phase last() const { return last_; }
  void clear() { line_.clear(); }

 private:
  const FollowOptions& options_;
  ProgressLine line_;
  Phase last_ = Phase::kSetup;
};

std::uint64_t number_of(const Json& message) {
  const auto number = message.find("migration");
  return number != message.end() && number->is_number_unsigned() ? number->get<std::uint64_t>() : 0;
}

}  // namespace

std::optional<Json> follow_migration(EventStream& stream, const SignalFd& signals,
                                     const FollowOptions& options) {
  Display display(options);
  for (;;) {
    const auto next = stream.next(signals.fd());
    switch (next.got) {
      case EventStream::Got::kTimeout:
        continue;
      case EventStream::Got::kClosed:
        display.clear();
        if (options.report_here) return options.report_here();
        return to_json(report_of_death(display.last(), options.target), host_facts());
      case EventStream::Got::kWatched:
        display.clear();
        if (!options.on_signal(signals.take())) return std::nullopt;
        continue;
      case EventStream::Got::kMessage:
        break;
    }
    if (number_of(next.message) != options.migration) continue;
    display.show(next);
    const auto report = next.message.find("report");
    if (report == next.message.end() || !report->is_object()) continue;
    display.clear();
    const int code = report_exit_code(*report);
    const bool left = code == to_int(ExitCode::kDone) || code == to_int(ExitCode::kLost);
    if (left && options.wait_for_end) wait_for_close(stream);
    return *report;
  }
}

int report_exit_code(const Json& report) {
  return to_int(exit_code(report_from_json(report).outcome));
}

}  // namespace migrate::tool
