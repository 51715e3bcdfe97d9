// migrate stop: ends a guest; a migration under way is cancelled first.
#include <cstdio>
#include <memory>

#include "command.hpp"
#include "guest_request.hpp"

namespace migrate::tool {
namespace {

// A migration takes up to its peer timeout (30 s by default) to notice a dead link, then the guest
// stops within milliseconds.
constexpr std::chrono::seconds kStopMax{60};

/// Waits until the guest's process has let its followers go.
bool wait_until_gone(EventStream& stream) {
  const auto deadline = std::chrono::steady_clock::now() + kStopMax;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    if (stream.next(-1, left).got == EventStream::Got::kClosed) return true;
  }
}

int stop(const GlobalOptions& global, const std::string& name) {
  const auto socket = guest_socket(name);
  if (!socket) return fail(global, socket.error());
  const auto stream = EventStream::open(*socket);
  if (!stream) return fail(global, stream.error());
  const auto answer = control_request(*socket, "POST", "/v1/guest/stop");
  if (!answer) return fail(global, answer.error());
  if (!wait_until_gone(**stream)) {
    return fail(global, make_error(ErrorCode::kTimeout, "guest '" + name + "' has not stopped")
                            .advise("see `migrate status`; kill -9 its process as a last resort"));
  }
  if (global.json) {
    print_json({{"name", name}, {"state", "stopped"}});
  } else {
    std::printf("%s has stopped\n", name.c_str());
  }
  return to_int(ExitCode::kDone);
}

}  // namespace

void add_stop(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto name = std::make_shared<std::string>();
  CLI::App* command =
      app.add_subcommand("stop", "End a guest for good; its migration is cancelled first");
  command->add_option("NAME", *name, "The guest")->required()->type_name("");
  command->callback(
      [&global, &chosen, name] { chosen = [&global, name] { return stop(global, *name); }; });
}

}  // namespace migrate::tool
