#include "image_migration.hpp"

#include <poll.h>

#include <array>
#include <functional>
#include <thread>

#include "base/event_fd.hpp"
#include "base/log.hpp"
#include "base/start_thread.hpp"
#include "migrate/image_guest.hpp"
#include "progress_line.hpp"

namespace migrate::tool {
namespace {

/// Shows what happens, on the migration's thread.
class Display final : public Observer {
 public:
  explicit Display(const GlobalOptions& global) : line_(stderr, !global.json) {}
  void on_progress(const Progress& progress) override { line_.show(progress); }
  void on_event(const Event& event) override {
    line_.show(event);
    log_line(LogLevel::kInfo, event_text(event));
  }
  void clear() { line_.clear(); }

 private:
  ProgressLine line_;
};

/// Nobody is told of a guest that does not run.
class NoHost final : public Incoming::Host {
 public:
  Status on_described(const GuestDescription&) override { return {}; }
  Status on_ready() override { return {}; }
  void on_started() override {}
  void on_memory(Memory, const std::string&) override {}
};

/// Runs `migration` beside a wait for signals, which `cancel` is called for.
Status run_cancellably(const SignalFd& signals, const std::function<bool()>& cancel,
                       const std::function<void()>& migration) {
  MIGRATE_ASSIGN(EventFd over, EventFd::create());
  std::thread thread;
  MIGRATE_TRY(start_thread(thread, "migration", [&] {
    migration();
    over.set();
  }));
  for (;;) {
    std::array<pollfd, 2> waits = {pollfd{signals.fd(), POLLIN, 0}, pollfd{over.fd(), POLLIN, 0}};
    if (poll(waits.data(), waits.size(), -1) < 0) continue;
    if (waits[1].revents != 0) break;
    if (signals.take() != 0 && !cancel()) {
      log_line(LogLevel::kWarning, "the handover is committed: waiting for its outcome");
    }
  }
  thread.join();
  return {};
}

int tell(const GlobalOptions& global, Display& display, const Report& report) {
  display.clear();
  print_report(global, to_json(report, host_facts()));
  return to_int(exit_code(report.outcome));
}

}  // namespace

int send_image(const GlobalOptions& global, const std::string& path, Connector& connector,
               const OutgoingOptions& options, const SignalFd& signals) {
  auto source = make_image_source(path);
  if (!source) return fail(global, source.error());
  Display display(global);
  Outgoing outgoing(*std::move(source), options, &display);
  OutgoingResult result;
  const Status ran = run_cancellably(
      signals, [&] { return outgoing.cancel(); }, [&] { result = outgoing.run(connector); });
  if (!ran) return fail(global, ran.error());
  return tell(global, display, result.report);
}

int receive_image(const GlobalOptions& global, const CheckpointOptions& image,
                  std::unique_ptr<Acceptor> acceptor, const IncomingOptions& options,
                  const SignalFd& signals) {
  auto target = make_image_target(image);
  if (!target) return fail(global, target.error());
  Display display(global);
  NoHost host;
  Incoming incoming(*std::move(target), options, host, &display);
  IncomingResult result;
  const Status ran = run_cancellably(
      signals, [&] { return incoming.cancel(); }, [&] { result = incoming.run(*acceptor); });
  if (!ran) return fail(global, ran.error());
  return tell(global, display, result.report);
}

}  // namespace migrate::tool
