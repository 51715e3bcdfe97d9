// HostedGuest: what the command needs of a guest it hosts. vmm_guest.hpp is the one there is.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "migrate/guest.hpp"
#include "migrate/result.hpp"
#include "report_json.hpp"

namespace migrate::tool {

struct GuestFacts {
  std::string name;
  std::uint32_t vcpus = 0;
  std::uint64_t memory_bytes = 0;
  std::string workload;
};

/// A guest's serial console.
struct ConsoleView {
  std::string text;      ///< What it has printed, the newest of it; any bytes.
  std::string terminal;  ///< What to open to type there, such as "/dev/pts/3"; empty: nothing.
};

enum class GuestState : std::uint8_t {
  kPaused,
  kRunning,
  kStopped,  ///< Ended, by stop() or by itself.
  kLeft,     ///< Runs at another host.
  kCrashed,  ///< See failure().
};

/// A guest in this process. All methods may be called from any thread.
class HostedGuest {
 public:
  virtual ~HostedGuest() = default;

  [[nodiscard]] virtual GuestFacts facts() const = 0;
  [[nodiscard]] virtual GuestState state() const = 0;
  [[nodiscard]] virtual std::optional<Error> failure() const = 0;
  /// Readable (poll) once the guest has stopped, left or crashed.
  [[nodiscard]] virtual int ended_fd() const = 0;

  virtual Status pause() = 0;
  virtual Status resume() = 0;
  /// Ends it; ended_fd() says when it has.
  virtual void stop() = 0;

  /// The guest's own counters, the keys of `migrate stats`.
  [[nodiscard]] virtual Result<Json> stats() const = 0;

  [[nodiscard]] virtual Result<ConsoleView> console() const = 0;

  /// For one migration, not longer than this lives. One at a time.
  virtual Result<std::unique_ptr<SourceGuest>> make_source() = 0;
};

}  // namespace migrate::tool
