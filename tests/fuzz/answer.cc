// A frame that comes to the demo guest's responder, which is code of ours that reads what anybody
// on the network sends: no byte beyond the frame is read, and none beyond the answer's room is
// written. What is answered is a frame to whoever asked, or to all nodes.
#include "adapters/kvm/vmm/demo_guest/answer.hpp"

#include <cstdlib>
#include <cstring>
#include <memory>

#include "adapters/kvm/vmm/demo_guest/card_memory.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace migrate::vmm::demo {
namespace {

/// As in tests/vmm/frames.hpp, which the corpus is made by.
CardPlan make_card() {
  constexpr Byte kMac[] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
  constexpr Byte kIpv4[] = {192, 0, 2, 7};
  constexpr Byte kIpv6[] = {0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x23, 0x45};
  CardPlan card;
  std::memcpy(card.mac, kMac, sizeof kMac);
  card.addresses[0].version = 4;
  std::memcpy(card.addresses[0].bytes, kIpv4, sizeof kIpv4);
  card.addresses[1].version = 6;
  std::memcpy(card.addresses[1].bytes, kIpv6, sizeof kIpv6);
  return card;
}

void answer(const std::uint8_t* data, std::size_t size) {
  if (size > kFrameMax) return;
  const CardPlan card = make_card();
  // In heap blocks of their own, so that a sanitizer sees what leaves them.
  const auto frame = std::make_unique<Byte[]>(size);
  if (size != 0) std::memcpy(frame.get(), data, size);
  const auto out = std::make_unique<Byte[]>(kFrameMax);
  const Answer made = answer_frame(card, frame.get(), size, out.get());
  const bool answered = made.kind != AnswerKind::kIgnored && made.kind != AnswerKind::kMalformed;
  if (answered != (made.bytes != 0) || made.bytes > kFrameMax) std::abort();
  if (answered && !same_bytes(out.get() + kMacBytes, card.mac, kMacBytes)) std::abort();
}

}  // namespace
}  // namespace migrate::vmm::demo

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  migrate::vmm::demo::answer(data, size);
  return 0;
}
