// Introductions: who are the connections that come to a target? Each says HELLO, JOIN or ASK first.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/mutex.hpp"
#include "migrate/channel.hpp"
#include "transport/record_channel.hpp"
#include "wire/messages.hpp"

namespace migrate::session {

/// Takes connections on threads of its own, so that one that stays silent holds up nobody. Wrong
/// ones are told why and dropped. Methods are the coordinator's, but interrupt().
class Introductions {
 public:
  struct Context {
    Acceptor& acceptor;
    nanoseconds hello_timeout;  ///< How long a connection may take to introduce itself.
    nanoseconds peer_timeout;   ///< How long it may fall silent later.
    /// Answers ASK for sessions that are not this one.
    std::function<wire::Answer(const wire::SessionId&)> consult;
    /// Called from another thread when something of this session has come: an ASK (take_asking())
    /// or a RESUME (take_resuming()).
    std::function<void()> on_news;
    /// The same for a lane (wait_for_lanes()), which may have been taken meanwhile.
    std::function<void()> on_lane;
    /// Called before that for a RESUME that is about to be let in: see take_resuming().
    std::function<void()> on_resume;
  };
  struct Resuming {
    std::unique_ptr<RecordChannel> control;
    std::uint32_t round = 0;
  };
  struct Arrival {
    std::unique_ptr<RecordChannel> control;
    wire::Hello hello;
  };

  explicit Introductions(Context context);
  ~Introductions();  ///< Interrupts the acceptor and joins.

  /// Waits for the first HELLO, for as long as it takes; later ones are refused as busy.
  Result<Arrival> wait_for_hello();

  /// From now on JOIN, ASK and RESUME of this session are let in, from the peer that said HELLO.
  /// `urgent`: so is an urgent lane, which need not come.
  void expect(const wire::SessionId& session, const wire::JoinSecret& secret,
              const wire::Hasher& hasher, std::uint16_t lanes, bool urgent = false);
  /// The urgent lane; nullptr when it has not joined by `until`, or a RESUME came instead.
  std::unique_ptr<RecordChannel> take_urgent(std::chrono::steady_clock::time_point until);
  /// Waits until all lanes have joined; in order of their numbers. Fails with kLinkLost when a
  /// RESUME comes instead.
  Result<std::vector<std::unique_ptr<RecordChannel>>> wait_for_lanes(nanoseconds timeout);

  /// The newest connection that asked, its ASK taken; nullptr when none did by `until`.
  std::unique_ptr<RecordChannel> take_asking(std::chrono::steady_clock::time_point until);

  /// The newest connection that said RESUME; nullopt when none did by `until`. Lanes must join
  /// again.
  std::optional<Resuming> take_resuming(std::chrono::steady_clock::time_point until);
  /// The same or the newest connection that asked, whichever is there; neither by `until`.
  struct Back {
    std::optional<Resuming> resuming;
    std::unique_ptr<RecordChannel> asking;
  };
  Back take_resuming_or_asking(std::chrono::steady_clock::time_point until);
  [[nodiscard]] bool has_resuming();
  [[nodiscard]] bool stopped();  ///< interrupt() was called.

  /// Ends all waiting; any thread.
  void interrupt() noexcept;

 private:
  struct Pending;
  void run();
  Status take_next();
  void introduce(Pending& pending);
  template <typename Message>
  using Taking = void (Introductions::*)(std::unique_ptr<RecordChannel>, const Message&);
  template <typename Message>
  void take(std::unique_ptr<RecordChannel> channel, const RecordChannel::Record& record,
            Taking<Message> taking);
  void take_hello(std::unique_ptr<RecordChannel> channel, const wire::Hello& hello);
  void take_join(std::unique_ptr<RecordChannel> channel, const wire::Join& join);
  void take_ask(std::unique_ptr<RecordChannel> channel, const wire::Ask& ask);
  void take_resume(std::unique_ptr<RecordChannel> channel, const wire::Resume& resume);
  Status check_resume(const Channel& channel, const wire::Resume& resume) MIGRATE_REQUIRES(mutex_);
  Status check_join(const Channel& channel, const wire::Join& join) MIGRATE_REQUIRES(mutex_);
  [[nodiscard]] bool is_wanted(const wire::Join& join) const MIGRATE_REQUIRES(mutex_);
  /// Of a connection that knows the session's secret: it must be the one that was told.
  Status check_peer(const Channel& channel) MIGRATE_REQUIRES(mutex_);
  std::optional<Resuming> take_resuming_now() MIGRATE_REQUIRES(mutex_);
  void reap(bool all);
  nanoseconds until_next_deadline();
  void interrupt_late() MIGRATE_REQUIRES(mutex_);

  Context context_;
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::optional<Error> accept_error_ MIGRATE_GUARDED_BY(mutex_);
  bool hello_taken_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::optional<Arrival> arrival_ MIGRATE_GUARDED_BY(mutex_);
  std::string source_ MIGRATE_GUARDED_BY(mutex_);  // The identity of who said HELLO.
  bool expecting_ MIGRATE_GUARDED_BY(mutex_) = false;
  wire::SessionId session_ MIGRATE_GUARDED_BY(mutex_);
  wire::JoinSecret secret_ MIGRATE_GUARDED_BY(mutex_);
  wire::Hasher hasher_ MIGRATE_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<RecordChannel>> lanes_ MIGRATE_GUARDED_BY(mutex_);
  bool urgent_wanted_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::unique_ptr<RecordChannel> urgent_ MIGRATE_GUARDED_BY(mutex_);
  std::size_t joined_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::size_t lanes_wanted_ MIGRATE_GUARDED_BY(mutex_) = 0;
  bool rejoining_ MIGRATE_GUARDED_BY(mutex_) = false;  // After a RESUME.
  std::unique_ptr<RecordChannel> asking_ MIGRATE_GUARDED_BY(mutex_);
  std::optional<Resuming> resuming_ MIGRATE_GUARDED_BY(mutex_);

  std::list<std::unique_ptr<Pending>> pending_ MIGRATE_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace migrate::session
