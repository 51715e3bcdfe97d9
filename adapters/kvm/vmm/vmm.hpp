// Vmm: the small reference VMM. It runs the self-checking demo guest, or a Linux, on KVM, so that
// the command has something to migrate; a client of the public API like any other VMM would be.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adapters/kvm/vmm/generation.hpp"
#include "adapters/kvm/vmm/vmm_config.hpp"
#include "migrate/guest.hpp"
#include "migrate/kvm.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// What of the machine the VMM decides; the target's must be like the source's.
struct VmmPlatform {
  bool irqchip = true;
  bool pit = false;
};

enum class VmmState : std::uint8_t {
  kPaused = 1,
  kRunning = 2,
  kStopped = 3,  ///< By stop(), or the guest ended itself.
  kLeft = 4,     ///< It runs elsewhere now.
  kFailed = 5,   ///< It crashed; see failure().
};
[[nodiscard]] std::string_view to_string(VmmState state);

/// The first thing a guest's self-check found.
struct VerifyFailure {
  std::string kind;  ///< "fill", "stale", "misplaced", "corrupt", "registers", "clock", "card".
  std::uint32_t vcpu = 0;
  std::uint64_t page = 0;  ///< Counted over guest memory without its hole.
  std::uint64_t expected = 0;
  std::uint64_t found = 0;
};

struct VcpuStats {
  std::string workload;    ///< Such as "writer:rate=200M,set=64M,pattern=uniform".
  std::uint64_t work = 0;  ///< Pages written (writer) or checked (reader, verifier), increments
                           ///< (counter), wake-ups (idle), frames (responder).
  double cpu_ms = 0;       ///< Of its thread, at all hosts together.
};

/// Frames that came to a demo guest's network cards, by what was done with them.
struct PacketStats {
  std::uint64_t arp = 0;        ///< Answered, as are the next four.
  std::uint64_t icmp = 0;       ///< Echo requests.
  std::uint64_t udp = 0;        ///< To the echo port, 7.
  std::uint64_t ndp = 0;        ///< Neighbour solicitations.
  std::uint64_t icmpv6 = 0;     ///< Echo requests.
  std::uint64_t ignored = 0;    ///< For somebody else, or of a kind that is not answered.
  std::uint64_t malformed = 0;  ///< Broken: lengths, checksums, fields.
  [[nodiscard]] std::uint64_t answered() const { return arp + icmp + udp + ndp + icmpv6; }
};

struct GuestStats {
  std::uint64_t uptime_ms = 0;
  std::uint64_t pages_written = 0;
  std::uint64_t verify_passes = 0;  ///< How often all of its memory has been checked.
  std::uint64_t verify_errors = 0;
  PacketStats packets;
  std::vector<VcpuStats> vcpus;
  std::optional<VerifyFailure> first_error;
};

/// An Ethernet frame for a guest, and the network card it is to reach, from 0.
struct CardFrame {
  std::uint32_t card = 0;
  std::vector<std::byte> frame;
  /// It reaches the guest here and nowhere else. False: it came to all (a broadcast), also where
  /// the guest is going, or is the guest's own or another's.
  bool follows = true;
};

/// One virtual machine: its memory, its vCPU threads, its ports. All methods may be called from any
/// thread; pause(), resume(), stop() and leave() wait for each other.
///
/// Signals: a vCPU thread is kicked out of the guest by a real-time signal sent to that thread
/// alone and blocked everywhere but inside KVM_RUN, so no handler is installed and nothing of the
/// process's signal state changes. Threads of the VMM take no other signals.
class Vmm {
 public:
  /// A guest with its memory filled, paused before its first instruction. kInvalidArgument when
  /// the workload does not fit, kNoMemory, kUnsupported without a usable /dev/kvm; for a Linux also
  /// what its files, disks and taps come to, kBusy for a disk in use, and kUnsupported without an
  /// in-kernel interrupt controller.
  static Result<std::unique_ptr<Vmm>> create(const VmmConfig& config);
  /// The same machine with empty memory and unset vCPUs, to be filled by a migration. Its vCPU
  /// threads are there, so that resume() is only a wake.
  static Result<std::unique_ptr<Vmm>> create_incoming(const VmmConfig& config,
                                                      const VmmPlatform& platform);
  ~Vmm();
  Vmm(const Vmm&) = delete;
  Vmm& operator=(const Vmm&) = delete;

  [[nodiscard]] const VmmConfig& config() const;
  /// Descriptors and slots, for the adapter; they live as long as this.
  [[nodiscard]] const KvmVm& kvm_vm() const;

  /// Gets every vCPU out of the guest, its last exit completed. Pausing a paused guest is fine.
  /// Errors (the guest runs on): kGuest when it has stopped, left or crashed; kTimeout when a vCPU
  /// does not come out, a disk's request does not end, or what the disks were given is not written
  /// back in time; kIo when some of that was lost.
  Result<PauseResult> pause();
  Status resume();
  /// Ends the guest for good. Harmless when it has ended.
  void stop();
  /// As stop(): the guest runs at another host now.
  void leave();

  [[nodiscard]] VmmState state() const;
  /// Why it crashed, with the registers of the vCPU that did; nullopt unless kFailed.
  [[nodiscard]] std::optional<Error> failure() const;
  /// Readable (poll) once the guest has stopped, left or crashed.
  [[nodiscard]] int ended_fd() const;

  /// The demo guest's counters, also while it runs. kBusy before its memory has arrived. Of a Linux
  /// only the vCPUs' times.
  [[nodiscard]] Result<GuestStats> stats() const;
  /// What the guest has printed: the newest of it, 32 KiB at least.
  [[nodiscard]] std::string console() const;
  /// Of a Linux with a console of kind kTerminal: what to open, such as "/dev/pts/3"; else empty.
  [[nodiscard]] std::string console_terminal() const;
  /// Types into a Linux's console. How much was taken; the rest is to be offered again, there is no
  /// room. The demo guest takes nothing: 0.
  std::size_t console_input(std::span<const std::byte> bytes);

  /// Withholds `share` (0..1) of the run time of one vCPU; 0 ends it. Held on the vCPU's own thread
  /// in slices of at most 20 ms; time spent waiting costs nothing.
  Status throttle(std::uint32_t vcpu, double share);

  /// The VMM's own state and its devices' as sections; while paused.
  Status save_devices(StateWriter& writer);
  /// A section of an arriving guest; the first one of each attempt begins anew.
  Status load_device(const SectionInfo& section, StateReader& reader);

  /// Locks the disks, as a guest that is here has done. kBusy when another host or process has one.
  Status take_disks();
  /// The same for a guest whose sections have all come; kProtocol when one has not.
  Status take_arrived_disks();
  /// The guest will leave soon: what is cached of its disks is written back from now on, so that
  /// pause() and give_up_disks() have little left to write. Does not wait.
  void prepare_leaving();
  /// Writes back what is cached of the disks and unlocks them; while paused. Errors, which leave
  /// some locked until take_disks(): kTimeout after 5 s, kIo when a write was lost.
  Status give_up_disks();

  /// As in SourceGuest and TargetGuest. kBusy while the guest runs.
  Status add_first_pages(PageBitmap& pages);
  [[nodiscard]] std::vector<int> vcpu_threads();

  /// What tells the guest from its copies; nullopt when it is not known: it has not arrived yet, or
  /// was started by a version that gave it none.
  [[nodiscard]] std::optional<GenerationId> generation_id() const;
  /// Makes an arriving guest another than the one its state is of: gives it a fresh generation id,
  /// and tells it of that and of its cards' new addresses (ArrivalConfig::new_identity), to hear as
  /// soon as it runs. Writes to guest memory, so all of that is there, or comes when it is touched.
  /// Once, after its state was loaded and before resume(). kBusy while it runs, kIo.
  Status renew_identity();

  /// Network cards: their number is config().nets.size(). A paused guest's frames wait in its taps.
  /// Takes some, in their order, one card's after the other's and beginning with another card each
  /// time, so that the guest does not get them here: at most `frames_max`, and none more once they
  /// have `bytes_max` bytes. Empty when there are none; does not wait for any. kBusy while the
  /// guest runs, kGuest when it has ended or left: its taps are closed then.
  Result<std::vector<CardFrame>> take_waiting_frames(std::size_t frames_max, std::size_t bytes_max);
  /// Of an arriving guest: it stands at its source, so what comes to the taps here from now on is
  /// for it. What came before it has had there, and is dropped. Before its state is loaded.
  void keep_waiting_frames();
  /// A frame for card `card`, as if it had come from the network. At once when the guest runs; else
  /// it waits until then, and goes before what waits in the tap. So a source that goes on gets back
  /// what was taken. False: too many wait (FrameBacklog), no card takes one as long, or there is no
  /// such card; it is dropped.
  bool deliver_frame(std::uint32_t card, std::span<const std::byte> frame);

  /// Where devices mark what they write to guest memory, for KvmSourceOptions::vmm_writes; null for
  /// a guest whose devices write none.
  [[nodiscard]] std::shared_ptr<SoftwareBitmap> device_writes() const;

 private:
  class Impl;
  explicit Vmm(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace migrate::vmm
