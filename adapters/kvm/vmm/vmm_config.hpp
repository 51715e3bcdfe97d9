// VmmConfig: what a guest of the reference VMM is made of: the demo guest, or a Linux with its
// kernel, disks and network cards.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adapters/kvm/vmm/devices/host_console.hpp"
#include "adapters/kvm/vmm/devices/ip_address.hpp"
#include "adapters/kvm/vmm/devices/mac_address.hpp"
#include "adapters/kvm/vmm/workload.hpp"
#include "migrate/kvm_cpu_baseline.hpp"
#include "migrate/tracker_choice.hpp"

namespace migrate::vmm {

/// Limits of the demo guest's layout (demo_guest/layout.hpp), and so of any guest.
inline constexpr std::uint64_t kMemoryMin = demo::kMemoryMin;
inline constexpr std::uint64_t kMemoryMax = demo::kMemoryMax;
inline constexpr std::uint64_t kMemoryStep = demo::kLargePage;
inline constexpr std::uint32_t kVcpusMax = demo::kVcpusMax;

/// A virtio disk (vda, vdb, ... in the guest).
struct DiskConfig {
  std::string path;  ///< A raw image or a block device.
  bool read_only = false;
  /// Of an arriving guest: how large the source's is, and this one must be. 0: as large as it is.
  std::uint64_t sectors = 0;
};

/// A virtio network card on a tap interface that is there already.
struct NetConfig {
  std::string tap;
  /// nullopt: a new guest gets one made of its name and the card's number; an arriving guest keeps
  /// the source's.
  std::optional<MacAddress> mac;
  /// What the guest is reached by there.
  std::vector<IpAddress> addresses{};
  /// By which VLAN behind the tap; only announcements of the guest make use of it.
  std::optional<std::uint16_t> vlan{};
  /// Of an arriving guest that was given a new identity, and with it a new `mac`: what it has had,
  /// which its state and its running driver still name.
  std::optional<MacAddress> former_mac{};
};
/// Of one card.
inline constexpr std::size_t kAddressesMax = 8;

/// Where the serial console (ttyS0) ends at this host. What the guest prints is also kept in
/// memory, see Vmm::console().
using ConsoleConfig = HostConsole::Options;

/// Instead of the demo guest: an unmodified Linux (x86-64, a bzImage). Disks come first among its
/// virtio devices, then network cards (VmmConfig::nets); both together are at most
/// kVirtioDevicesMax (memory_map.hpp).
struct LinuxGuest {
  /// A guest that has arrived can do without, until it wants to restart.
  std::string kernel;
  std::string initrd;        ///< Empty: none.
  std::string command_line;  ///< Moves with the guest.
  std::vector<DiskConfig> disks;
  std::optional<ConsoleConfig> console;  ///< nullopt: only kept in memory.
};

struct VmmConfig {
  std::string name;
  std::uint64_t memory_bytes = 256ull << 20;  ///< Multiple of kMemoryStep.
  std::uint32_t vcpus = 1;
  GuestWorkload workload;                 ///< Of the demo guest.
  std::optional<LinuxGuest> linux_guest;  ///< Then there is no demo guest.
  /// Of a demo guest, one for each of its responders.
  std::vector<NetConfig> nets;
  /// How its writes are tracked when it leaves this host (KvmSourceOptions::tracking). A choice of
  /// this host, not moved with the guest; kKvmRing makes the VM with a dirty ring.
  std::optional<TrackerKind> tracking;
  /// Its memory is of hugetlb pages of this size, from the host's pool; 0: of ordinary memory. A
  /// choice of this host, too.
  std::uint64_t huge_page_bytes = 0;
  /// The processor a new guest is given; it moves with it. nullopt: all that this host offers.
  std::optional<KvmCpuBaseline> cpu;
};

/// What an arriving guest gets from this host: the choices that do not move with it.
struct ArrivalConfig {
  std::string name;  ///< What it is called here; empty: as at the source.
  std::optional<TrackerKind> tracking;
  std::uint64_t huge_page_bytes = 0;
  /// One for each of the guest's disks, in the source's order, of the same size and kind; `sectors`
  /// is not looked at. The images are the source's: shared storage, or copies made beforehand of
  /// disks that are only read.
  std::vector<DiskConfig> disks;
  /// One for each of its network cards, in the source's order; a `mac` must be the source's, but
  /// for a new identity, whose it is then.
  std::vector<NetConfig> nets;
  std::optional<ConsoleConfig> console;
  /// What the guest restarts with. Without a kernel, one that restarts stops instead, and says so:
  /// a source's path is not opened here.
  std::string kernel;
  std::string initrd;
  /// It is a copy, beside the guest it was or other copies: it gets a fresh generation id, which
  /// its kernel is told of when it starts here, and its network cards fresh addresses
  /// (52:xx:xx:xx:xx:xx, random: locally administered). A driver that runs already goes on with the
  /// address it has read; it reads the new one when it is bound again.
  bool new_identity = false;
};

}  // namespace migrate::vmm
