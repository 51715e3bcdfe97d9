#include "checkpoint_client.hpp"

#include <poll.h>

#include <array>
#include <cstdio>
#include <optional>
#include <thread>

#include "base/event_fd.hpp"
#include "base/start_thread.hpp"
#include "control_client.hpp"

namespace migrate::tool {
namespace {

// As large as memory is, and as slow as a disk may be.
constexpr std::chrono::hours kCheckpointMax{24};

/// The guest's process says what became of it in the answer to the request.
void cancel(const std::filesystem::path& socket) {
  const auto answer = control_request(socket, "DELETE", "/v1/checkpoint");
  // kNotFound: it has ended.
  if (!answer && answer.error().code != ErrorCode::kNotFound) {
    std::fprintf(stderr, "migrate: not cancelled: %s\n", answer.error().to_text().c_str());
  }
}

}  // namespace

Result<Json> request_checkpoint(const std::filesystem::path& socket, const Json& body,
                                const SignalFd& signals, bool& signalled) {
  MIGRATE_ASSIGN(EventFd answered, EventFd::create());
  std::optional<Result<Json>> answer;
  std::thread thread;
  MIGRATE_TRY(start_thread(thread, "checkpoint", [&] {
    answer = control_request(socket, "POST", "/v1/checkpoint", body, kCheckpointMax);
    answered.set();
  }));
  for (;;) {
    std::array<pollfd, 2> waits = {pollfd{signals.fd(), POLLIN, 0},
                                   pollfd{answered.fd(), POLLIN, 0}};
    if (poll(waits.data(), waits.size(), -1) < 0) continue;
    if (waits[1].revents != 0) break;
    if (signals.take() == 0) continue;
    signalled = true;
    cancel(socket);
  }
  thread.join();
  return *std::move(answer);
}

}  // namespace migrate::tool
