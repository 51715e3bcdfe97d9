// LinkState: what an InProcessNetwork and its channels share.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "base/mutex.hpp"
#include "migrate/channel.hpp"
#include "tests/support/link_plan.hpp"

namespace migrate::test {

struct Chunk {
  std::vector<std::byte> bytes;
  std::size_t taken = 0;
  std::chrono::steady_clock::time_point available_at;
};

/// One direction of a lane.
struct Pipe {
  std::deque<Chunk> chunks;
  std::size_t held = 0;    // Bytes in chunks, not taken yet.
  std::uint64_t sent = 0;  // Since the lane began.
  std::chrono::nanoseconds delay{0};
  bool sender_gone = false;
  bool receiver_gone = false;
  std::mt19937_64 write_lengths;
  std::mt19937_64 read_lengths;
};

/// All fields are guarded by the link's mutex.
struct Lane {
  std::size_t number = 0;
  std::array<Pipe, 2> pipes;
  bool cut = false;
  bool stalled = false;
  CondVar changed;
};

/// What one side has done to its own channel; guarded by the link's mutex.
struct End {
  Direction sends = Direction::kToTarget;
  bool interrupted = false;
  bool shut_down = false;
};

/// All state of a network, behind one mutex: order over speed.
class LinkState {
 public:
  explicit LinkState(LinkPlan plan) : plan_(std::move(plan)), fired_(plan_.faults.size()) {}

  Result<std::shared_ptr<Lane>> connect(const bool& interrupted);
  Result<std::shared_ptr<Lane>> accept(const bool& interrupted, std::chrono::nanoseconds timeout);
  void add_acceptor();
  void remove_acceptor();

  Status send(Lane& lane, const End& end, std::span<const iovec> parts,
              std::chrono::nanoseconds idle_max);
  Result<std::size_t> receive(Lane& lane, const End& end, std::span<const iovec> parts,
                              std::chrono::nanoseconds idle_max);
  void leave(Lane& lane, End& end);
  void set_flag(bool& flag, bool value, CondVar& waiters);
  std::size_t held(const Lane& lane, Direction direction) const;
  bool has_room(const Lane& lane, Direction direction, std::size_t bytes) const;

  void cut_all(InFlight in_flight);
  void stall_all();
  void stall_lane(std::size_t number);
  void release_all();
  void refuse(bool refuse_all);
  CondVar& connections_changed() { return connections_changed_; }
  const LinkPlan& plan() const { return plan_; }
  std::vector<LaneBytes> bytes() const;
  std::size_t faults_fired() const;
  std::size_t refused() const;
  bool wait_for_lanes(std::size_t count, std::chrono::nanoseconds timeout) const;
  bool wait_for_refused(std::size_t count, std::chrono::nanoseconds timeout) const;

 private:
  using Time = std::chrono::steady_clock::time_point;
  using Calls = std::vector<std::function<void()>>;

  /// Sends some of `bytes`; none when `calls` are to be made first.
  Result<std::size_t> send_some(Lane& lane, const End& end, std::span<const std::byte> bytes,
                                Time deadline, Calls& calls);
  Status check_end(const Lane& lane, const End& end) const MIGRATE_REQUIRES(mutex_);
  void append(Lane& lane, Direction direction, std::span<const std::byte> bytes)
      MIGRATE_REQUIRES(mutex_);
  std::size_t take(Pipe& pipe, std::span<const iovec> parts) MIGRATE_REQUIRES(mutex_);
  /// Lets happen what is due on this pipe; never a flip, which append() does.
  void fire(Lane& lane, Direction direction, Calls& calls) MIGRATE_REQUIRES(mutex_);
  void apply(const Fault& fault, Lane& lane, Calls& calls) MIGRATE_REQUIRES(mutex_);
  std::uint64_t bytes_to_next_fault(const Lane& lane, Direction direction) const
      MIGRATE_REQUIRES(mutex_);
  void cut(Lane& lane, InFlight in_flight) MIGRATE_REQUIRES(mutex_);
  void stall(Lane& lane) MIGRATE_REQUIRES(mutex_);
  std::size_t short_length(std::mt19937_64& lengths, std::size_t most) const;

  const LinkPlan plan_;
  mutable Mutex mutex_;
  mutable CondVar connections_changed_;
  std::vector<char> fired_ MIGRATE_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Lane>> lanes_ MIGRATE_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<Lane>> waiting_ MIGRATE_GUARDED_BY(mutex_);
  std::size_t acceptors_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::size_t refusals_left_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::size_t refused_ MIGRATE_GUARDED_BY(mutex_) = 0;
};

}  // namespace migrate::test
