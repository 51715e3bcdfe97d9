// One migration in one process: the real engine on both sides, fake guests, a link that may fail.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "migrate/migration.hpp"
#include "tests/session/engine/fake_guest.hpp"
#include "tests/support/faulty_link.hpp"
#include "tests/wire/capture.hpp"

namespace migrate::testing {

struct Migration;

struct RunSpec {
  std::vector<Region> regions;  ///< Empty: one region of 64 pages and one of 100, far apart.
  FakeSource::Script source;
  FakeTarget::Script target;
  OutgoingOptions outgoing;
  IncomingOptions incoming;
  test::LinkPlan plan;
  std::function<void(FakeSource&)> fill;  ///< Writes the guest's memory; empty: every third page.
  std::function<Status(const GuestDescription&)> on_described;
  Arbiter* source_arbiter = nullptr;
  Arbiter* target_arbiter = nullptr;
  /// Called with what can be cancelled, before anything runs.
  std::function<void(Outgoing&, Incoming&)> ready;
  std::function<void(const Event&)> on_source_event;
  std::function<void(Migration&)> watch_run;  ///< Before anything runs.
  /// Puts something before what connects the source.
  std::function<std::unique_ptr<Connector>(std::unique_ptr<Connector>)> wrap_connector;

  RunSpec();
};

/// How things stood when the network was told that the guest is at the target.
struct ToldNetwork {
  std::string session;
  std::string guest;
  SteadyTime started_at;
  int running = 0;              ///< Hosts on which the guest ran.
  int host_started = 0;         ///< How often Incoming::Host had heard of it.
  std::uint64_t to_source = 0;  ///< Bytes that the control lane had carried that way.
};

/// Everything that is left after a run.
struct Migration {
  explicit Migration(RunSpec spec);
  ~Migration();

  World world;
  RunSpec spec;
  std::unique_ptr<test::InProcessNetwork> network;
  OutgoingResult out;
  IncomingResult in;
  int host_ready = 0;
  int host_started = 0;
  std::vector<Incoming::Host::Memory> host_memory;  ///< As the host was told of it.
  /// What had left for the source when the host heard of the start.
  std::uint64_t host_heard_at = 0;
  std::vector<ToldNetwork> takeovers;
  std::vector<std::string> source_events;
  /// What each channel had carried when the source first said an event of that name.
  std::map<std::string, std::vector<test::LaneBytes>> bytes_at;
  wire::testing::Capture capture;  ///< All bytes of all connections, as the source saw them.

  FakeSource& source() { return static_cast<FakeSource&>(*out.guest); }
  FakeTarget& target() { return static_cast<FakeTarget&>(*in.guest); }
  [[nodiscard]] bool target_runs() { return target().started(); }
  [[nodiscard]] std::string text() const;  ///< For failure messages.

 private:
  std::string runtime_dir_;
};

/// What must hold after every migration that nobody interfered with by force: one runner, equal
/// memory where it ran over, a source as it was where it did not.
void expect_one_owner(Migration& run);

/// Of the bytes at which links are cut one after the other, one in so many: all of them, but under
/// the sanitizers, where each run takes much longer. It has no divisor in common with what the
/// tests vary from byte to byte, so that each kind of cut is met in each record.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr std::uint64_t kCutStride = 5;
#else
inline constexpr std::uint64_t kCutStride = 1;
#endif

inline const RegionId kLow{0, 1, 0};
inline const RegionId kHigh{0, 2, 0};

}  // namespace migrate::testing
