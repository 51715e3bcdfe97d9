// Outlet: where the announcements of one card leave this host, with all that can be made
// beforehand.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "migrate/announce.hpp"
#include "net-takeover/frames.hpp"
#include "net-takeover/packet_socket.hpp"

namespace migrate::takeover {

struct Outlet {
  AnnouncedCard card;
  PacketSocket socket;
  std::vector<Frame> frames;
  int fdb_port = 0;  ///< The guest's port on a bridge of this host; 0: there is none.
  std::vector<std::string> doubts;  ///< What is wrong now and may be right when the guest starts.
};

/// By the names that interfaces have now: one that was made anew is another one.
[[nodiscard]] Result<Outlet> open_outlet(const AnnouncedCard& card);

}  // namespace migrate::takeover
