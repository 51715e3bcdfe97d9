// Names and secrets that travel: what a session, a lane and a region are called on the wire.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "migrate/result.hpp"

namespace migrate::wire {

/// Public name of one migration; random, chosen by the source. Stands in reports and journals.
struct SessionId {
  std::array<std::byte, 16> bytes{};
  friend auto operator<=>(const SessionId&, const SessionId&) = default;
};
/// 32 lower-case hexadecimal digits, and back.
[[nodiscard]] std::string to_text(const SessionId& session);
[[nodiscard]] Result<SessionId> parse_session_id(std::string_view text);

/// The kernel's boot id: tells a reboot from a lost journal.
struct BootId {
  std::array<std::byte, 16> bytes{};
  friend auto operator<=>(const BootId&, const BootId&) = default;
};

/// One side's half of the session's hash secret.
struct SessionRandom {
  std::array<std::byte, 96> bytes{};
  friend bool operator==(const SessionRandom&, const SessionRandom&) = default;
};

/// Proves, in JOIN and ASK, that the peer is the one that got WELCOME. Never logged.
struct JoinSecret {
  std::array<std::byte, 32> bytes{};
};
/// Compares in constant time.
[[nodiscard]] bool equal(const JoinSecret& a, const JoinSecret& b) noexcept;

/// 0 is the control lane, 1..N the bulk lanes, N+1 the urgent lane where there is one.
struct LaneId {
  std::uint16_t number = 0;
  friend auto operator<=>(const LaneId&, const LaneId&) = default;
};

/// A region for the length of a session: ascending, never used again after the region has gone.
struct RegionHandle {
  std::uint32_t number = 0;
  friend auto operator<=>(const RegionHandle&, const RegionHandle&) = default;
};

}  // namespace migrate::wire
