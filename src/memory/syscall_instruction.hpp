// Where another process has a system call instruction.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <cstddef>
#include <cstdint>

#include "migrate/result.hpp"

namespace migrate {

/// Copies `bytes` of memory of process or thread `id`; false unless all of it could be.
bool read_foreign(pid_t id, std::uint64_t address, void* into, std::size_t bytes);

/// Address of a `syscall` instruction of thread `tid`, stopped with `registers`: the one it is in,
/// else one of the vDSO, else any in executable memory. kUnsupported where there is none.
Result<std::uint64_t> find_syscall_instruction(pid_t tid, const user_regs_struct& registers);

}  // namespace migrate
