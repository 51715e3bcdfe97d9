// Clients of a guest's control socket: the subcommands.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "migrate/result.hpp"
#include "report_json.hpp"

namespace migrate::tool {

/// How long a guest's process may take to answer before it counts as hung. Pausing a guest drains
/// its device I/O first, so this is generous.
inline constexpr std::chrono::milliseconds kAnswerTimeout{10'000};

/// One request on a connection of its own. An answer beyond 2xx comes back as the error it carries;
/// kNotFound when nobody listens at `socket`. An empty `body` sends none.
[[nodiscard]] Result<Json> control_request(const std::filesystem::path& socket,
                                           const std::string& method, const std::string& path,
                                           const Json& body = nullptr,
                                           std::chrono::milliseconds timeout = kAnswerTimeout);

/// The same for an answer of any bytes, `bytes_max` at most.
[[nodiscard]] Result<std::string> control_download(const std::filesystem::path& socket,
                                                   const std::string& method,
                                                   const std::string& path, const Json& body,
                                                   std::chrono::milliseconds timeout,
                                                   std::size_t bytes_max);

/// /v1/events of one guest. One thread.
class EventStream {
 public:
  enum class Got {
    kMessage,  ///< `message` holds one.
    kWatched,  ///< The watched descriptor is readable.
    kTimeout,
    kClosed,  ///< The guest's process ended the stream, or is gone.
  };
  struct Next {
    Got got = Got::kClosed;
    Json message;  ///< An object; see docs/control-api.md.
    std::string text;
  };

  /// kNotFound when nobody listens at `socket`.
  static Result<std::unique_ptr<EventStream>> open(const std::filesystem::path& socket);
  ~EventStream();
  EventStream(const EventStream&) = delete;
  EventStream& operator=(const EventStream&) = delete;

  /// Waits for a message, or until `watched` (a signalfd; -1: none) is readable, or for `timeout`.
  [[nodiscard]] Next next(int watched,
                          std::optional<std::chrono::milliseconds> timeout = std::nullopt);

 private:
  class Impl;
  explicit EventStream(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace migrate::tool
