#include "session/source_session.hpp"

#include <algorithm>
#include <thread>

#include "session/host_identity.hpp"
#include "wire/negotiation.hpp"

namespace migrate::session {
namespace {

using SteadyClock = std::chrono::steady_clock;
using std::chrono::duration;
using std::chrono::milliseconds;

// Two threads saturate memory bandwidth against one socket each on small hosts; beyond four, 10 GbE
// gains nothing (QEMU's default is 2).
std::uint16_t lanes_wanted(const OutgoingOptions& options) {
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const unsigned wanted = options.lanes != 0 ? options.lanes : std::min(4u, cores);
  return static_cast<std::uint16_t>(std::min<unsigned>(wanted, wire::kBulkLanesMax));
}

bool wants_postcopy(const OutgoingOptions& options) {
  if (options.strategy == Strategy::kPostcopy || options.strategy == Strategy::kHybrid) return true;
  if (options.strategy == Strategy::kStopCopy) return false;
  const auto ladder = effective_ladder(options);
  return std::any_of(ladder.begin(), ladder.end(),
                     [](const StallStep& step) { return step.kind == StallStep::Kind::kPostcopy; });
}

wire::Hello make_hello(const wire::SessionId& id, const GuestDescription& guest,
                       const OutgoingOptions& options) {
  wire::Hello hello;
  // A guest that stands all along is sent in one piece: there are no rounds to go on with.
  const bool resume =
      reconnect_in_rounds(options).count() > 0 && options.strategy != Strategy::kStopCopy;
  if (!resume) hello.features &= ~wire::kFeatureResume;
  if (!options.downtime_hard) hello.features &= ~wire::kFeatureAttempts;
  if (!wants_postcopy(options)) hello.features &= ~wire::kFeaturePostcopy;
  if (options.forward.count() == 0) hello.features &= ~wire::kFeatureForward;
  if (options.compress.mode != CompressionChoice::Mode::kNone) {
    hello.encodings = wire::kEncodingsKnown;
    hello.codecs = wire::kCodecsKnown;
  }
  hello.session = id;
  hello.bulk_lanes = lanes_wanted(options);
  fill_random(hello.random.bytes);
  hello.boot = this_boot();
  hello.strategy = options.strategy;
  hello.verify = options.verify;
  hello.max_downtime_us = static_cast<std::uint64_t>(options.max_downtime.count());
  hello.host = host_name();
  hello.guest = guest;
  return hello;
}

bool is_refusal(const Error& error) {
  switch (error.code) {
    case ErrorCode::kIncompatible:
    case ErrorCode::kNoMemory:
    case ErrorCode::kNameTaken:
    case ErrorCode::kUnsupported:
    case ErrorCode::kVersionMismatch:
    case ErrorCode::kPermission:
    case ErrorCode::kBusy:
      return error.side == Side::kTarget;
    default:
      return false;
  }
}

Result<std::unique_ptr<RecordChannel>> join_lane(Connector& connector, std::uint16_t number,
                                                 wire::LaneRole role, const LaneKeys& keys,
                                                 const OutgoingOptions& options,
                                                 const std::function<void(Channel*)>& watch,
                                                 Channel& control) {
  MIGRATE_ASSIGN(auto channel, connector.connect(options.connect_timeout));
  auto lane = std::make_unique<RecordChannel>(std::move(channel), keys.hasher);
  lane->set_mid_record_idle(options.peer_timeout);
  watch(&lane->channel());
  const wire::Join join{keys.id, wire::LaneId{number}, role, keys.secret};
  Status joined = lane->send(join, options.hello_timeout);
  if (joined) {
    auto answer = lane->expect<wire::Joined>(options.hello_timeout);
    if (!answer) joined = std::move(answer).error();
  }
  watch(&control);
  MIGRATE_TRY(std::move(joined));
  return lane;
}

Result<double> measure_round_trip(RecordChannel& control, nanoseconds idle_max) {
  // The least of a few: delays add to a round trip, nothing takes away.
  constexpr std::uint64_t kPings = 4;
  double best_ms = 0;
  for (std::uint64_t nonce = 1; nonce <= kPings; ++nonce) {
    const auto begin = SteadyClock::now();
    MIGRATE_TRY(control.send(
        wire::Ping{nonce, static_cast<std::uint64_t>(begin.time_since_epoch().count())}, idle_max));
    MIGRATE_ASSIGN(const auto pong, control.expect<wire::Pong>(idle_max));
    if (pong.nonce != nonce) {
      return make_error(ErrorCode::kProtocol, "PONG answers another PING than was sent");
    }
    const double ms = duration<double, std::milli>(SteadyClock::now() - begin).count();
    best_ms = nonce == 1 ? ms : std::min(best_ms, ms);
  }
  return best_ms;
}

/// Ends the watch before what is watched goes, whichever way open_session() is left.
class Unwatch {
 public:
  explicit Unwatch(const std::function<void(Channel*)>& watch) : watch_(watch) {}
  ~Unwatch() { watch_(nullptr); }
  Unwatch(const Unwatch&) = delete;
  Unwatch& operator=(const Unwatch&) = delete;

 private:
  const std::function<void(Channel*)>& watch_;
};

}  // namespace

Result<std::vector<std::unique_ptr<RecordChannel>>> join_lanes(
    Connector& connector, const LaneKeys& keys, std::uint16_t count, const OutgoingOptions& options,
    const std::function<void(Channel*)>& watch, Channel& control) {
  std::vector<std::unique_ptr<RecordChannel>> lanes;
  for (std::uint16_t number = 1; number <= count; ++number) {
    MIGRATE_ASSIGN(auto lane, join_lane(connector, number, wire::LaneRole::kBulk, keys, options,
                                        watch, control));
    lanes.push_back(std::move(lane));
  }
  return lanes;
}

Result<std::unique_ptr<RecordChannel>> join_urgent_lane(Connector& connector, const LaneKeys& keys,
                                                        std::uint16_t bulk_lanes,
                                                        const OutgoingOptions& options,
                                                        const std::function<void(Channel*)>& watch,
                                                        Channel& control) {
  return join_lane(connector, static_cast<std::uint16_t>(bulk_lanes + 1), wire::LaneRole::kUrgent,
                   keys, options, watch, control);
}

Result<SourceSession> open_session(const wire::SessionId& id, Connector& connector,
                                   const GuestDescription& guest, const OutgoingOptions& options,
                                   const std::function<void(Channel*)>& watch, bool& refused) {
  SourceSession session;
  session.id = id;
  const Unwatch unwatch(watch);
  const wire::Hello hello = make_hello(id, guest, options);
  connector.set_session(to_text(id));
  MIGRATE_ASSIGN(auto channel, connector.connect(options.connect_timeout));
  session.control = std::make_unique<RecordChannel>(std::move(channel));
  session.control->set_mid_record_idle(options.peer_timeout);
  watch(&session.control->channel());
  MIGRATE_TRY(session.control->send(hello, options.hello_timeout));
  auto welcome = session.control->expect<wire::Welcome>(options.hello_timeout);
  if (!welcome) {
    Error error = std::move(welcome).error();
    refused = is_refusal(error);
    if (error.code == ErrorCode::kTimeout) {
      error.message = "the target at " + connector.peer() + " did not answer HELLO";
      error.advise("check that it is a `migrate recv` and not busy, or raise --hello-timeout");
    }
    return error;
  }
  session.welcome = *std::move(welcome);
  MIGRATE_TRY(wire::check_welcome(hello, session.welcome));
  session.hasher = wire::Hasher(hello.random, session.welcome.random);
  session.control->set_hasher(session.hasher);
  MIGRATE_ASSIGN(session.lanes, join_lanes(connector, {id, session.welcome.secret, session.hasher},
                                           session.welcome.bulk_lanes, options, watch,
                                           session.control->channel()));
  if ((session.welcome.features & wire::kFeatureResume) != 0) {
    const wire::ResumeTerms terms{static_cast<std::uint32_t>(reconnect_in_rounds(options).count())};
    MIGRATE_TRY(session.control->send(terms, options.hello_timeout));
  }
  MIGRATE_ASSIGN(session.round_trip_ms,
                 measure_round_trip(*session.control, options.hello_timeout));
  return session;
}

}  // namespace migrate::session
