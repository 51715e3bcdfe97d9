// Outgoing and Incoming: one migration, seen from either side.
//
// Both are blocking: run() does the whole migration on the calling thread (plus threads of its own,
// all joined before it returns) and hands the guest back with the outcome. cancel() may be called
// from any other thread. No signal state is touched, no exception leaves.
#pragma once

#include <memory>
#include <string>

#include "migrate/announce.hpp"
#include "migrate/channel.hpp"
#include "migrate/clock.hpp"
#include "migrate/guest.hpp"
#include "migrate/options.hpp"
#include "migrate/progress.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// Asks for ownership outside the two hosts: a compare-and-swap that survives both. With one, every
/// start and every resume after COMMIT goes through it.
class Arbiter {
 public:
  virtual ~Arbiter() = default;
  /// Makes `side` the owner of the guest of `session` unless the other side already is. False when
  /// the other side owns it; an error means unknown.
  virtual Result<bool> acquire(const std::string& session, Side side) = 0;
};

/// A guest whose owner is not known: COMMIT was sent and the target did not answer in the ask
/// window. The guest stands paused at the source, and must stay so, until one of these succeeds.
///
/// Keep it with the SourceGuest it came with and with the Arbiter and Clock of its Outgoing, which
/// may go itself. One thread at a time, which then calls the guest's methods as run() did; each
/// call blocks for the ask window or 10 s, whichever is shorter, and 20 s more where locks must be
/// taken back. A call that fails may be made again. Where resume() fails because the guest started
/// there, it has been released here (SourceGuest::release() was called), and release() succeeds.
/// Dropping this decides nothing: the guest stays paused.
class UncertainHandover {
 public:
  virtual ~UncertainHandover() = default;
  [[nodiscard]] virtual const std::string& session() const = 0;
  /// Lets the guest run on here. Asks the target first and refuses when it started there; without
  /// an answer, refuses until the target's lease has surely run out and then needs `force` (the
  /// caller vouches that the target host is dead or fenced). The network may have been told that
  /// the guest is at the target: announce it here then (announce.hpp).
  virtual Status resume(Connector& connector, bool force) = 0;
  /// Gives the guest up here: it runs at the target (asked, or vouched for with `force`).
  virtual Status release(Connector& connector, bool force) = 0;
};

/// What run() gives back. The guest is always here, whatever the outcome: released where that is
/// kDone or kLost, in its former run state where it is kFailed, kRefused or kCancelled, paused
/// where it is kUncertain.
struct OutgoingResult {
  Outcome outcome = Outcome::kFailed;
  std::unique_ptr<SourceGuest> guest;
  std::unique_ptr<UncertainHandover> uncertain;  ///< Only for Outcome::kUncertain; uses `guest`.
  Report report;
};

/// The sending side of one migration. Use once. `observer`, `arbiter` and `clock` stay the caller's
/// and outlive run(), the latter two an UncertainHandover, too.
class Outgoing {
 public:
  Outgoing(std::unique_ptr<SourceGuest> guest, OutgoingOptions options,
           Observer* observer = nullptr, Arbiter* arbiter = nullptr, Clock& clock = system_clock());
  ~Outgoing();
  Outgoing(const Outgoing&) = delete;
  Outgoing& operator=(const Outgoing&) = delete;

  /// Blocks until the migration is over, on a thread that nothing else needs meanwhile. What failed
  /// is in the report; nothing is thrown. The threads it starts have ended when it returns.
  OutgoingResult run(Connector& connector);

  /// Asks run() to give up and let the guest go on. False after COMMIT: it is too late. Any thread.
  bool cancel() noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

struct IncomingResult {
  Outcome outcome = Outcome::kFailed;
  std::unique_ptr<TargetGuest> guest;  ///< Started on kDone; discarded otherwise.
  Report report;
  /// With kLost after a start by post-copy, the guest stands and some of its memory never came. For
  /// as long as this is kept, who touches that waits; drop it when the guest has ended, before its
  /// memory is unmapped. That memory is inaccessible then, so that what still waits fails (EFAULT)
  /// and no zeros go to disks.
  std::shared_ptr<void> waiting_memory;
};

/// The receiving side of one migration. Use once.
///
/// Keep it for as long as a guest that started runs: it holds the lock of the session's journal,
/// which tells any process of this host that the guest's process lives. Do not fork between run()
/// and its end, or the child holds that lock as well.
class Incoming {
 public:
  /// What the host is told, and may refuse, on the way. Called from run()'s thread.
  class Host {
   public:
    virtual ~Host() = default;
    /// The guest is known and fits; last chance to refuse (its name is taken, say).
    virtual Status on_described(const GuestDescription& description) = 0;
    /// The guest is about to arrive: open the control socket here. Called once, before READY, and
    /// outside the downtime where the strategy has rounds.
    virtual Status on_ready() = 0;
    /// The guest has started, and STARTED goes out next, so that whoever hears at the source that
    /// the migration is done finds the guest here. Must return at once: the source waits for it.
    virtual void on_started() = 0;
    /// How the memory of a guest that was started by post-copy is getting on.
    enum class Memory : std::uint8_t {
      kFollows,   ///< Some of it is still at the source. Told before on_started(), for the first
                  ///< time.
      kWaits,     ///< The same, and the link is lost: who touches that part of it waits.
      kComplete,  ///< All of it is here.
      kLost,      ///< The rest will never come: the host must stop the guest and keep it so.
    };
    /// Until it is complete nobody may read the guest's memory to move or save it. `reason` is for
    /// people.
    virtual void on_memory(Memory memory, const std::string& reason) = 0;
  };

  /// `takeover`, like `host`, `observer`, `arbiter` and `clock`, stays the caller's and outlives
  /// run().
  Incoming(std::unique_ptr<TargetGuest> guest, IncomingOptions options, Host& host,
           Observer* observer = nullptr, Arbiter* arbiter = nullptr, Clock& clock = system_clock(),
           Takeover* takeover = nullptr);
  ~Incoming();
  Incoming(const Incoming&) = delete;
  Incoming& operator=(const Incoming&) = delete;

  /// Takes one session from `acceptor`: its control channel, its lanes, its reconnects. Returns
  /// once the source has confirmed, or the ask window after the start (or the failure) has passed.
  /// The acceptor is interrupted by then: another session needs another one.
  IncomingResult run(Acceptor& acceptor);

  /// Gives up before COMMIT; false afterwards. Any thread.
  bool cancel() noexcept;
  /// The guest that was started has ended: a source whose link is lost while memory follows is not
  /// waited for any more. Any thread.
  void guest_ended() noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace migrate
