// A demo guest that arrives as another.
#include "tests/vmm/responder_fixture.hpp"

namespace migrate::vmm::test {
namespace {

/// It reads its address for each frame, so that two of one checkpoint can be on one network at
/// once.
TEST_F(Responder, ACopyAnswersByAnAddressOfItsOwn) {
  const auto from = make_responder();
  resume(*from);
  send_numbers(*here_, 0, 3);
  expect_answers(*here_, 0, 3);
  ArrivalConfig host = arrival();
  host.new_identity = true;
  Way way(from, host);
  Status done = prepare(way);
  ASSERT_TRUE(done) << done.error().to_text();
  there_->wait_until_it_takes_frames();
  ASSERT_TRUE(way.source->pause());
  done = carry_over(way);
  ASSERT_TRUE(done) << done.error().to_text();
  const auto to = way.to_hooks.vmm();
  ASSERT_TRUE(way.target->start(RunState::kRunning));
  ASSERT_TRUE(way.source->resume());
  EXPECT_NE(to->generation_id(), from->generation_id());

  const auto mac_of = [](const Vmm& vmm) {
    const auto& bytes = vmm.config().nets[0].mac->bytes;
    return Bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  ASSERT_NE(mac_of(*to), mac_of(*from));
  there_->set_guest_mac(mac_of(*to));
  // What is for the former address is another's now.
  there_->send(numbered(3));
  there_->send(arp());
  const auto answer = there_->receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->substr(12, 2), arp().substr(12, 2)) << "not the frame before";
  EXPECT_EQ(answer->substr(22, 6), mac_of(*to)) << "what it says its address is";
  Bytes frame = numbered(4);
  there_->send(frame.replace(0, 6, mac_of(*to)));
  EXPECT_EQ(number_of(there_->receive()), 4);
  send_numbers(*here_, 5, 8);
  expect_answers(*here_, 5, 8);
  const GuestStats stats =
      wait_for(*to, [](const GuestStats& now) { return now.verify_passes > 1; });
  EXPECT_EQ(stats.verify_errors, 0u);
}

}  // namespace
}  // namespace migrate::vmm::test
