// Outgoing and Incoming: one migration, seen from either side.
//
// Both are blocking: run() does the whole migration on the calling thread (plus threads of its own,
// all joined before it returns) and hands the guest back with the outcome. cancel() may be called
// from any other thread. No signal state is touched, no exception leaves.
#pragma once

#include <memory>
#include <string>

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
/// window. The guest stands paused at the source until one of these is called.
class UncertainHandover {
 public:
  virtual ~UncertainHandover() = default;
  [[nodiscard]] virtual const std::string& session() const = 0;
  /// Lets the guest run on here. Asks the target first and refuses when it started there; without
  /// an answer, refuses until the target's lease has surely run out and then needs `force` (the
  /// caller vouches that the target host is dead or fenced).
  virtual Status resume(Connector& connector, bool force) = 0;
  /// Gives the guest up here: it runs at the target (asked, or vouched for with `force`).
  virtual Status release(Connector& connector, bool force) = 0;
};

/// What run() gives back. The guest is always here, whatever the outcome.
struct OutgoingResult {
  Outcome outcome = Outcome::kFailed;
  std::unique_ptr<SourceGuest> guest;
  std::unique_ptr<UncertainHandover> uncertain;  ///< Only for Outcome::kUncertain; uses `guest`.
  Report report;
};

/// The sending side of one migration. Use once.
class Outgoing {
 public:
  Outgoing(std::unique_ptr<SourceGuest> guest, OutgoingOptions options,
           Observer* observer = nullptr, Arbiter* arbiter = nullptr, Clock& clock = system_clock());
  ~Outgoing();
  Outgoing(const Outgoing&) = delete;
  Outgoing& operator=(const Outgoing&) = delete;

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
};

/// The receiving side of one migration. Use once.
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
    /// The guest has started, and STARTED is on its way.
    virtual void on_started() = 0;
  };

  Incoming(std::unique_ptr<TargetGuest> guest, IncomingOptions options, Host& host,
           Observer* observer = nullptr, Arbiter* arbiter = nullptr, Clock& clock = system_clock());
  ~Incoming();
  Incoming(const Incoming&) = delete;
  Incoming& operator=(const Incoming&) = delete;

  /// Takes one session from `acceptor`: its control channel, its lanes, its reconnects. Returns
  /// once the source has confirmed, or the ask window after the start (or the failure) has passed.
  /// The acceptor is interrupted by then: another session needs another one.
  IncomingResult run(Acceptor& acceptor);

  /// Gives up before COMMIT; false afterwards. Any thread.
  bool cancel() noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace migrate
