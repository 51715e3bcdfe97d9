// Opening a session from the source: HELLO, WELCOME, the lanes, the round trip.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "migrate/channel.hpp"
#include "migrate/guest.hpp"
#include "migrate/options.hpp"
#include "transport/record_channel.hpp"
#include "wire/messages.hpp"

namespace migrate::session {

/// What both sides agreed on, and the source's channels.
struct SourceSession {
  wire::SessionId id;
  wire::Welcome welcome;
  wire::Hasher hasher;
  std::unique_ptr<RecordChannel> control;
  std::vector<std::unique_ptr<RecordChannel>> lanes;
  double round_trip_ms = 0;
};

/// What a connection needs to prove that it is the session's.
struct LaneKeys {
  wire::SessionId id;
  wire::JoinSecret secret;
  wire::Hasher hasher;
};

/// Connects and joins the lanes 1 to `count`. `control` is watched again afterwards.
Result<std::vector<std::unique_ptr<RecordChannel>>> join_lanes(
    Connector& connector, const LaneKeys& keys, std::uint16_t count, const OutgoingOptions& options,
    const std::function<void(Channel*)>& watch, Channel& control);

/// The urgent lane, which has the number after theirs.
Result<std::unique_ptr<RecordChannel>> join_urgent_lane(Connector& connector, const LaneKeys& keys,
                                                        std::uint16_t bulk_lanes,
                                                        const OutgoingOptions& options,
                                                        const std::function<void(Channel*)>& watch,
                                                        Channel& control);

/// `watch` is told of each channel before it is used (nullptr when it is no longer), so that
/// another thread can interrupt it. `id` is the session's. `refused` is set when the target said
/// no to the guest before anything moved.
Result<SourceSession> open_session(const wire::SessionId& id, Connector& connector,
                                   const GuestDescription& guest, const OutgoingOptions& options,
                                   const std::function<void(Channel*)>& watch, bool& refused);

}  // namespace migrate::session
