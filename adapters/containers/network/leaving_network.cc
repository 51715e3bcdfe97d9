#include "adapters/containers/network/leaving_network.hpp"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "adapters/containers/network/network_space.hpp"
#include "base/guarded.hpp"
#include "base/log.hpp"

namespace migrate::containers {
namespace {

using Clock = std::chrono::steady_clock;

/// A handshake takes a round trip more, and what is closing one, too: what is not through by then
/// is slow or gone, and who opens a connection just now waits as long.
constexpr std::chrono::milliseconds kSettleMax{60};
/// A connection that nobody has accepted CRIU does not copy, and the attempt fails: the tree is
/// given longer.
constexpr std::chrono::milliseconds kAcceptMax{500};
/// A look takes about 20 us.
constexpr std::chrono::microseconds kLookEach{500};

}  // namespace

Result<std::unique_ptr<LeavingNetwork>> LeavingNetwork::open(int space, const std::string& link) {
  MIGRATE_ASSIGN(LinkPeer peer, find_link_peer(link, space));
  MIGRATE_ASSIGN(auto held, HeldFrames::open(space, peer.index, LinkGate::Ways::kBoth));
  MIGRATE_ASSIGN(const Fd here, open_network({}));
  MIGRATE_ASSIGN(PortDelivery port, PortDelivery::open(here.get(), peer.port));
  MIGRATE_ASSIGN(SocketCensus census, SocketCensus::open(space));
  return std::unique_ptr<LeavingNetwork>(
      new LeavingNetwork(std::move(peer), std::move(held), std::move(port), std::move(census)));
}

LeavingNetwork::~LeavingNetwork() {
  if (!closed_) go_on();
}

Status LeavingNetwork::settle() {
  MIGRATE_TRY(held_->set(Gate::kNoHandshakes));
  const auto begun = Clock::now();
  for (;;) {
    const auto under_way = census_.under_way();
    if (!under_way || under_way->none()) break;
    const auto since = Clock::now() - begun;
    if (since >= (under_way->waiting > 0 ? kAcceptMax : kSettleMax)) break;
    std::this_thread::sleep_for(kLookEach);
  }
  return {};
}

Status LeavingNetwork::hold() { return held_->set(Gate::kClosed); }

void LeavingNetwork::go_on() noexcept {
  const Status delivered = guarded([&]() -> Status {
    if (!held_->holds()) return {};
    MIGRATE_TRY(held_->set(Gate::kOpen));
    for (const GuestFrame& frame : given_back_) (void)port_.send(frame.bytes);
    held_->pass_on(port_);
    say_dropped();
    return {};
  });
  given_back_.clear();
  if (!delivered) log_line(LogLevel::kError, delivered.error().to_text());
}

void LeavingNetwork::end() noexcept {
  const Status ended = guarded([&]() -> Status {
    say_dropped();
    MIGRATE_TRY(held_->set(Gate::kOpen));
    held_->discard();
    return {};
  });
  given_back_.clear();
  if (!ended) log_line(LogLevel::kWarning, ended.error().to_text());
}

bool LeavingNetwork::covers_all() const {
  if (!peer_.only) return false;
  const auto inner = census_.has_inner_connection();
  return inner && !*inner;
}

void LeavingNetwork::say_dropped() {
  const std::uint64_t dropped = held_->dropped();
  if (dropped == std::exchange(told_dropped_, dropped)) return;
  log_line(LogLevel::kWarning, std::to_string(dropped) +
                                   " packets that came for the tree while it stood were dropped: "
                                   "their senders will repeat them");
}

Result<std::vector<GuestFrame>> LeavingNetwork::take_waiting(std::size_t frames_max,
                                                             std::size_t bytes_max) {
  std::vector<GuestFrame> frames;
  for (std::size_t bytes = 0; frames.size() < frames_max && bytes < bytes_max;) {
    auto frame = held_->take();
    if (!frame) break;
    bytes += frame->bytes.size();
    // What came to all the target's own link did not let in either.
    frames.push_back({0, std::move(frame->bytes), frame->ours});
  }
  return frames;
}

void LeavingNetwork::give_back(std::vector<GuestFrame> frames) {
  given_back_.insert(given_back_.end(), std::make_move_iterator(frames.begin()),
                     std::make_move_iterator(frames.end()));
}

}  // namespace migrate::containers
