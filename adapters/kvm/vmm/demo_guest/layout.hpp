// What the VMM and the demo guest agree on: where things lie in guest memory, and which ports there
// are. Freestanding: also compiled into the guest.
//
//   page tables, program, stacks, control block, counters   first 2 MiB ("system area")
//   rings and buffers of network cards,                     the "tables", as large as needed
//   expected generations, hashes of a file's pages
//   data pages: the writers' sets, then all others          the rest
//
// Pages are counted by index: over all memory, without the hole below 4 GiB.
#pragma once

#include <cstddef>
#include <cstdint>

namespace migrate::vmm::demo {

inline constexpr std::uint64_t kPage = 4096;
inline constexpr std::uint64_t kLargePage = 2ull << 20;  ///< The guest maps itself with these.
inline constexpr std::uint64_t kWordsPerPage = kPage / 8;

/// Memory above 3 GiB begins at 4 GiB: KVM's own pages and the APICs lie between.
inline constexpr std::uint64_t kLowMemoryMax = 3ull << 30;
inline constexpr std::uint64_t kHighMemoryBase = 4ull << 30;
inline constexpr std::uint64_t kMemoryMin = 8ull << 20;
/// Page directories for this much fit between kPageTables and kStacks (64 + 1 for the hole).
inline constexpr std::uint64_t kMemoryMax = 64ull << 30;
inline constexpr std::uint32_t kVcpusMax = 64;

// Addresses in the system area. Page 0 stays unused, so that a null pointer's damage is seen.
inline constexpr std::uint64_t kControlBlock = 0x1000;
inline constexpr std::uint64_t kCounters = 0x4000;
inline constexpr std::uint64_t kCardCounters = 0x8000;
inline constexpr std::uint64_t kProgram = 0x20000;
inline constexpr std::uint64_t kProgramMax = 0x20000;  ///< Bytes.
inline constexpr std::uint64_t kPageTables = 0x80000;
inline constexpr std::uint64_t kStacks = 0x100000;
inline constexpr std::uint64_t kStackBytes = 0x4000;
inline constexpr std::uint64_t kTables = 0x200000;
static_assert(kStacks + kVcpusMax * kStackBytes <= kTables);
static_assert(kPageTables + (2 + (kMemoryMax >> 30) + 1) * kPage <= kStacks);
static_assert(kProgram + kProgramMax <= kPageTables);

/// Registers of network cards, a page each (virtio 1.2, section 4.2), in the hole below 4 GiB.
inline constexpr std::uint64_t kCardRegisters = 0xd000'0000;
inline constexpr std::uint64_t kCardRegisterBytes = 0x1000;
inline constexpr std::uint32_t kCardsMax = 8;
inline constexpr std::uint32_t kCardAddressesMax = 8;

// Ports. Each OUT leaves the guest.
inline constexpr std::uint16_t kPortMessage = 0xe9;  ///< One byte of text.
inline constexpr std::uint16_t kPortWait = 0x510;    ///< u32: sleep that many us, or less.
inline constexpr std::uint16_t kPortReport = 0x514;  ///< u32: an ErrorKind was found.
inline constexpr std::uint16_t kPortStop = 0x518;    ///< u32: the guest ends.

enum class WorkKind : std::uint32_t {
  kIdle = 0,
  kCounter = 1,
  kWriter = 2,
  kReader = 3,
  kVerifier = 4,
  kResponder = 5,
};

/// Which page of its set a writer takes next.
enum class Pattern : std::uint32_t {
  kUniform = 0,  ///< Any, equally likely.
  kSweep = 1,    ///< One after the other.
  kZipf = 2,     ///< The page of rank r with a likelihood of about 1/r.
  kBurst = 3,    ///< As kUniform; four times the rate for the first quarter of each second.
};

/// What data pages hold at the start; see fill.hpp.
enum class Fill : std::uint32_t { kZero = 0, kText = 1, kRandom = 2, kMixed = 3, kFile = 4 };

/// What a self-check found.
enum class ErrorKind : std::uint64_t {
  kNone = 0,
  kFill = 1,       ///< A page no one writes is not what it was filled with.
  kStale = 2,      ///< A written page has another generation than the writer last put there.
  kMisplaced = 3,  ///< A written page carries another page's number.
  kCorrupt = 4,    ///< A written page's stamp is not one.
  kRegisters = 5,  ///< A register the guest set once has changed.
  kClock = 6,      ///< The time stamp counter went back.
  kCard = 7,       ///< A network card's rings or buffers are not what they were left as.
};

/// What one vCPU does, in pages by index.
struct VcpuPlan {
  WorkKind kind = WorkKind::kIdle;
  Pattern pattern = Pattern::kUniform;
  std::uint64_t rate_bytes_per_s = 0;  ///< 0: unbound.
  std::uint64_t set_first = 0;
  std::uint64_t set_pages = 0;
  std::uint64_t generations = 0;  ///< Address of a writer's expected generations, u32 a page.
  std::uint64_t share_first = 0;  ///< What it checks in its spare time, beside its own set.
  std::uint64_t share_pages = 0;
};

/// An address, as on the wire; of IPv4 the first four bytes.
struct CardAddress {
  std::uint8_t version = 0;  ///< 4, 6, or 0 for none.
  std::uint8_t bytes[16] = {};
};

/// A network card and the vCPU that drives it.
struct CardPlan {
  std::uint32_t vcpu = 0;
  std::uint32_t present = 0;
  std::uint64_t registers = 0;  ///< Address.
  std::uint64_t memory = 0;     ///< Address of a CardMemory (card_memory.hpp).
  std::uint8_t mac[6] = {};
  CardAddress addresses[kCardAddressesMax] = {};
};

/// Written by the VMM before the guest runs; the guest only reads it.
struct ControlBlock {
  static constexpr std::uint64_t kMagic = 0x3174'7365'7567'6d64;  ///< "dmguest1".
  std::uint64_t magic = kMagic;
  std::uint32_t vcpus = 0;
  std::uint32_t tsc_khz = 0;
  std::uint64_t seed = 0;
  Fill fill = Fill::kZero;
  std::uint32_t reserved = 0;
  std::uint64_t pages = 0;        ///< All of memory.
  std::uint64_t data_first = 0;   ///< First data page.
  std::uint64_t writers_end = 0;  ///< Data pages before this one lie in a writer's set.
  std::uint64_t file_hashes = 0;  ///< Address of a PageHash a page of memory, for Fill::kFile.
  VcpuPlan plans[kVcpusMax] = {};
  CardPlan cards[kCardsMax] = {};
};
static_assert(sizeof(ControlBlock) <= kCounters - kControlBlock);

/// Written by one vCPU, read by the VMM at any time. A cache line pair each.
struct alignas(128) VcpuCounters {
  std::uint64_t uptime_ticks = 0;  ///< Of the time stamp counter, since the guest's start.
  std::uint64_t last_tsc = 0;
  std::uint64_t work = 0;
  std::uint64_t pages_written = 0;
  std::uint64_t passes = 0;  ///< How often it has checked all it has to check.
  std::uint64_t errors = 0;
  ErrorKind first_kind = ErrorKind::kNone;
  std::uint64_t first_page = 0;
  std::uint64_t first_expected = 0;
  std::uint64_t first_found = 0;
};
static_assert(kCounters + kVcpusMax * sizeof(VcpuCounters) <= kCardCounters);

/// The same of a network card. Frames, each counted once.
struct alignas(128) CardCounters {
  std::uint64_t arp = 0;        ///< Requests for its addresses answered; so are the next four.
  std::uint64_t icmp = 0;       ///< Echo requests.
  std::uint64_t udp = 0;        ///< To the echo port.
  std::uint64_t ndp = 0;        ///< Neighbour solicitations.
  std::uint64_t icmpv6 = 0;     ///< Echo requests.
  std::uint64_t ignored = 0;    ///< For somebody else, or of a kind that is not answered.
  std::uint64_t malformed = 0;  ///< Broken: lengths, checksums, fields.
};
static_assert(kCardCounters + kCardsMax * sizeof(CardCounters) <= kProgram);

/// Where the page of this index lies in the guest's physical memory.
constexpr std::uint64_t address_of_page(std::uint64_t index) {
  const std::uint64_t offset = index * kPage;
  return offset < kLowMemoryMax ? offset : offset - kLowMemoryMax + kHighMemoryBase;
}

}  // namespace migrate::vmm::demo
