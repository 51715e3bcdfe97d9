#include "tests/support/link_plan.hpp"

#include <random>
#include <utility>

#include "migrate/result.hpp"

namespace migrate::test {
namespace {

std::string_view name_of(Fault::Kind kind) {
  switch (kind) {
    case Fault::Kind::kCut:
      return "cut";
    case Fault::Kind::kStall:
      return "stall";
    case Fault::Kind::kFlip:
      return "flip";
    case Fault::Kind::kDelay:
      return "delay";
    case Fault::Kind::kCall:
      return "call";
  }
  return "unknown";
}

Fault fault_at(Fault::Kind kind, std::size_t lane, Direction direction, std::uint64_t at_byte) {
  Fault fault;
  fault.kind = kind;
  fault.lane = lane;
  fault.direction = direction;
  fault.at_byte = at_byte;
  return fault;
}

/// std::uniform_int_distribution gives other numbers with other standard libraries.
std::uint64_t below(std::mt19937_64& random, std::uint64_t limit) { return random() % limit; }

}  // namespace

Fault Fault::cut(std::size_t lane, Direction direction, std::uint64_t at_byte, InFlight in_flight,
                 Scope scope) {
  Fault fault = fault_at(Kind::kCut, lane, direction, at_byte);
  fault.in_flight = in_flight;
  fault.scope = scope;
  return fault;
}

Fault Fault::stall(std::size_t lane, Direction direction, std::uint64_t at_byte, Scope scope) {
  Fault fault = fault_at(Kind::kStall, lane, direction, at_byte);
  fault.scope = scope;
  return fault;
}

Fault Fault::flip(std::size_t lane, Direction direction, std::uint64_t at_byte, unsigned bit) {
  MIGRATE_CHECK(bit < 8);
  Fault fault = fault_at(Kind::kFlip, lane, direction, at_byte);
  fault.bit = bit;
  return fault;
}

Fault Fault::late(std::size_t lane, Direction direction, std::uint64_t at_byte,
                  std::chrono::nanoseconds delay) {
  Fault fault = fault_at(Kind::kDelay, lane, direction, at_byte);
  fault.delay = delay;
  return fault;
}

Fault Fault::when(std::size_t lane, Direction direction, std::uint64_t at_byte,
                  std::function<void()> call) {
  Fault fault = fault_at(Kind::kCall, lane, direction, at_byte);
  fault.call = std::move(call);
  return fault;
}

std::string Fault::to_text() const {
  std::string text(name_of(kind));
  text += " lane " + std::to_string(lane);
  text += direction == Direction::kToTarget ? " to target" : " to source";
  text += " at byte " + std::to_string(at_byte);
  if (kind == Kind::kCut) text += in_flight == InFlight::kLost ? ", rest lost" : ", rest delivered";
  if (kind == Kind::kFlip) text += ", bit " + std::to_string(bit);
  if (kind == Kind::kDelay) text += ", by " + std::to_string(delay.count()) + " ns";
  if (scope == Scope::kLink) text += ", every lane";
  return text;
}

std::string LinkPlan::to_text() const {
  std::string text = "link plan: seed " + std::to_string(seed);
  if (chunk_bytes_max != 0) text += ", chunks of at most " + std::to_string(chunk_bytes_max);
  if (latency.count() != 0) text += ", latency " + std::to_string(latency.count()) + " ns";
  if (refuse_after_cut != 0) {
    text += ", connects refused after a cut: " +
            (refuse_after_cut == kForEver ? "all" : std::to_string(refuse_after_cut));
  }
  for (const Fault& fault : faults) text += "; " + fault.to_text();
  return text;
}

LinkPlan seeded_plan(std::uint64_t seed, std::span<const LaneBytes> clean_run) {
  std::mt19937_64 random(seed);
  LinkPlan plan;
  plan.seed = seed;
  constexpr std::size_t kChunks[] = {0, 1000, 70'000};
  plan.chunk_bytes_max = kChunks[below(random, std::size(kChunks))];

  // A byte of all that moved: busy lanes are met more often.
  std::uint64_t total = 0;
  for (const LaneBytes& lane : clean_run) total += lane.to_target + lane.to_source;
  MIGRATE_CHECK(total > 0);
  std::uint64_t byte = below(random, total);
  std::size_t lane = 0;
  auto direction = Direction::kToTarget;
  while (byte >= clean_run[lane].in(direction)) {
    byte -= clean_run[lane].in(direction);
    if (direction == Direction::kToSource) ++lane;
    direction = direction == Direction::kToTarget ? Direction::kToSource : Direction::kToTarget;
  }

  const auto scope = below(random, 2) == 0 ? Scope::kLane : Scope::kLink;
  switch (below(random, 4)) {
    case 0:
      plan.faults.push_back(Fault::cut(lane, direction, byte, InFlight::kLost, scope));
      break;
    case 1:
      plan.faults.push_back(Fault::cut(lane, direction, byte, InFlight::kDelivered, scope));
      break;
    case 2:
      plan.faults.push_back(Fault::stall(lane, direction, byte, scope));
      break;
    default:
      plan.faults.push_back(
          Fault::flip(lane, direction, byte, static_cast<unsigned>(below(random, 8))));
      break;
  }
  return plan;
}

}  // namespace migrate::test
