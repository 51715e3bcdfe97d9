// Bounds of everything variable on the wire. A reader refuses what is beyond them before it
// allocates; a writer refuses to make it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "migrate/memory.hpp"

namespace migrate::wire {

/// One batch is at most this many table entries: 2 MiB of content stays in a core's L2 cache.
inline constexpr std::size_t kBatchEntriesMax = 512;
inline constexpr std::size_t kBatchContentBytesMax = kBatchEntriesMax * kPageSize;

/// One SECTION_DATA: large enough that framing is nothing, small enough to interleave PING.
inline constexpr std::size_t kSectionChunkBytesMax = std::size_t{1} << 20;
/// SectionInfo's contract in guest.hpp.
inline constexpr std::size_t kSectionNameBytesMax = 64;

/// Regions in one record; a VM has tens, a large process tree thousands. More come in the REGIONS
/// of later rounds.
inline constexpr std::size_t kRegionsMax = 16384;
/// Pages of a 64-bit address space, so first + count never overflows and fits an entry's 56 bits.
inline constexpr std::uint64_t kPageNumberMax = (std::uint64_t{1} << 52);

/// Properties in HELLO: CPUID and MSR lists of some tens of KiB a kind, a handful of kinds.
inline constexpr std::size_t kPropertiesMax = 64;
inline constexpr std::size_t kPropertyBytesMax = std::size_t{512} << 10;
inline constexpr std::size_t kPropertiesBytesMax = std::size_t{1} << 20;  ///< All together.

/// NAME_MAX: guest names become file names; host names are at most 253 (RFC 1035).
inline constexpr std::size_t kNameBytesMax = 255;
/// An error's sentence, perhaps with a list of incompatible features; longer ones are clipped.
inline constexpr std::size_t kErrorMessageBytesMax = 4096;
inline constexpr std::size_t kErrorRemedyBytesMax = 1024;

/// One thread and socket each; 16 already fill 100 Gbit/s, so 64 has room for 400.
inline constexpr std::uint16_t kBulkLanesMax = 64;

/// vCPUs: KVM_MAX_VCPUS is 4096 on x86 (Linux 6.x), with room to grow.
inline constexpr std::uint32_t kVcpusMax = 65536;

/// HELLO: 16384 regions of 29 bytes, 1 MiB of properties, names. The only large record that a
/// stranger can make a listener read.
inline constexpr std::size_t kHelloBytesMax = std::size_t{2} << 20;
/// REGIONS: 16384 regions of 29 bytes and as many handles of 4.
inline constexpr std::size_t kRegionsBytesMax = std::size_t{1} << 20;
/// VOID: 1 MiB of bits names 32 GiB of memory.
inline constexpr std::size_t kVoidWordsMax = std::size_t{128} << 10;
/// A source comes back after a lost link within this, or not at all: longer than any outage that
/// somebody waits for.
inline constexpr std::uint32_t kResumeWindowMsMax = 86'400'000;
/// FORWARD: an Ethernet header, the smallest frame there is; and what IP can have in one, with room
/// for headers and tags.
inline constexpr std::size_t kForwardFrameBytesMin = 14;
inline constexpr std::size_t kForwardFrameBytesMax = 65'600;
/// A guest has no more network cards than this.
inline constexpr std::uint32_t kForwardCardsMax = 256;
/// DEMAND: a guest has so many vCPUs that fault at once; what is more goes in the next.
inline constexpr std::size_t kDemandsMax = 256;
/// Pages that are demanded, and sent, together: a huge page of 2 MiB is one batch.
inline constexpr std::uint32_t kGranulePagesMax = kBatchEntriesMax;
/// COMPLETE: vCPUs whose waiting is told.
inline constexpr std::size_t kStallsMax = 4096;
/// A record type this version does not know but may skip.
inline constexpr std::size_t kOptionalBytesMax = std::size_t{64} << 10;

}  // namespace migrate::wire
