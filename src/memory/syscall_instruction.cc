#include "memory/syscall_instruction.hpp"

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "memory/process_maps.hpp"
#include "memory/process_status.hpp"

namespace migrate {

bool read_foreign(pid_t id, std::uint64_t address, void* into, std::size_t bytes) {
  const iovec here{into, bytes};
  const iovec there{reinterpret_cast<void*>(address), bytes};
  return ::process_vm_readv(id, &here, 1, &there, 1, 0) == static_cast<ssize_t>(bytes);
}

#if defined(__x86_64__)
namespace {

constexpr std::array<unsigned char, 2> kInstruction = {0x0f, 0x05};

/// Searched in one mapping: the C library's calls are all over its code.
constexpr std::uint64_t kSearchedMax = std::uint64_t{4} << 20;

std::optional<std::uint64_t> search(pid_t tid, const ProcessMapping& mapping) {
  std::vector<unsigned char> code(std::min(mapping.end - mapping.begin, kSearchedMax));
  if (!read_foreign(tid, mapping.begin, code.data(), code.size())) return std::nullopt;
  const auto at = std::search(code.begin(), code.end(), kInstruction.begin(), kInstruction.end());
  if (at == code.end()) return std::nullopt;
  return mapping.begin + static_cast<std::uint64_t>(at - code.begin());
}

}  // namespace

Result<std::uint64_t> find_syscall_instruction(pid_t tid, const user_regs_struct& registers) {
  std::array<unsigned char, 2> before{};
  if (static_cast<long>(registers.orig_rax) >= 0 &&
      read_foreign(tid, registers.rip - before.size(), before.data(), before.size()) &&
      before == kInstruction) {
    return registers.rip - before.size();
  }
  MIGRATE_ASSIGN(const std::string text, read_proc_file("/proc/" + std::to_string(tid) + "/maps"));
  MIGRATE_ASSIGN(std::vector<ProcessMapping> mappings, parse_process_maps(text));
  std::stable_partition(mappings.begin(), mappings.end(),
                        [](const ProcessMapping& mapping) { return mapping.name == "[vdso]"; });
  for (const ProcessMapping& mapping : mappings) {
    // The vsyscall page is emulated: nothing runs there.
    if (!mapping.executable || !mapping.readable || mapping.name == "[vsyscall]") continue;
    if (const auto found = search(tid, mapping)) return *found;
  }
  return make_error(
      ErrorCode::kUnsupported,
      "no system call instruction was found in the code of thread " + std::to_string(tid));
}
#endif

}  // namespace migrate
