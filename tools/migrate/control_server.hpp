// ControlServer: HTTP/1.1 and WebSocket on a UNIX socket. Knows nothing of guests; see
// control_api.hpp for what is served. docs/control-api.md is the contract with clients.
#pragma once

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

#include "event_hub.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

struct HttpRequest {
  std::string method;
  std::string path;  ///< Without the query.
  std::string body;
  /// The client's, for as long as the request is handled: POLLRDHUP says that it has gone. -1: not
  /// known.
  int connection = -1;
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::string allow;  ///< Of a 405: the methods there are.
};

/// {"error":{...}} with the status that suits the code.
[[nodiscard]] HttpResponse error_response(const Error& error);

/// Called from the server's worker threads, several at a time.
class RequestHandler {
 public:
  virtual ~RequestHandler() = default;
  virtual HttpResponse handle(const HttpRequest& request) = 0;
};

struct ControlLimits {
  std::size_t connections_max = 64;  ///< Half of them may follow events.
  std::size_t header_bytes_max = 8u << 10;
  std::size_t body_bytes_max = 64u << 10;
  std::chrono::milliseconds request_timeout{10'000};  ///< From its first byte to its last.
  std::chrono::milliseconds idle_timeout{60'000};     ///< Between requests.
  std::chrono::milliseconds write_timeout{10'000};    ///< A reader as slow as that is dropped.
};

class ControlServer {
 public:
  /// Starts the threads, and does not listen yet. `handler` and `hub` must outlive the server.
  ControlServer(std::filesystem::path path, RequestHandler& handler, EventHub& hub,
                ControlLimits limits = {});
  /// As close().
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  /// Listens: a few system calls, for it may come within a guest's downtime. The socket has mode
  /// 0600 and replaces what was at its path: hold the guest's name first. Harmless when open.
  Status open();
  /// Waits until answers under way are written and followers have everything; false at `timeout`.
  bool drain(std::chrono::milliseconds timeout);
  /// Removes the socket, then ends all connections and threads.
  void close();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace migrate::tool
