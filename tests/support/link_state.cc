#include "tests/support/link_state.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace migrate::test {
namespace {

using Time = std::chrono::steady_clock::time_point;

/// now + timeout, or the end of time where that is out of range.
Time deadline_after(std::chrono::nanoseconds timeout) {
  const Time now = std::chrono::steady_clock::now();
  return timeout < Time::max() - now ? now + timeout : Time::max();
}

std::size_t index_of(Direction direction) { return static_cast<std::size_t>(direction); }

Direction other(Direction direction) {
  return direction == Direction::kToTarget ? Direction::kToSource : Direction::kToTarget;
}

}  // namespace

Result<std::shared_ptr<Lane>> LinkState::connect(const bool& interrupted) {
  MutexLock lock(mutex_);
  if (interrupted) return make_error(ErrorCode::kCancelled, "connecting was cancelled");
  if (acceptors_ == 0 || refusals_left_ > 0) {
    if (refusals_left_ > 0 && refusals_left_ != LinkPlan::kForEver) --refusals_left_;
    ++refused_;
    connections_changed_.notify_all();
    return make_errno_error(ErrorCode::kConnectFailed, ECONNREFUSED,
                            "the in-process network refused the connection");
  }
  auto lane = std::make_shared<Lane>();
  lane->number = lanes_.size();
  for (std::size_t i = 0; i < lane->pipes.size(); ++i) {
    const std::uint64_t stream = plan_.seed * 0x9e3779b97f4a7c15u + lane->number * 4 + i * 2;
    lane->pipes[i].write_lengths.seed(stream);
    lane->pipes[i].read_lengths.seed(stream + 1);
  }
  lanes_.push_back(lane);
  waiting_.push_back(lane);
  connections_changed_.notify_all();
  return lane;
}

Result<std::shared_ptr<Lane>> LinkState::accept(const bool& interrupted,
                                                std::chrono::nanoseconds timeout) {
  const Time deadline = deadline_after(timeout);
  MutexLock lock(mutex_);
  bool in_time = true;
  while (true) {
    if (interrupted) return make_error(ErrorCode::kCancelled, "accepting was cancelled");
    if (!waiting_.empty()) break;
    if (!in_time) return make_error(ErrorCode::kTimeout, "nobody connected in time");
    in_time = connections_changed_.wait_until(mutex_, deadline);
  }
  auto lane = std::move(waiting_.front());
  waiting_.pop_front();
  return lane;
}

void LinkState::add_acceptor() {
  MutexLock lock(mutex_);
  ++acceptors_;
}

void LinkState::remove_acceptor() {
  MutexLock lock(mutex_);
  if (--acceptors_ > 0) return;
  for (const auto& lane : waiting_) cut(*lane, InFlight::kLost);
  waiting_.clear();
}

Status LinkState::check_end(const Lane& lane, const End& end) const {
  if (end.interrupted) return make_error(ErrorCode::kCancelled, "the channel was interrupted");
  const std::string name = "lane " + std::to_string(lane.number);
  if (end.shut_down) return make_error(ErrorCode::kLinkLost, name + " was shut down here");
  return {};
}

Status LinkState::send(Lane& lane, const End& end, std::span<const iovec> parts,
                       std::chrono::nanoseconds idle_max) {
  for (const iovec& part : parts) {
    std::span<const std::byte> left(static_cast<const std::byte*>(part.iov_base), part.iov_len);
    while (!left.empty()) {
      Calls calls;
      auto sent = send_some(lane, end, left, deadline_after(idle_max), calls);
      for (const auto& call : calls) call();
      if (!sent) return std::move(sent).error();
      left = left.subspan(*sent);
    }
  }
  return {};
}

Result<std::size_t> LinkState::send_some(Lane& lane, const End& end,
                                         std::span<const std::byte> bytes, Time deadline,
                                         Calls& calls) {
  MutexLock lock(mutex_);
  Pipe& pipe = lane.pipes[index_of(end.sends)];
  bool in_time = true;
  while (true) {
    fire(lane, end.sends, calls);
    if (!calls.empty()) return std::size_t{0};
    MIGRATE_TRY(check_end(lane, end));
    if (lane.cut || (pipe.receiver_gone && !lane.stalled)) {
      return make_errno_error(ErrorCode::kLinkLost, ECONNRESET,
                              "lane " + std::to_string(lane.number) + " lost its peer");
    }
    if (!lane.stalled && pipe.held < plan_.window_bytes) break;
    if (!in_time) return make_error(ErrorCode::kTimeout, "the peer took no byte in time");
    in_time = lane.changed.wait_until(mutex_, deadline);
  }
  const std::size_t most =
      std::min({bytes.size(), plan_.window_bytes - pipe.held,
                static_cast<std::size_t>(std::min<std::uint64_t>(
                    bytes_to_next_fault(lane, end.sends), plan_.window_bytes))});
  const std::size_t length = short_length(pipe.write_lengths, most);
  append(lane, end.sends, bytes.first(length));
  fire(lane, end.sends, calls);
  lane.changed.notify_all();
  return length;
}

void LinkState::append(Lane& lane, Direction direction, std::span<const std::byte> bytes) {
  Pipe& pipe = lane.pipes[index_of(direction)];
  const auto late = plan_.latency + pipe.delay;
  const Time available_at = late.count() == 0 ? Time() : std::chrono::steady_clock::now() + late;
  if (pipe.chunks.empty() || pipe.chunks.back().available_at != available_at) {
    pipe.chunks.push_back({{}, 0, available_at});
  }
  std::vector<std::byte>& chunk = pipe.chunks.back().bytes;
  const std::size_t before = chunk.size();
  chunk.insert(chunk.end(), bytes.begin(), bytes.end());
  for (std::size_t i = 0; i < plan_.faults.size(); ++i) {
    const Fault& fault = plan_.faults[i];
    if (fault.kind == Fault::Kind::kFlip && fault.lane == lane.number &&
        fault.direction == direction && fault.at_byte == pipe.sent) {
      chunk[before] ^= std::byte{1} << fault.bit;
      fired_[i] = 1;
    }
  }
  pipe.sent += bytes.size();
  pipe.held += bytes.size();
}

void LinkState::fire(Lane& lane, Direction direction, Calls& calls) {
  const std::uint64_t sent = lane.pipes[index_of(direction)].sent;
  for (std::size_t i = 0; i < plan_.faults.size(); ++i) {
    const Fault& fault = plan_.faults[i];
    if (fired_[i] != 0 || fault.kind == Fault::Kind::kFlip || fault.lane != lane.number ||
        fault.direction != direction || fault.at_byte > sent) {
      continue;
    }
    fired_[i] = 1;
    apply(fault, lane, calls);
  }
}

void LinkState::apply(const Fault& fault, Lane& lane, Calls& calls) {
  const auto met = fault.scope == Scope::kLink
                       ? lanes_
                       : std::vector<std::shared_ptr<Lane>>{lanes_[lane.number]};
  switch (fault.kind) {
    case Fault::Kind::kCut:
      for (const auto& each : met) cut(*each, fault.in_flight);
      refusals_left_ = plan_.refuse_after_cut;
      break;
    case Fault::Kind::kStall:
      for (const auto& each : met) stall(*each);
      break;
    case Fault::Kind::kDelay:
      lane.pipes[index_of(fault.direction)].delay = fault.delay;
      break;
    case Fault::Kind::kCall:
      calls.push_back(fault.call);
      break;
    case Fault::Kind::kFlip:
      break;
  }
}

std::uint64_t LinkState::bytes_to_next_fault(const Lane& lane, Direction direction) const {
  const std::uint64_t sent = lane.pipes[index_of(direction)].sent;
  std::uint64_t distance = ~std::uint64_t{0};
  for (const Fault& fault : plan_.faults) {
    if (fault.lane == lane.number && fault.direction == direction && fault.at_byte > sent) {
      distance = std::min(distance, fault.at_byte - sent);
    }
  }
  return distance;
}

Result<std::size_t> LinkState::receive(Lane& lane, const End& end, std::span<const iovec> parts,
                                       std::chrono::nanoseconds idle_max) {
  const Time deadline = deadline_after(idle_max);
  MutexLock lock(mutex_);
  Pipe& pipe = lane.pipes[index_of(other(end.sends))];
  while (true) {
    MIGRATE_TRY(check_end(lane, end));
    const Time now = std::chrono::steady_clock::now();
    Time wake_at = deadline;
    const bool moves = !lane.stalled || lane.cut;
    if (moves && !pipe.chunks.empty()) {
      if (pipe.chunks.front().available_at <= now) break;
      wake_at = std::min(deadline, pipe.chunks.front().available_at);
    } else if (lane.cut) {
      return make_errno_error(ErrorCode::kLinkLost, ECONNRESET,
                              "lane " + std::to_string(lane.number) + " was cut");
    } else if (moves && pipe.sender_gone) {
      return std::size_t{0};
    }
    if (now >= deadline) return make_error(ErrorCode::kTimeout, "the peer sent no byte in time");
    lane.changed.wait_until(mutex_, wake_at);
  }
  const std::size_t taken = take(pipe, parts);
  lane.changed.notify_all();
  return taken;
}

std::size_t LinkState::take(Pipe& pipe, std::span<const iovec> parts) {
  Chunk& chunk = pipe.chunks.front();
  std::size_t wanted = 0;
  for (const iovec& part : parts) wanted += part.iov_len;
  MIGRATE_CHECK(wanted > 0);
  const std::size_t length =
      short_length(pipe.read_lengths, std::min(wanted, chunk.bytes.size() - chunk.taken));
  std::size_t left = length;
  for (const iovec& part : parts) {
    const std::size_t count = std::min(part.iov_len, left);
    if (count > 0) std::memcpy(part.iov_base, chunk.bytes.data() + chunk.taken, count);
    chunk.taken += count;
    left -= count;
  }
  if (chunk.taken == chunk.bytes.size()) pipe.chunks.pop_front();
  pipe.held -= length;
  return length;
}

std::size_t LinkState::short_length(std::mt19937_64& lengths, std::size_t most) const {
  if (plan_.chunk_bytes_max == 0) return most;
  return std::min<std::size_t>(most, 1 + lengths() % plan_.chunk_bytes_max);
}

void LinkState::leave(Lane& lane, End& end) {
  MutexLock lock(mutex_);
  end.shut_down = true;
  lane.pipes[index_of(end.sends)].sender_gone = true;
  lane.pipes[index_of(other(end.sends))].receiver_gone = true;
  lane.changed.notify_all();
}

void LinkState::set_flag(bool& flag, bool value, CondVar& waiters) {
  MutexLock lock(mutex_);
  flag = value;
  waiters.notify_all();
}

std::size_t LinkState::held(const Lane& lane, Direction direction) const {
  MutexLock lock(mutex_);
  return lane.pipes[index_of(direction)].held;
}

bool LinkState::has_room(const Lane& lane, Direction direction, std::size_t bytes) const {
  MutexLock lock(mutex_);
  return !lane.stalled && lane.pipes[index_of(direction)].held + bytes <= plan_.window_bytes;
}

void LinkState::cut(Lane& lane, InFlight in_flight) {
  lane.cut = true;
  if (in_flight == InFlight::kLost) {
    for (Pipe& pipe : lane.pipes) {
      pipe.chunks.clear();
      pipe.held = 0;
    }
  }
  lane.changed.notify_all();
}

void LinkState::stall(Lane& lane) {
  lane.stalled = true;
  lane.changed.notify_all();
}

void LinkState::cut_all(InFlight in_flight) {
  MutexLock lock(mutex_);
  for (const auto& lane : lanes_) cut(*lane, in_flight);
}

void LinkState::stall_all() {
  MutexLock lock(mutex_);
  for (const auto& lane : lanes_) stall(*lane);
}

void LinkState::stall_lane(std::size_t number) {
  MutexLock lock(mutex_);
  stall(*lanes_.at(number));
}

void LinkState::release_all() {
  MutexLock lock(mutex_);
  for (const auto& lane : lanes_) {
    lane->stalled = false;
    lane->changed.notify_all();
  }
}

void LinkState::refuse(bool refuse_all) {
  MutexLock lock(mutex_);
  refusals_left_ = refuse_all ? LinkPlan::kForEver : 0;
}

std::vector<LaneBytes> LinkState::bytes() const {
  MutexLock lock(mutex_);
  std::vector<LaneBytes> counts;
  for (const auto& lane : lanes_) counts.push_back({lane->pipes[0].sent, lane->pipes[1].sent});
  return counts;
}

std::size_t LinkState::faults_fired() const {
  MutexLock lock(mutex_);
  return static_cast<std::size_t>(std::count(fired_.begin(), fired_.end(), 1));
}

std::size_t LinkState::refused() const {
  MutexLock lock(mutex_);
  return refused_;
}

bool LinkState::wait_for_lanes(std::size_t count, std::chrono::nanoseconds timeout) const {
  const Time deadline = deadline_after(timeout);
  MutexLock lock(mutex_);
  while (lanes_.size() < count) {
    if (!connections_changed_.wait_until(mutex_, deadline)) return lanes_.size() >= count;
  }
  return true;
}

bool LinkState::wait_for_refused(std::size_t count, std::chrono::nanoseconds timeout) const {
  const Time deadline = deadline_after(timeout);
  MutexLock lock(mutex_);
  while (refused_ < count) {
    if (!connections_changed_.wait_until(mutex_, deadline)) return refused_ >= count;
  }
  return true;
}

}  // namespace migrate::test
