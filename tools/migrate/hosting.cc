#include "hosting.hpp"

#include "base/log.hpp"

namespace migrate::tool {
namespace {

// Followers are on this host: whoever has not taken the report by then hangs.
constexpr std::chrono::milliseconds kFarewellMax{5'000};

}  // namespace

Result<std::unique_ptr<Hosting>> Hosting::create(HostedGuest& guest, NameLock name,
                                                 const RuntimeDir& folder, bool arriving) {
  const std::filesystem::path socket = folder.socket_path(name.name());
  std::unique_ptr<Hosting> hosting(new Hosting(std::move(name)));
  MIGRATE_ASSIGN(hosting->host_, GuestHost::create(guest, hosting->hub_, arriving));
  hosting->api_ = std::make_unique<ControlApi>(*hosting->host_);
  hosting->server_ = std::make_unique<ControlServer>(socket, *hosting->api_, hosting->hub_);
  return hosting;
}

Status Hosting::open() { return server_->open(); }

HostEnd Hosting::serve(const SignalFd& signals) {
  HostEnd end = host_->serve(signals);
  close();
  return end;
}

void Hosting::serve_migration(const SignalFd& signals) {
  host_->serve_migration(signals);
  close();
}

void Hosting::close() {
  if (!server_->drain(kFarewellMax)) {
    log_line(LogLevel::kWarning, "a follower of the control socket did not take its report");
  }
  server_->close();
  name_.release();
}

}  // namespace migrate::tool
