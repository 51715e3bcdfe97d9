#include "bench/downtime_floor.hpp"

#include <array>
#include <cstring>
#include <thread>

#include "migrate/channel.hpp"
#include "session/state_stream.hpp"

namespace migrate::bench {
namespace {

using std::chrono::duration;
using SteadyClock = std::chrono::steady_clock;

constexpr std::chrono::seconds kIdleMax{30};
constexpr std::uint64_t kStateBytesMax = 64ull << 20;
// OFFER, READY, COMMIT and STARTED have 28 to 80 bytes.
constexpr std::size_t kMessageBytes = 64;
// Between two round trips both threads sleep, as they do when a handover comes.
constexpr std::chrono::microseconds kBetweenTrips{500};
// Before the source sends on: nothing that went before is still under way.
constexpr std::chrono::milliseconds kRest{2};
constexpr unsigned kWarmUpTrips = 8;

using Message = std::array<std::byte, kMessageBytes>;

double ms_between(SteadyTime begin, SteadyTime end) {
  return duration<double, std::milli>(end - begin).count();
}

/// Takes the sections a source writes, for a target to read.
class StateKeeper final : public StateWriter {
 public:
  explicit StateKeeper(session::StateBuffer& state) : state_(state) {}
  Status begin(const SectionInfo& section) override {
    bytes_ = 0;
    return state_.take(wire::SectionBegin{section});
  }
  Status append(std::span<const std::byte> bytes) override {
    bytes_ += bytes.size();
    return state_.take_data(bytes);
  }
  Status end() override { return state_.take(wire::SectionEnd{bytes_}); }
  Status memory_final() override { return {}; }

 private:
  session::StateBuffer& state_;
  std::uint64_t bytes_ = 0;
};

void copy_memory(const vmm::Vmm& from, const vmm::Vmm& to) {
  const auto& sources = from.kvm_vm().slots;
  const auto& targets = to.kvm_vm().slots;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    std::memcpy(targets[i].host, sources[i].host, sources[i].bytes);
  }
}

void receive_message(Channel& channel, Message& message) {
  std::size_t got = 0;
  while (got < message.size()) {
    const iovec part = {message.data() + got, message.size() - got};
    const std::size_t count = must(channel.receive({&part, 1}, kIdleMax));
    if (count == 0) give_up("a connection to this very process was closed");
    got += count;
  }
}

void send_message(Channel& channel, Message& message) {
  const iovec part = {message.data(), message.size()};
  must(channel.send({&part, 1}, kIdleMax));
}

struct Connection {
  std::unique_ptr<Channel> near;
  std::unique_ptr<Channel> far;
};

Connection connect_over_loopback() {
  const auto acceptor = must(make_tcp_acceptor("127.0.0.1", "0"));
  const std::string address = acceptor->address();
  const auto connector = make_tcp_connector("127.0.0.1", address.substr(address.rfind(':') + 1));
  auto near = must(connector->connect(kIdleMax));
  auto far = must(acceptor->accept(kIdleMax));
  return {std::move(near), std::move(far)};
}

/// On a thread of its own, as in a migration, which sleeps until it is told to go on. What wakes it
/// is a message, so that the scheduler puts it and the vCPUs it starts where it does then.
void act_as_target(Channel& source, const GuestDescription& description, TargetGuest& target,
                   StateReader& state, FloorPieces& pieces) {
  Message message{};
  must(target.prepare(description));
  send_message(source, message);
  receive_message(source, message);
  const auto load_begin = SteadyClock::now();
  must(target.load_state(state));
  pieces.load.add(ms_between(load_begin, SteadyClock::now()));
  send_message(source, message);
  receive_message(source, message);
  const auto start_begin = SteadyClock::now();
  must(target.start(RunState::kRunning));
  pieces.start.add(ms_between(start_begin, SteadyClock::now()));
  send_message(source, message);
}

}  // namespace

double FloorPieces::sum_ms() const {
  return kick.median() + pause.median() + save.median() + load.median() + start.median() +
         kRoundTrips * round_trip.median();
}

void measure_pieces(const LoopbackSetup& setup, FloorPieces& pieces) {
  const std::shared_ptr<vmm::Vmm> from = make_guest(setup);
  vmm::VmmSourceHooks from_hooks(from);
  vmm::VmmTargetHooks to_hooks;
  const auto source = must(make_kvm_source(from->kvm_vm(), from_hooks));
  const auto target = make_kvm_target(from->kvm_vm().kvm_fd, to_hooks);
  const GuestDescription description = must(source->describe());
  session::StateBuffer state(kStateBytesMax);
  StateKeeper keeper(state);

  const Connection connection = connect_over_loopback();
  std::jthread far([&] { act_as_target(*connection.far, description, *target, state, pieces); });
  Message message{};
  receive_message(*connection.near, message);  // Prepared.
  const auto begin = SteadyClock::now();
  const PauseResult paused = must(source->pause());
  const auto stopped = SteadyClock::now();
  must(source->save_state(keeper));
  const auto saved = SteadyClock::now();
  copy_memory(*from, *to_hooks.vmm());
  std::this_thread::sleep_for(kRest);
  for (int step = 0; step < 2; ++step) {  // Load, then start.
    send_message(*connection.near, message);
    receive_message(*connection.near, message);
  }
  far.join();

  must(source->release());
  pieces.kick.add(ms_between(begin, paused.stopped_at));
  pieces.pause.add(ms_between(paused.stopped_at, stopped));
  pieces.save.add(ms_between(stopped, saved));
  const std::shared_ptr<vmm::Vmm> to = to_hooks.vmm();
  if (to->state() != vmm::VmmState::kRunning) give_up("the guest did not run on");
  to->stop();
}

void measure_round_trips(unsigned count, FloorPieces& pieces) {
  const auto [near, far] = connect_over_loopback();
  std::jthread answering([&far = *far, count] {
    Message message{};
    for (unsigned i = 0; i < count + kWarmUpTrips; ++i) {
      receive_message(far, message);
      send_message(far, message);
    }
  });
  Message message{};
  for (unsigned i = 0; i < count + kWarmUpTrips; ++i) {
    std::this_thread::sleep_for(kBetweenTrips);
    const auto begin = SteadyClock::now();
    send_message(*near, message);
    receive_message(*near, message);
    if (i >= kWarmUpTrips) pieces.round_trip.add(ms_between(begin, SteadyClock::now()));
  }
}

}  // namespace migrate::bench
