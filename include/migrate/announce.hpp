// Network takeover: telling the network that a guest is at another host now.
//
// Switches send a guest's frames to the port where they last heard its MAC address, and neighbours
// to the MAC address they last heard for its IP address. Both are told the moment the guest has
// started here, or the network goes on sending to the other host until it hears from the guest
// itself. docs/network-takeover.md says what is reached by this and what is not.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/net_address.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// A guest that runs here now.
struct TakenOver {
  std::string session;
  std::string guest;      ///< Its name.
  SteadyTime started_at;  ///< When TargetGuest::start() had returned; paused guests arrive, too.
};

/// Hears that a guest runs here, as early as that may be told. Beside the announcer below it may be
/// a VMM's own: a call of a network controller, say.
class Takeover {
 public:
  virtual ~Takeover() = default;
  /// Called once, by Incoming::run()'s thread: after the guest has started and STARTED was handed
  /// to the link (Host::on_started() was before), and before anything else is done. Never for a
  /// session that ends otherwise. Must return at once: what takes time goes to a thread of its own.
  virtual void taken_over(const TakenOver& guest) noexcept = 0;
};

/// A card of a guest, and where its announcements go. At least one of `port` and `leave_by` is
/// given.
struct AnnouncedCard {
  /// The interface of this host that leads to the guest: its tap, or this end of a veth pair. Where
  /// it is a port of a Linux bridge, the bridge's forwarding table is set, too; frames sent on it
  /// would only reach the guest.
  std::string port;
  /// The interface on which frames leave; empty: the bridge that `port` belongs to.
  std::string leave_by;
  MacAddress mac;
  /// Without any only switches are told (RARP).
  std::vector<IpAddress> ips;
  std::optional<std::uint16_t> vlan;  ///< An 802.1Q tag on the frames that leave, 1 to 4094.
};

/// When announcements are sent, since the guest's start. The first is what shortens the downtime;
/// the others are for frames that get lost while switches and links settle, spread as in QEMU
/// (`announce-*` of its migration parameters), whose steps grow by 100 ms, too.
struct AnnounceSchedule {
  std::vector<std::chrono::milliseconds> at{
      std::chrono::milliseconds(0), std::chrono::milliseconds(50), std::chrono::milliseconds(200),
      std::chrono::milliseconds(450), std::chrono::milliseconds(800)};
};
/// "0ms,50ms,200ms"; a bare number is of milliseconds. Ascending, at most 32 times within a minute;
/// kInvalidArgument otherwise.
[[nodiscard]] Result<AnnounceSchedule> parse_announce_schedule(std::string_view text);
[[nodiscard]] std::string to_text(const AnnounceSchedule& schedule);

struct AnnounceReport {
  std::uint64_t frames_sent = 0;
  std::uint64_t frames_failed = 0;
  /// From the guest's start to the first frame in the kernel's hands; nullopt: none was sent.
  std::optional<double> first_ms;
  std::uint32_t fdb_entries = 0;  ///< In forwarding tables of this host's bridges: set, each once.
  std::vector<std::string> errors;  ///< In words, each once, at most a dozen.
  bool over = false;                ///< Nothing more will be sent.
};

/// Sends what announces a guest's cards. Interfaces are looked at, sockets opened and frames made
/// when it is made, before the guest has left its source; a thread of its own sends all but the
/// first frames. Its destructor ends that thread, at once.
class Announcer : public Takeover {
 public:
  /// So far. Any thread.
  [[nodiscard]] virtual AnnounceReport report() const = 0;
  /// Waits until the schedule is through, or stop() was called; at most until `deadline`. Any
  /// thread.
  virtual void wait(SteadyTime deadline) = 0;
  /// Sends nothing more. Any thread.
  virtual void stop() noexcept = 0;
};

/// kNotFound for an interface that is not there, kUnsupported for one that will not do, kPermission
/// without CAP_NET_RAW; each says what would. So only where no card can be announced: what one of
/// several lacks becomes part of AnnounceReport::errors. So does what may mend itself until the
/// guest starts, such as an interface that is down, which is tried.
[[nodiscard]] Result<std::unique_ptr<Announcer>> make_announcer(
    const std::vector<AnnouncedCard>& cards, AnnounceSchedule schedule = {});

}  // namespace migrate
