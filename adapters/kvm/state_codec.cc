#include "adapters/kvm/state_codec.hpp"

#include <cstring>
#include <limits>

#include "base/bytes.hpp"

namespace migrate::kvm {
namespace {

/// Pinned numbers.
enum class Kind : std::uint16_t {
  kMpState = 1,
  kRegs = 2,
  kSregs = 3,
  kSregs2 = 4,
  kXsave = 5,
  kXcrs = 6,
  kDebugRegs = 7,
  kLapic = 8,
  kMsrs = 9,
  kEvents = 10,
  kNested = 11,
  kTsc = 12,
  kOneRegs = 13,
  kMcgCap = 14,
  kPicMaster = 32,
  kPicSlave = 33,
  kIoapic = 34,
  kPit = 35,
  kClock = 36,
};

struct BlockHeader {
  Kind kind;
  std::uint16_t zero;
  std::uint32_t length;
};
static_assert(sizeof(BlockHeader) == 8);

struct TscBlock {
  std::uint32_t khz;
  std::uint32_t has_offset;
  std::int64_t offset;
};
static_assert(sizeof(TscBlock) == 16);

struct ClockBlock {
  std::uint64_t clock_ns;
  std::uint64_t realtime_ns;
  std::uint64_t host_tsc;
  std::uint32_t has_host_tsc;
  std::uint32_t kernel_realtime;
  std::uint32_t host_tsc_khz;
  std::uint32_t zero;
};
static_assert(sizeof(ClockBlock) == 40);

void put_block(ByteWriter& writer, Kind kind, std::span<const std::byte> body) {
  writer.put(BlockHeader{kind, 0, static_cast<std::uint32_t>(body.size())});
  writer.bytes(body);
}

template <typename T>
void put_struct(ByteWriter& writer, Kind kind, const T& body) {
  put_block(writer, kind, std::as_bytes(std::span<const T, 1>(&body, 1)));
}

template <typename T>
void put_optional(ByteWriter& writer, Kind kind, const std::optional<T>& body) {
  if (body) put_struct(writer, kind, *body);
}

Error bad_block(const std::string& section, Kind kind, std::size_t offset,
                const std::string& what) {
  return make_error(ErrorCode::kProtocol, "state section " + section + ": block of kind " +
                                              std::to_string(static_cast<unsigned>(kind)) +
                                              " at byte " + std::to_string(offset) + " " + what);
}

/// One block as it was found.
struct Block {
  Kind kind{};
  std::size_t offset = 0;
  std::span<const std::byte> body;
};

/// Splits a section into blocks, no kind of which may come twice.
Result<std::vector<Block>> split(const std::string& section, std::span<const std::byte> bytes) {
  std::vector<Block> blocks;
  ByteReader reader(bytes);
  while (reader.remaining() > 0) {
    const std::size_t offset = reader.offset();
    const auto header = reader.get<BlockHeader>();
    MIGRATE_TRY(reader.check("state section " + section));
    if (header.zero != 0) return bad_block(section, header.kind, offset, "has unknown flags");
    const auto body = reader.bytes(header.length);
    MIGRATE_TRY(reader.check("state section " + section));
    for (const Block& other : blocks) {
      if (other.kind == header.kind) return bad_block(section, header.kind, offset, "comes twice");
    }
    blocks.push_back({header.kind, offset, body});
  }
  return blocks;
}

template <typename T>
Status take(const std::string& section, const Block& block, T& into) {
  if (block.body.size() != sizeof(T)) {
    return bad_block(section, block.kind, block.offset,
                     "has " + std::to_string(block.body.size()) + " bytes instead of " +
                         std::to_string(sizeof(T)));
  }
  std::memcpy(&into, block.body.data(), sizeof(T));
  return {};
}

template <typename T>
Status take(const std::string& section, const Block& block, std::optional<T>& into) {
  return take(section, block, into.emplace());
}

Status take_msrs(const std::string& section, const Block& block, VcpuState& state) {
  if (block.body.size() % sizeof(kvm_msr_entry) != 0) {
    return bad_block(section, block.kind, block.offset, "does not hold whole MSRs");
  }
  state.msrs.resize(block.body.size() / sizeof(kvm_msr_entry));
  if (!state.msrs.empty()) std::memcpy(state.msrs.data(), block.body.data(), block.body.size());
  return {};
}

Status take_one_regs(const std::string& section, const Block& block, VcpuState& state) {
  if (block.body.size() % sizeof(OneReg) != 0 || block.body.size() / sizeof(OneReg) > kOneRegsMax) {
    return bad_block(section, block.kind, block.offset, "does not hold whole registers");
  }
  state.one_regs.resize(block.body.size() / sizeof(OneReg));
  if (!block.body.empty()) {
    std::memcpy(state.one_regs.data(), block.body.data(), block.body.size());
  }
  return {};
}

Status take_xsave(const std::string& section, const Block& block, VcpuState& state) {
  if (block.body.size() < abi::kXsaveBytesMin) {
    return bad_block(section, block.kind, block.offset, "is shorter than an XSAVE area");
  }
  state.xsave.assign(block.body.begin(), block.body.end());
  return {};
}

Status take_nested(const std::string& section, const Block& block, VcpuState& state) {
  kvm_nested_state header{};
  if (block.body.size() >= sizeof header) std::memcpy(&header, block.body.data(), sizeof header);
  if (header.size != block.body.size()) {
    return bad_block(section, block.kind, block.offset, "has a size that is not its own");
  }
  state.nested.assign(block.body.begin(), block.body.end());
  return {};
}

Status take_tsc(const std::string& section, const Block& block, VcpuState& state) {
  TscBlock tsc{};
  MIGRATE_TRY(take(section, block, tsc));
  state.tsc_khz = tsc.khz;
  if (tsc.has_offset != 0) state.tsc_offset = tsc.offset;
  return {};
}

Status take_clock(const std::string& section, const Block& block, VmState& state) {
  ClockBlock clock{};
  MIGRATE_TRY(take(section, block, clock));
  state.clock.clock_ns = clock.clock_ns;
  state.clock.realtime_ns = clock.realtime_ns;
  state.clock.host_tsc = clock.host_tsc;
  state.clock.has_host_tsc = clock.has_host_tsc != 0;
  state.clock.kernel_realtime = clock.kernel_realtime != 0;
  state.host_tsc_khz = clock.host_tsc_khz;
  return {};
}

/// An interrupt controller, which must say of itself that it is that one.
Status take_chip(const std::string& section, const Block& block, std::uint32_t id,
                 std::optional<kvm_irqchip>& chip) {
  MIGRATE_TRY(take(section, block, chip));
  if (chip->chip_id == id) return {};
  return bad_block(section, block.kind, block.offset, "is another interrupt controller");
}

Status take_vcpu_block(const std::string& section, const Block& block, VcpuState& state) {
  switch (block.kind) {
    case Kind::kMpState:
      return take(section, block, state.mp_state);
    case Kind::kRegs:
      return take(section, block, state.regs);
    case Kind::kSregs:
      return take(section, block, state.sregs);
    case Kind::kSregs2:
      return take(section, block, state.sregs2);
    case Kind::kXsave:
      return take_xsave(section, block, state);
    case Kind::kXcrs:
      return take(section, block, state.xcrs);
    case Kind::kDebugRegs:
      return take(section, block, state.debugregs);
    case Kind::kLapic:
      return take(section, block, state.lapic);
    case Kind::kMsrs:
      return take_msrs(section, block, state);
    case Kind::kEvents:
      return take(section, block, state.events);
    case Kind::kNested:
      return take_nested(section, block, state);
    case Kind::kTsc:
      return take_tsc(section, block, state);
    case Kind::kOneRegs:
      return take_one_regs(section, block, state);
    case Kind::kMcgCap:
      return take(section, block, state.mcg_cap);
    default:
      return bad_block(section, block.kind, block.offset, "is unknown to this version");
  }
}

Status take_vm_block(const std::string& section, const Block& block, VmState& state) {
  switch (block.kind) {
    case Kind::kPicMaster:
      return take_chip(section, block, KVM_IRQCHIP_PIC_MASTER, state.pic_master);
    case Kind::kPicSlave:
      return take_chip(section, block, KVM_IRQCHIP_PIC_SLAVE, state.pic_slave);
    case Kind::kIoapic:
      return take_chip(section, block, KVM_IRQCHIP_IOAPIC, state.ioapic);
    case Kind::kPit:
      return take(section, block, state.pit);
    case Kind::kClock:
      return take_clock(section, block, state);
    default:
      return bad_block(section, block.kind, block.offset, "is unknown to this version");
  }
}

Status require(const std::string& section, const std::vector<Block>& blocks,
               std::initializer_list<Kind> any_of) {
  for (const Block& block : blocks) {
    for (const Kind kind : any_of) {
      if (block.kind == kind) return {};
    }
  }
  return make_error(ErrorCode::kProtocol,
                    "state section " + section + " lacks its block of kind " +
                        std::to_string(static_cast<unsigned>(*any_of.begin())));
}

}  // namespace

std::vector<std::byte> encode(const VcpuState& state) {
  std::vector<std::byte> bytes;
  bytes.reserve(4096 + state.xsave.size() + state.nested.size() +
                state.msrs.size() * sizeof(kvm_msr_entry));
  ByteWriter writer(bytes);
  put_struct(writer, Kind::kMpState, state.mp_state);
  put_struct(writer, Kind::kRegs, state.regs);
  put_optional(writer, Kind::kSregs, state.sregs);
  put_optional(writer, Kind::kSregs2, state.sregs2);
  put_block(writer, Kind::kXsave, state.xsave);
  put_optional(writer, Kind::kXcrs, state.xcrs);
  put_optional(writer, Kind::kDebugRegs, state.debugregs);
  put_optional(writer, Kind::kLapic, state.lapic);
  put_block(writer, Kind::kMsrs, std::as_bytes(std::span<const kvm_msr_entry>(state.msrs)));
  put_struct(writer, Kind::kEvents, state.events);
  if (!state.nested.empty()) put_block(writer, Kind::kNested, state.nested);
  if (!state.one_regs.empty()) {
    put_block(writer, Kind::kOneRegs, std::as_bytes(std::span<const OneReg>(state.one_regs)));
  }
  put_optional(writer, Kind::kMcgCap, state.mcg_cap);
  put_struct(writer, Kind::kTsc,
             TscBlock{state.tsc_khz, state.tsc_offset ? 1U : 0U, state.tsc_offset.value_or(0)});
  return bytes;
}

std::vector<std::byte> encode(const VmState& state) {
  std::vector<std::byte> bytes;
  ByteWriter writer(bytes);
  put_optional(writer, Kind::kPicMaster, state.pic_master);
  put_optional(writer, Kind::kPicSlave, state.pic_slave);
  put_optional(writer, Kind::kIoapic, state.ioapic);
  put_optional(writer, Kind::kPit, state.pit);
  put_struct(writer, Kind::kClock,
             ClockBlock{state.clock.clock_ns, state.clock.realtime_ns, state.clock.host_tsc,
                        state.clock.has_host_tsc ? 1U : 0U, state.clock.kernel_realtime ? 1U : 0U,
                        state.host_tsc_khz, 0});
  return bytes;
}

Result<VcpuState> decode_vcpu(std::span<const std::byte> bytes) {
  const std::string section(kVcpuSectionPrefix);
  VcpuState state;
  MIGRATE_ASSIGN(const auto blocks, split(section, bytes));
  for (const Block& block : blocks) MIGRATE_TRY(take_vcpu_block(section, block, state));
  for (const Kind kind :
       {Kind::kMpState, Kind::kRegs, Kind::kXsave, Kind::kMsrs, Kind::kEvents, Kind::kTsc}) {
    MIGRATE_TRY(require(section, blocks, {kind}));
  }
  MIGRATE_TRY(require(section, blocks, {Kind::kSregs, Kind::kSregs2}));
  return state;
}

Result<VmState> decode_vm(std::span<const std::byte> bytes) {
  const std::string section(kVmSection);
  VmState state;
  MIGRATE_ASSIGN(const auto blocks, split(section, bytes));
  for (const Block& block : blocks) MIGRATE_TRY(take_vm_block(section, block, state));
  MIGRATE_TRY(require(section, blocks, {Kind::kClock}));
  return state;
}

}  // namespace migrate::kvm
