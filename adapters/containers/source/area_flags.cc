#include "adapters/containers/source/area_flags.hpp"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>

namespace migrate::containers {
namespace {

constexpr char kIterator[] = "task_vma";
/// What the program leaves below its stack's end, in order: begin, end, flags.
constexpr std::int16_t kRecordBytes = 24;
static_assert(sizeof(AreaFlag) == kRecordBytes);

Error unsupported(const std::string& what, int error) {
  return make_errno_error(ErrorCode::kUnsupported, error, what);
}

/// Offset in bytes of a member of a structure, also in unnamed structures and unions in it.
std::optional<std::uint32_t> offset_of(const btf* types, std::uint32_t type,
                                       const std::string& name) {
  const btf_type* const outer = btf__type_by_id(types, type);
  if (outer == nullptr || !btf_is_composite(outer)) return std::nullopt;
  const btf_member* const members = btf_members(outer);
  for (std::uint16_t i = 0; i < btf_vlen(outer); ++i) {
    const std::uint32_t at = btf_member_bit_offset(outer, i) / 8;
    const std::string found = btf__name_by_offset(types, members[i].name_off);
    if (found == name) return at;
    if (!found.empty()) continue;
    if (const auto inner = offset_of(types, members[i].type, name)) return at + *inner;
  }
  return std::nullopt;
}

struct Offsets {
  std::int16_t begin = 0;
  std::int16_t end = 0;
  std::int16_t flags = 0;
};

std::optional<Offsets> find_offsets() {
  btf* const types = btf__load_vmlinux_btf();
  if (types == nullptr) return std::nullopt;
  const std::int32_t area = btf__find_by_name_kind(types, "vm_area_struct", BTF_KIND_STRUCT);
  std::optional<Offsets> found;
  if (area > 0) {
    const auto type = static_cast<std::uint32_t>(area);
    const auto begin = offset_of(types, type, "vm_start");
    const auto end = offset_of(types, type, "vm_end");
    const auto flags = offset_of(types, type, "vm_flags");
    if (begin && end && flags) {
      found = {static_cast<std::int16_t>(*begin), static_cast<std::int16_t>(*end),
               static_cast<std::int16_t>(*flags)};
    }
  }
  btf__free(types);
  return found;
}

constexpr unsigned kRegisterMask = 0xf;

bpf_insn instruction(std::uint8_t code, unsigned to, unsigned from, std::int16_t offset,
                     std::int32_t value) {
  bpf_insn one{};
  one.code = code;
  one.dst_reg = to & kRegisterMask;
  one.src_reg = from & kRegisterMask;
  one.off = offset;
  one.imm = value;
  return one;
}
bpf_insn load(unsigned to, unsigned from, std::int16_t offset) {
  return instruction(BPF_LDX | BPF_MEM | BPF_DW, to, from, offset, 0);
}
bpf_insn store(std::int16_t offset, unsigned from) {
  return instruction(BPF_STX | BPF_MEM | BPF_DW, BPF_REG_10, from, offset, 0);
}
bpf_insn copy(unsigned to, unsigned from) {
  return instruction(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0);
}
bpf_insn set(unsigned to, std::int32_t value) {
  return instruction(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value);
}

/// For each mapping: writes one record. The kernel calls it with {meta, task, vma}, 8 bytes each,
/// and once at the end without a vma.
Result<Fd> load_program(const Offsets& at) {
  constexpr std::int16_t kVma = 16;
  constexpr std::int16_t kToTheEnd = 12;  // Instructions, from the next one on.
  const std::array program{
      copy(BPF_REG_6, BPF_REG_1),
      load(BPF_REG_7, BPF_REG_6, kVma),
      instruction(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_7, 0, kToTheEnd, 0),
      load(BPF_REG_2, BPF_REG_7, at.begin),
      store(-24, BPF_REG_2),
      load(BPF_REG_2, BPF_REG_7, at.end),
      store(-16, BPF_REG_2),
      load(BPF_REG_2, BPF_REG_7, at.flags),
      store(-8, BPF_REG_2),
      load(BPF_REG_1, BPF_REG_6, 0),
      load(BPF_REG_1, BPF_REG_1, 0),  // meta->seq
      copy(BPF_REG_2, BPF_REG_10),
      instruction(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, -kRecordBytes),
      set(BPF_REG_3, kRecordBytes),
      instruction(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_seq_write),
      set(BPF_REG_0, 0),
      instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  };
  const int function = libbpf_find_vmlinux_btf_id(kIterator, BPF_TRACE_ITER);
  if (function < 0) return unsupported("the kernel has no iterator over mappings", -function);
  bpf_prog_load_opts options{};
  options.sz = sizeof options;
  options.expected_attach_type = BPF_TRACE_ITER;
  options.attach_btf_id = static_cast<__u32>(function);
  // The kernel lets only programs under such a licence read its structures: these instructions may
  // be used under either, beside this project's.
  const int fd = bpf_prog_load(BPF_PROG_TYPE_TRACING, "migrate_areas", "Dual MIT/GPL",
                               program.data(), program.size(), &options);
  if (fd < 0) return unsupported("the kernel does not take the program that lists mappings", -fd);
  return Fd(fd);
}

Result<Fd> iterate(int program, pid_t pid) {
  bpf_iter_link_info of_task;
  std::memset(&of_task, 0, sizeof of_task);
  of_task.task.tid = static_cast<__u32>(pid);
  bpf_link_create_opts options{};
  options.sz = sizeof options;
  options.iter_info = &of_task;
  options.iter_info_len = sizeof of_task;
  const Fd link(bpf_link_create(program, 0, BPF_TRACE_ITER, &options));
  if (!link) return unsupported("the mappings of a process cannot be listed", errno);
  Fd list(bpf_iter_create(link.get()));
  if (!list) return unsupported("the mappings of a process cannot be listed", errno);
  return list;
}

}  // namespace

Result<AreaFlags> AreaFlags::create() {
  // What it has to say is told by the errors.
  libbpf_set_print([](libbpf_print_level, const char*, va_list) { return 0; });
  const auto offsets = find_offsets();
  if (!offsets) return unsupported("the kernel does not describe its mappings (BTF)", 0);
  MIGRATE_ASSIGN(Fd program, load_program(*offsets));
  return AreaFlags(std::move(program));
}

Result<std::vector<AreaFlag>> AreaFlags::read(pid_t pid) const {
  MIGRATE_ASSIGN(const Fd list, iterate(program_.get(), pid));
  std::vector<AreaFlag> areas;
  std::array<AreaFlag, 170> some;  // Less than a page.
  std::size_t rest = 0;            // Bytes of a record that has come in part.
  for (;;) {
    auto* const bytes = reinterpret_cast<std::byte*>(some.data());
    const ssize_t got = ::read(list.get(), bytes + rest, sizeof some - rest);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) return unsupported("the mappings of a process cannot be read", errno);
    if (got == 0) return areas;
    const std::size_t have = rest + static_cast<std::size_t>(got);
    const std::size_t whole = have / sizeof(AreaFlag);
    areas.insert(areas.end(), some.begin(), some.begin() + static_cast<std::ptrdiff_t>(whole));
    rest = have % sizeof(AreaFlag);
    std::memmove(bytes, bytes + whole * sizeof(AreaFlag), rest);
  }
}

}  // namespace migrate::containers
