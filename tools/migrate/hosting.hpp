// Hosting: a guest with its name and its control socket, put together; for `run` and `recv`.
#pragma once

#include <memory>

#include "control_api.hpp"
#include "control_server.hpp"
#include "event_hub.hpp"
#include "guest_host.hpp"
#include "runtime_dir.hpp"

namespace migrate::tool {

class Hosting {
 public:
  /// `guest` must outlive this; `name` is held until the guest has ended.
  static Result<std::unique_ptr<Hosting>> create(HostedGuest& guest, NameLock name,
                                                 const RuntimeDir& folder, bool arriving);

  /// Opens the control socket: from here on the guest can be seen and controlled.
  Status open();
  [[nodiscard]] GuestHost& host() { return *host_; }
  [[nodiscard]] EventHub& hub() { return hub_; }

  /// GuestHost::serve(); then the socket and the name go, once the followers have the report.
  HostEnd serve(const SignalFd& signals);
  /// GuestHost::serve_migration(), with the same end.
  void serve_migration(const SignalFd& signals);

 private:
  void close();
  explicit Hosting(NameLock name) : name_(std::move(name)) {}

  NameLock name_;
  EventHub hub_;
  std::unique_ptr<GuestHost> host_;
  std::unique_ptr<ControlApi> api_;
  std::unique_ptr<ControlServer> server_;
};

}  // namespace migrate::tool
