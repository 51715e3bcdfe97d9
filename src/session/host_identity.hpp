// What this host is called, and random bytes for names and secrets.
#pragma once

#include <span>
#include <string>

#include "session/handover.hpp"

namespace migrate::session {

/// The kernel's boot id; all zero where it cannot be read.
[[nodiscard]] BootId this_boot();
[[nodiscard]] std::string host_name();
/// "6.12.0 x86_64", for reports.
[[nodiscard]] std::string kernel_name();
/// From the kernel's generator. Ends the process where there is none (Linux before 3.17).
void fill_random(std::span<std::byte> bytes);

}  // namespace migrate::session
