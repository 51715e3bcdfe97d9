// A real guest answers on a real tap: frames of every kind, frames that are broken, and frames that
// come while nobody runs.
#include <gmock/gmock.h>

#include <cstring>
#include <optional>
#include <vector>

#include "adapters/kvm/vmm/demo_guest/card_memory.hpp"
#include "adapters/kvm/vmm/migration_hooks.hpp"
#include "tests/vmm/section_tape.hpp"
#include "tests/vmm/tap_neighbour.hpp"
#include "tests/vmm/vmm_fixture.hpp"

namespace migrate::vmm::test {
namespace {

using ::testing::HasSubstr;

constexpr int kFrames = 300;

Bytes numbered(int number) { return udp4("frame " + std::to_string(number)); }

/// The number of an answer to numbered(); -1 for anything else.
int number_of(const std::optional<Bytes>& frame) {
  constexpr std::size_t kPayload = 14 + 20 + 8;
  const std::string_view mark = "frame ";
  if (!frame || frame->size() <= kPayload || frame->compare(kPayload, mark.size(), mark) != 0) {
    return -1;
  }
  return std::stoi(frame->substr(kPayload + mark.size()));
}

bool has_number(const CardFrame& frame) {
  const auto* const text = reinterpret_cast<const char*>(frame.frame.data());
  return number_of(Bytes(text, frame.frame.size())) >= 0;
}

class Responder : public VmmTest {
 protected:
  void SetUp() override {
    VmmTest::SetUp();
    if (IsSkipped()) return;
    if (!network_.there()) GTEST_SKIP() << "no network namespaces here";
    here_.emplace("tap-here");
    there_.emplace("tap-there");
  }

  static NetConfig card(const TapNeighbour& tap) {
    NetConfig net;
    net.tap = tap.name();
    net.mac = parse_mac("52:54:00:12:34:56").value();
    net.addresses = {parse_ip(kGuestIp).value(), parse_ip(kGuestIp6).value()};
    return net;
  }
  std::shared_ptr<Vmm> make_responder(const std::string& workload = "responder") const {
    VmmConfig config;
    config.name = "test";
    config.memory_bytes = 16 << 20;
    config.vcpus = 2;
    config.workload = parse_workload(workload).value();
    config.nets = {card(*here_)};
    auto vmm = Vmm::create(config);
    if (!vmm) throw std::runtime_error(vmm.error().to_text());
    here_->wait_until_it_takes_frames();
    return *std::move(vmm);
  }
  ArrivalConfig arrival() const {
    ArrivalConfig host;
    NetConfig net;
    net.tap = there_->name();
    host.nets = {net};
    return host;
  }

  /// Answers numbers `first` to `last` - 1 come, in this order and each once, and nothing else.
  static void expect_answers(const TapNeighbour& tap, int first, int last) {
    for (int number = first; number < last; ++number) {
      ASSERT_EQ(number_of(tap.receive()), number);
    }
  }
  /// Nothing more is on its way: a later frame's answer is the next.
  static void expect_next_is_new(const TapNeighbour& tap) {
    tap.send(numbered(777'777));
    EXPECT_EQ(number_of(tap.receive()), 777'777);
    EXPECT_TRUE(tap.silent());
  }
  static void send_numbers(const TapNeighbour& tap, int first, int last) {
    for (int number = first; number < last; ++number) tap.send(numbered(number));
  }

  /// A source and a target between which a guest goes, without an engine.
  struct Way {
    Way(const std::shared_ptr<Vmm>& guest, ArrivalConfig host)
        : from_hooks(guest), to_hooks(std::move(host)), from(guest) {}
    VmmSourceHooks from_hooks;
    VmmTargetHooks to_hooks;
    std::shared_ptr<Vmm> from;
    std::unique_ptr<SourceGuest> source;
    std::unique_ptr<TargetGuest> target;
  };
  static Status prepare(Way& way) {
    MIGRATE_ASSIGN(way.source,
                   make_kvm_source(way.from->kvm_vm(), way.from_hooks, source_options(*way.from)));
    MIGRATE_ASSIGN(const GuestDescription description, way.source->describe());
    way.target = make_kvm_target(way.from->kvm_vm().kvm_fd, way.to_hooks);
    if (auto prepared = way.target->prepare(description); !prepared) return prepared.error();
    return {};
  }
  static Status carry_over(Way& way) {
    Sections state;
    Recorder recorder(state);
    if (auto saved = way.source->save_state(recorder); !saved) return saved.error();
    const auto& sources = way.from->kvm_vm().slots;
    const auto& targets = way.to_hooks.vmm()->kvm_vm().slots;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      std::memcpy(targets[i].host, sources[i].host, sources[i].bytes);
    }
    Player player(state);
    if (auto loaded = way.target->load_state(player); !loaded) return loaded.error();
    return way.target->acquire();
  }

  OwnNetwork network_;
  std::optional<TapNeighbour> here_;
  std::optional<TapNeighbour> there_;
};

TEST_F(Responder, AnswersEachKindAndCountsIt) {
  const auto vmm = make_responder("responder+writer:rate=20M,set=1M");
  resume(*vmm);
  const Bytes rest = Bytes("\0\1\0\2", 4) + "echo";
  const Bytes requests[] = {arp(),          icmp(8, rest),    udp4("four"),          udp6("six"),
                            solicitation(), icmp6(128, rest), udp4(Bytes(1472, 'l'))};
  for (const Bytes& request : requests) {
    here_->send(request);
    const auto answer = here_->receive();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->substr(0, 6), kPeerMac);
    EXPECT_EQ(answer->substr(12, 2), request.substr(12, 2));
  }
  const GuestStats stats = wait_for(*vmm, [](const GuestStats& now) {
    return now.packets.answered() == 7 && now.verify_passes > 0;
  });
  EXPECT_EQ(stats.packets.arp, 1u);
  EXPECT_EQ(stats.packets.icmp, 1u);
  EXPECT_EQ(stats.packets.udp, 3u);
  EXPECT_EQ(stats.packets.ndp, 1u);
  EXPECT_EQ(stats.packets.icmpv6, 1u);
  EXPECT_EQ(stats.verify_errors, 0u);
  EXPECT_EQ(stats.vcpus[0].workload, "responder");
  EXPECT_GE(stats.vcpus[0].work, 7u);
}

TEST_F(Responder, GoesOnAfterBrokenFrames) {
  const auto vmm = make_responder();
  resume(*vmm);
  int number = 0;
  std::uint64_t broken = 0;
  for (const auto& [name, bytes] : broken_frames()) {
    // The kernel sends no frame without a payload, and one of a whole header.
    here_->send(bytes);
    ++broken;
    here_->send(numbered(++number));
    ASSERT_EQ(number_of(here_->receive()), number) << name;
  }
  for (const auto& [name, bytes] : ignored_frames()) {
    here_->send(bytes);
    here_->send(numbered(++number));
    ASSERT_EQ(number_of(here_->receive()), number) << name;
  }
  const GuestStats stats =
      wait_for(*vmm, [](const GuestStats& now) { return now.verify_passes > 1; });
  EXPECT_EQ(stats.packets.malformed, broken);
  EXPECT_GE(stats.packets.ignored, ignored_frames().size());
  EXPECT_EQ(stats.packets.answered(), static_cast<std::uint64_t>(number));
  EXPECT_EQ(stats.verify_errors, 0u);
}

// What lies in memory that nobody may write to is looked at all the time.
TEST_F(Responder, DamageToItsRingsAndBuffersIsFound) {
  const auto vmm = make_responder();
  resume(*vmm);
  here_->send(numbered(1));
  ASSERT_EQ(number_of(here_->receive()), 1);
  auto& memory = *reinterpret_cast<demo::CardMemory*>(
      reinterpret_cast<std::byte*>(words_of(*vmm, 0)) + plan_of(*vmm).cards[0].memory);
  const auto found_after = [&](auto& place) {
    const std::uint64_t before = stats_of(*vmm).verify_errors;
    const auto was = place;
    place = static_cast<std::remove_reference_t<decltype(place)>>(~was);
    const GuestStats stats =
        wait_for(*vmm, [&](const GuestStats& now) { return now.verify_errors > before; });
    pause(*vmm);
    place = was;
    resume(*vmm);
    EXPECT_EQ(stats.first_error->kind, "card");
  };
  found_after(memory.send_buffers[0].bytes[50]);
  found_after(memory.receive_buffers[63].guard[0]);
  found_after(memory.send_buffers[40].guard[7]);
  found_after(memory.send.descriptors[0].address);
  found_after(memory.sent[0].hash);
  here_->send(numbered(2));
  EXPECT_EQ(number_of(here_->receive()), 2);
}

TEST_F(Responder, WhatComesDuringAPauseIsAnsweredAfterItInOrderAndOnce) {
  const auto vmm = make_responder();
  resume(*vmm);
  send_numbers(*here_, 0, 1);
  expect_answers(*here_, 0, 1);
  pause(*vmm);
  send_numbers(*here_, 1, kFrames);
  EXPECT_TRUE(here_->silent());
  EXPECT_EQ(stats_of(*vmm).packets.answered(), 1u);
  resume(*vmm);
  expect_answers(*here_, 1, kFrames);
  expect_next_is_new(*here_);
}

TEST_F(Responder, MovesWithItsCountersAndWhatCameToTheTargetBeforeTheStart) {
  const auto from = make_responder();
  resume(*from);
  send_numbers(*here_, 0, 10);
  expect_answers(*here_, 0, 10);
  Way way(from, arrival());
  EXPECT_FALSE(there_->has_carrier());
  Status done = prepare(way);
  ASSERT_TRUE(done) << done.error().to_text();
  // Before anybody is paused: a bridge that sees the carrier late would lose frames.
  EXPECT_TRUE(there_->has_carrier());
  there_->wait_until_it_takes_frames();
  ASSERT_TRUE(way.source->pause());
  way.target->packet_sink()->source_stands();
  send_numbers(*there_, 10, 20);
  done = carry_over(way);
  ASSERT_TRUE(done) << done.error().to_text();
  send_numbers(*there_, 20, kFrames);
  const auto to = way.to_hooks.vmm();
  EXPECT_EQ(stats_of(*to).packets.udp, 10u);
  EXPECT_TRUE(there_->silent());
  ASSERT_TRUE(way.target->start(RunState::kRunning));
  ASSERT_TRUE(way.source->release());
  expect_answers(*there_, 10, kFrames);
  expect_next_is_new(*there_);
  const GuestStats stats =
      wait_for(*to, [](const GuestStats& now) { return now.verify_passes > 1; });
  EXPECT_EQ(stats.packets.udp, static_cast<std::uint64_t>(kFrames) + 1);
  EXPECT_EQ(stats.packets.malformed, 0u);
  EXPECT_EQ(stats.verify_errors, 0u);
  // The port it has left is dead, and nobody answers there.
  EXPECT_FALSE(here_->has_carrier());
  EXPECT_TRUE(here_->silent());
  EXPECT_EQ(from->take_waiting_frames(1, 1).error().code, ErrorCode::kGuest);
}

// Broadcasts come to the target's tap for as long as the guest runs at the source.
TEST_F(Responder, WhatFilledTheTargetsQueueLeavesRoomForWhatComesInTheBlackout) {
  constexpr int kMoreThanAQueue = 1500;
  const auto from = make_responder();
  resume(*from);
  Way way(from, arrival());
  Status done = prepare(way);
  ASSERT_TRUE(done) << done.error().to_text();
  there_->wait_until_it_takes_frames();
  for (int i = 0; i < kMoreThanAQueue; ++i) there_->send(numbered(500'000));
  ASSERT_TRUE(way.source->pause());
  way.target->packet_sink()->source_stands();
  // Also what comes before the state is loaded is the guest's.
  send_numbers(*there_, 0, kFrames / 2);
  done = carry_over(way);
  ASSERT_TRUE(done) << done.error().to_text();
  send_numbers(*there_, kFrames / 2, kFrames);
  ASSERT_TRUE(way.target->start(RunState::kRunning));
  ASSERT_TRUE(way.source->release());
  expect_answers(*there_, 0, kFrames);
  expect_next_is_new(*there_);
}

TEST_F(Responder, AFailedMoveLosesNothingThatCameMeanwhile) {
  const auto from = make_responder();
  resume(*from);
  Way way(from, arrival());
  Status done = prepare(way);
  ASSERT_TRUE(done) << done.error().to_text();
  ASSERT_TRUE(way.source->pause());
  send_numbers(*here_, 0, kFrames);
  done = carry_over(way);
  ASSERT_TRUE(done) << done.error().to_text();
  way.target->discard();
  EXPECT_FALSE(there_->has_carrier());
  ASSERT_TRUE(way.source->resume());
  expect_answers(*here_, 0, kFrames);
  expect_next_is_new(*here_);
}

TEST_F(Responder, WaitingFramesGoToTheTargetBeforeThoseOfItsTap) {
  const auto from = make_responder();
  resume(*from);
  EXPECT_EQ(from->take_waiting_frames(10, 1 << 20).error().code, ErrorCode::kBusy);
  Way way(from, arrival());
  Status done = prepare(way);
  ASSERT_TRUE(done) << done.error().to_text();
  there_->wait_until_it_takes_frames();
  ASSERT_TRUE(way.source->pause());
  way.target->packet_sink()->source_stands();
  send_numbers(*here_, 0, kFrames);
  send_numbers(*there_, kFrames, kFrames + 10);
  const auto to = way.to_hooks.vmm();
  int taken = 0;
  // Some before the state goes over, and some after: they wait until the start.
  const auto forward = [&](std::size_t frames_max, std::size_t bytes_max) {
    const auto frames = from->take_waiting_frames(frames_max, bytes_max);
    if (!frames) throw std::runtime_error(frames.error().to_text());
    EXPECT_LE(frames->size(), frames_max);
    for (const CardFrame& frame : *frames) {
      EXPECT_EQ(frame.card, 0u);
      EXPECT_TRUE(to->deliver_frame(frame.card, frame.frame));
      // The kernel may have sent some of its own.
      if (has_number(frame)) ++taken;
    }
    return frames->size();
  };
  EXPECT_EQ(forward(7, 1 << 20), 7u);
  EXPECT_EQ(forward(100, 1), 1u) << "no more once there are so many bytes";
  done = carry_over(way);
  ASSERT_TRUE(done) << done.error().to_text();
  while (forward(50, 1 << 20) != 0) {
  }
  EXPECT_EQ(taken, kFrames);
  EXPECT_FALSE(to->deliver_frame(1, std::vector<std::byte>(60))) << "there is one card";
  ASSERT_TRUE(way.target->start(RunState::kRunning));
  ASSERT_TRUE(way.source->release());
  expect_answers(*there_, 0, kFrames + 10);
  // Of a guest that runs, at once.
  const Bytes late = numbered(4242);
  EXPECT_TRUE(to->deliver_frame(0, std::as_bytes(std::span(late))));
  EXPECT_EQ(number_of(there_->receive()), 4242);
  expect_next_is_new(*there_);
}

TEST_F(Responder, WhatWasTakenAndGivenBackIsAnsweredHere) {
  const auto vmm = make_responder();
  resume(*vmm);
  pause(*vmm);
  send_numbers(*here_, 0, 20);
  const auto frames = vmm->take_waiting_frames(1000, 1 << 20);
  ASSERT_TRUE(frames);
  EXPECT_GE(frames->size(), 20u);
  send_numbers(*here_, 20, 30);
  for (const CardFrame& frame : *frames) EXPECT_TRUE(vmm->deliver_frame(0, frame.frame));
  // Taken once more, they are the first again.
  const auto again = vmm->take_waiting_frames(frames->size(), 1 << 20);
  ASSERT_TRUE(again);
  ASSERT_EQ(again->size(), frames->size());
  for (std::size_t i = 0; i < again->size(); ++i) {
    EXPECT_EQ((*again)[i].frame, (*frames)[i].frame);
  }
  resume(*vmm);
  expect_answers(*here_, 20, 30);
  expect_next_is_new(*here_);
}

TEST_F(Responder, TooManyDeliveredFramesAreDropped) {
  const auto vmm = make_responder();
  const Bytes frame = numbered(1);
  int delivered = 0;
  while (delivered < 100'000 && vmm->deliver_frame(0, std::as_bytes(std::span(frame)))) ++delivered;
  EXPECT_EQ(delivered, 1024);
  resume(*vmm);
  for (int i = 0; i < delivered; ++i) ASSERT_EQ(number_of(here_->receive()), 1);
  expect_next_is_new(*here_);
}

TEST_F(Responder, ATargetWithOtherCardsRefusesTheGuest) {
  const auto from = make_responder();
  const auto refused = [&](const ArrivalConfig& host, const char* says, const char* advises) {
    Way way(from, host);
    const Status prepared = prepare(way);
    ASSERT_FALSE(prepared) << says;
    EXPECT_EQ(prepared.error().code, ErrorCode::kIncompatible);
    EXPECT_THAT(prepared.error().message, HasSubstr(says));
    EXPECT_THAT(prepared.error().remedy, HasSubstr(advises));
  };
  ArrivalConfig host;
  refused(host, "1 network card", "--net tap=NAME");
  host = arrival();
  host.nets.push_back(host.nets[0]);
  refused(host, "2 are given here", "--net tap=NAME");
  host = arrival();
  host.nets[0].mac = parse_mac("52:54:00:00:00:01").value();
  refused(host, "52:54:00:12:34:56", "leave out mac=");
  host = arrival();
  host.nets[0].addresses = {parse_ip("192.0.2.9").value()};
  refused(host, "does not answer to 192.0.2.9", "leave out ip=");
  host = arrival();
  host.disks.resize(1);
  refused(host, "no disks", "leave out --disk");
  // And one without a card is refused where one is given.
  const std::shared_ptr<Vmm> plain = make("idle");
  Way way(plain, arrival());
  const Status prepared = prepare(way);
  ASSERT_FALSE(prepared);
  EXPECT_THAT(prepared.error().message, HasSubstr("0 network cards, and 1 is given"));
}

}  // namespace
}  // namespace migrate::vmm::test
