// What an adapter implements: SourceGuest where the guest is, TargetGuest where it goes.
//
// Every method is pure virtual: nothing succeeds silently by default. The engine calls them one at
// a time, from the thread that called run(); only PageSource::read and PageSink's data methods are
// called concurrently from the lanes. None is called after run() has returned the guest.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/dirty_tracker.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate {

using SteadyTime = std::chrono::steady_clock::time_point;

enum class GuestKind : std::uint8_t { kVm = 1, kContainer = 2 };
[[nodiscard]] std::string_view to_string(GuestKind kind);

/// Run state is migrated: a paused guest arrives paused.
enum class RunState : std::uint8_t { kRunning = 1, kPaused = 2 };
[[nodiscard]] std::string_view to_string(RunState state);

/// One named, versioned blob. An unknown mandatory section fails, an unknown optional is skipped.
struct SectionInfo {
  std::string name;  ///< At most 64 bytes of [a-z0-9._-].
  std::uint32_t version = 1;
  bool mandatory = true;
};

/// What the target must know before anything moves. Travels in HELLO.
struct GuestDescription {
  GuestKind kind = GuestKind::kVm;
  std::string name;
  std::uint32_t vcpus = 0;
  std::vector<Region> regions;
  /// What the adapter at the target compares and builds from (CPUID, devices): opaque here.
  struct Property {
    SectionInfo info;
    std::vector<std::byte> body;
  };
  std::vector<Property> properties;
};

/// Takes the device state as sections. Methods are called in the order begin, append..., end.
class StateWriter {
 public:
  virtual ~StateWriter() = default;
  virtual Status begin(const SectionInfo& section) = 0;
  virtual Status append(std::span<const std::byte> bytes) = 0;
  virtual Status end() = 0;
  /// Says, before the first section, that the guest writes no memory any more but for what saving
  /// its state writes: what it has written so far may leave beside that. Not calling it costs time
  /// only.
  virtual Status memory_settled() { return {}; }
  /// Says that guest memory can no longer change, so the last dirty pages may leave while the rest
  /// of the state is saved. Not calling it means: when save_state() returns.
  virtual Status memory_final() = 0;

  /// A section whole.
  Status section(const SectionInfo& info, std::span<const std::byte> body);
};

/// Gives the device state back, section by section.
class StateReader {
 public:
  virtual ~StateReader() = default;
  /// Moves to the next section (the rest of the current one is skipped); nullopt after the last.
  virtual Result<std::optional<SectionInfo>> next() = 0;
  /// Bytes of the current section not read yet.
  [[nodiscard]] virtual std::uint64_t remaining() const = 0;
  /// Reads exactly into.size() bytes; fewer left is an error.
  virtual Status read(std::span<std::byte> into) = 0;

  /// The rest of the current section; more than bytes_max is an error.
  Result<std::vector<std::byte>> read_all(std::uint64_t bytes_max);
  /// For a section the adapter does not know: an error when it is mandatory.
  static Status skip_unknown(const SectionInfo& section);
};

struct PauseResult {
  RunState before = RunState::kRunning;  ///< What the guest did when pause() was called.
  SteadyTime stopped_at;                 ///< When the last vCPU had left the guest.
};

/// What a switchover is expected to take at the source, beside the pages.
struct SwitchoverCost {
  std::chrono::nanoseconds pause{0};  ///< Until the guest stands.
  std::chrono::nanoseconds save{0};
  std::uint64_t state_bytes = 0;
};

/// An Ethernet frame for a guest, and which of its network cards is to get it, from 0.
struct GuestFrame {
  std::uint32_t card = 0;
  std::vector<std::byte> bytes;
  /// At its source: the guest gets it here or not at all, so it follows. False for what came to all
  /// (the target's card has it, too), for what the guest sent itself and for other receivers'
  /// frames: taken in their order, for a guest that goes on here, and never sent.
  bool follows = true;
};

/// Frames that come to a guest at its source while it stands. Called from the coordinator's thread,
/// between pause() and resume() or release() only.
class PacketSource {
 public:
  virtual ~PacketSource() = default;
  /// Takes frames that wait, in their order, so that the guest does not get them here: at most
  /// `frames_max`, and none more once they have `bytes_max` bytes. Does not wait for any; empty
  /// when there are none.
  virtual Result<std::vector<GuestFrame>> take_waiting(std::size_t frames_max,
                                                       std::size_t bytes_max) = 0;
  /// The guest goes on here: what was taken comes to it before anything else, as far as there is
  /// room. For lack of memory it may throw std::bad_alloc: then some are lost.
  virtual void give_back(std::vector<GuestFrame> frames) = 0;
};

/// Frames for a guest that arrives, and has started here. Called from the coordinator's thread.
class PacketSink {
 public:
  virtual ~PacketSink() = default;
  /// The guest has just been paused at its source: what its network here brings from now on is for
  /// it here, and what it brought before (broadcasts) the guest has had there. At the first section
  /// of each attempt's state, before load_state() and within the downtime.
  virtual void source_stands() = 0;
  /// As if it had come from the network. False: too many wait already, or there is no such card;
  /// it is dropped, and counted in the report.
  virtual bool deliver(const GuestFrame& frame) = 0;
};

/// A guest that may leave. Owned by Outgoing during a migration and always handed back.
class SourceGuest {
 public:
  virtual ~SourceGuest() = default;

  virtual Result<GuestDescription> describe() = 0;
  virtual PageSource& pages() = 0;
  virtual DirtyTracker& tracker() = 0;

  /// What the guest does now. A paused one stands as after pause(), and nobody else resumes it
  /// while a migration has it: its pages are read where they lie, at most once.
  [[nodiscard]] virtual RunState run_state() = 0;
  /// Stops the guest. After it returned, nobody but save_state() writes guest memory: vCPUs stand,
  /// device I/O has drained. Pausing a paused guest is fine and says so. An error leaves it
  /// running.
  virtual Result<PauseResult> pause() = 0;
  /// What that is going to take, for forecasts, where the adapter must not try it on a running
  /// guest. nullopt: the engine pauses the guest once before the first round, saves its state to
  /// nowhere and lets it run on.
  virtual std::optional<SwitchoverCost> expected_cost() = 0;
  /// Lets a paused guest run on, as if nothing had happened.
  virtual Status resume() = 0;
  virtual Status save_state(StateWriter& writer) = 0;
  /// Withholds `share` (0..1) of run time from vCPU `vcpu`; 0 ends it. kUnsupported where the
  /// adapter cannot.
  virtual Status throttle(std::uint32_t vcpu, double share) = 0;
  /// Lets go of what only one host may hold (disk locks), before the target may take it.
  virtual Status relinquish() = 0;
  /// COMMIT leaves next: from now on the guest may run at the target, and whoever finds it here,
  /// should this process end, must let it stand. Must return at once.
  virtual void committing() = 0;
  /// Takes it back after a failed handover. An error keeps the guest paused; kBusy is tried again
  /// for a while, because a target that cannot be reached holds its locks until its lease has run
  /// out.
  virtual Status reclaim() = 0;
  /// The guest runs at the target: drop it. Called once, after STARTED; after post-copy when all of
  /// its memory is there.
  virtual Status release() = 0;
  /// Adds to `pages` what the guest is going to touch first where it starts: rings and descriptors
  /// of its devices, say. With post-copy these are sent before it starts. After pause(). Adding
  /// none is right where nothing is known.
  virtual Status first_pages(PageBitmap& pages) = 0;
  /// Gives the memory of `range` back to this host: the guest runs at the target, and has these
  /// pages there. After pause(), before release(); they are not read again.
  virtual Status release_pages(const RegionId& region, PageRange range) = 0;
  /// What OutgoingOptions::forward sends after the guest; nullptr where it has no cards, or frames
  /// cannot be had. Lives as long as this.
  virtual PacketSource* waiting_packets() = 0;
};

/// A userfaultfd with the range of one region it serves, for post-copy and lazy restore, where the
/// region is not mapped in this process.
struct FaultSource {
  int userfaultfd = -1;  ///< Stays the adapter's.
  RegionId region;
  std::uint64_t address = 0;  ///< Where the region begins in the process it belongs to.
};

/// A guest that may arrive. Owned by Incoming during a migration.
class TargetGuest {
 public:
  virtual ~TargetGuest() = default;

  /// Checks that this host can take the guest (kIncompatible with a readable list when not), and
  /// allocates. The source guest has not been touched yet.
  virtual Status prepare(const GuestDescription& description) = 0;
  virtual PageSink& pages() = 0;
  /// Loads device state; may write guest memory. May be called again after a failed attempt.
  virtual Status load_state(StateReader& reader) = 0;
  /// How long load_state() is going to take, by a state of the same shape loaded somewhere it does
  /// no harm: neither guest memory nor the guest's devices are touched. After prepare(), before the
  /// source is accepted. kUnsupported where it cannot be tried.
  virtual Result<std::chrono::nanoseconds> rehearse_load() = 0;
  /// Takes what only one host may hold (disk locks), before READY.
  virtual Status acquire() = 0;
  /// Lets go of it again: the attempt failed, the source may go on.
  virtual Status yield() = 0;
  /// Starts the guest, or leaves it paused when it arrived so. Called once, after COMMIT. An error
  /// promises that nothing ran, so the source may go on; kGuestLost says that something may have.
  virtual Status start(RunState state) = 0;
  /// Drops everything; the source keeps the guest. Not called after a start() that succeeded.
  virtual void discard() = 0;
  /// Userfaultfds of other processes for lazy filling; empty where there are none. For regions that
  /// pages() has mapped in this process the engine makes its own.
  virtual std::vector<FaultSource> fault_sources() = 0;
  /// The threads that run its vCPUs (gettid(2)), by vCPU, so that post-copy can tell who waited for
  /// memory; empty where that is not known. Once started.
  [[nodiscard]] virtual std::vector<int> vcpu_threads() = 0;
  /// Where frames from the source go; nullptr where the guest cannot be given any: then none are
  /// sent. Asked before prepare(). Lives as long as this.
  virtual PacketSink* packet_sink() = 0;
};

}  // namespace migrate
