#include "container_checkpoint.hpp"

#include <poll.h>

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "base/event_fd.hpp"
#include "base/start_thread.hpp"
#include "forwarding_source.hpp"
#include "runtime_dir.hpp"

namespace migrate::tool {
namespace {

/// A tree that stands already, and is taken as what it was: processes, and so regions, that come
/// and go would not fit the image's list of them.
class StandingSource final : public ForwardingSource {
 public:
  static Result<std::unique_ptr<SourceGuest>> create(std::unique_ptr<SourceGuest> source) {
    MIGRATE_ASSIGN(const PauseResult paused, source->pause());
    return std::unique_ptr<SourceGuest>(new StandingSource(std::move(source), paused));
  }
  RunState run_state() override { return paused_.before; }
  Result<PauseResult> pause() override { return paused_; }

 private:
  StandingSource(std::unique_ptr<SourceGuest> source, PauseResult paused)
      : ForwardingSource(std::move(source)), paused_(paused) {}
  const PauseResult paused_;
};

}  // namespace

Result<CheckpointReport> checkpoint_container(const ContainerProcess& process,
                                              const ContainerChoice& choice,
                                              const CheckpointOptions& options, bool stop,
                                              const SignalFd& signals) {
  MIGRATE_ASSIGN(const RuntimeDir folder, RuntimeDir::open());
  MIGRATE_ASSIGN(const NameLock name, folder.take_name(process.name));
  MIGRATE_ASSIGN(auto source_options, container_source_options(choice, folder));
  source_options.root = process.root;
  source_options.name = process.name;
  MIGRATE_ASSIGN(auto source, make_container_source(source_options));
  const auto begun = std::chrono::steady_clock::now();
  MIGRATE_ASSIGN(source, StandingSource::create(std::move(source)));
  CheckpointOptions taken = options;
  taken.leave_paused = stop;
  Checkpointer checkpointer(std::move(source));
  MIGRATE_ASSIGN(EventFd over, EventFd::create());
  std::optional<CheckpointReport> report;
  std::thread thread;
  const Status started = start_thread(thread, "checkpoint", [&] {
    report = checkpointer.take(taken);
    over.set();
  });
  if (!started) return started.error();
  for (;;) {
    std::array<pollfd, 2> waits = {pollfd{signals.fd(), POLLIN, 0}, pollfd{over.fd(), POLLIN, 0}};
    if (poll(waits.data(), waits.size(), -1) < 0) continue;
    if (waits[1].revents != 0) break;
    if (signals.take() != 0) static_cast<void>(checkpointer.cancel());
  }
  thread.join();
  const auto guest = checkpointer.take_guest();
  // It stood already when that began.
  const std::chrono::duration<double, std::milli> all = std::chrono::steady_clock::now() - begun;
  report->phases_ms.quiesce += all.count() - report->total_ms;
  report->total_ms = all.count();
  if (report->outcome == Outcome::kDone && stop) MIGRATE_TRY(guest->release());
  return *std::move(report);
}

}  // namespace migrate::tool
