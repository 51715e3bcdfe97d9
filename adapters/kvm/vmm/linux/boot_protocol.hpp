// Offsets and numbers of the Linux x86 boot protocol, from the kernel's
// Documentation/arch/x86/boot.rst and zero-page.rst.
#pragma once

#include <cstddef>
#include <cstdint>

namespace migrate::vmm::linux_boot {

// The setup header, at the same place in the file and in the boot parameters ("zero page").
inline constexpr std::size_t kSetupSectors = 0x1f1;    ///< u8
inline constexpr std::size_t kPayloadUnits = 0x1f4;    ///< u32, of 16 bytes
inline constexpr std::size_t kVideoMode = 0x1fa;       ///< u16
inline constexpr std::size_t kBootFlag = 0x1fe;        ///< u16
inline constexpr std::size_t kHeaderEnd = 0x201;       ///< u8, counted from kHeaderMagic
inline constexpr std::size_t kHeaderMagic = 0x202;     ///< u32
inline constexpr std::size_t kVersion = 0x206;         ///< u16
inline constexpr std::size_t kLoader = 0x210;          ///< u8
inline constexpr std::size_t kLoadFlags = 0x211;       ///< u8
inline constexpr std::size_t kCode32Start = 0x214;     ///< u32
inline constexpr std::size_t kInitrd = 0x218;          ///< u32
inline constexpr std::size_t kInitrdBytes = 0x21c;     ///< u32
inline constexpr std::size_t kCommandLine = 0x228;     ///< u32
inline constexpr std::size_t kInitrdMax = 0x22c;       ///< u32, the last byte it may have
inline constexpr std::size_t kAlignment = 0x230;       ///< u32
inline constexpr std::size_t kRelocatable = 0x234;     ///< u8
inline constexpr std::size_t kExtendedFlags = 0x236;   ///< u16
inline constexpr std::size_t kCommandLineMax = 0x238;  ///< u32, without its last zero
inline constexpr std::size_t kPreferred = 0x258;       ///< u64
inline constexpr std::size_t kInitBytes = 0x260;       ///< u32
inline constexpr std::size_t kHeaderKnownEnd = 0x264;  ///< Of what protocol 2.12 has and we read.
/// Where the header ends at most: other parameters follow.
inline constexpr std::size_t kHeaderEndMax = 0x290;

// Of the boot parameters alone.
inline constexpr std::size_t kRsdp = 0x070;         ///< u64
inline constexpr std::size_t kE820Entries = 0x1e8;  ///< u8
inline constexpr std::size_t kE820Table = 0x2d0;    ///< {u64 address, u64 bytes, u32 type} each
inline constexpr std::size_t kE820EntryBytes = 20;
inline constexpr std::size_t kE820EntriesMax = 128;
inline constexpr std::size_t kParamsBytes = 4096;

inline constexpr std::uint16_t kBootFlagValue = 0xaa55;
inline constexpr std::uint32_t kHeaderMagicValue = 0x5372'6448;  ///< "HdrS"
inline constexpr std::uint16_t kVersionMin = 0x020c;             ///< 2.12, Linux 3.8
inline constexpr std::uint8_t kLoaderUndefined = 0xff;
inline constexpr std::uint8_t kLoadFlagHigh = 1;
inline constexpr std::uint16_t kExtendedFlag64 = 1;
inline constexpr std::uint16_t kVideoNormal = 0xffff;
inline constexpr std::uint64_t kEntry64 = 0x200;  ///< From where the kernel is loaded.
inline constexpr std::uint64_t kSectorBytes = 512;

inline constexpr std::uint32_t kE820Ram = 1;
inline constexpr std::uint32_t kE820Reserved = 2;

// What the 64-bit entry wants in CS and in DS, ES, SS.
inline constexpr std::uint16_t kCodeSelector = 0x10;
inline constexpr std::uint16_t kDataSelector = 0x18;

}  // namespace migrate::vmm::linux_boot
