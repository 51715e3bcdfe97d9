// A real guest answers on a real tap: frames of every kind, frames that are broken, and frames that
// come while nobody runs.
#include <gmock/gmock.h>

#include "adapters/kvm/vmm/demo_guest/card_memory.hpp"
#include "tests/vmm/responder_fixture.hpp"

namespace migrate::vmm::test {
namespace {

using ::testing::HasSubstr;

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
