// Is a page all zero?
#pragma once

#include <cstddef>

namespace migrate {

/// `page`: kPageSize bytes. Stops soon after the first byte that is not zero. By the widest
/// registers that pay here.
[[nodiscard]] bool is_zero_page(const std::byte* page);

/// One way to do it, for tests; nullptr where the processor cannot.
using ZeroPageCheck = bool (*)(const std::byte* page);
[[nodiscard]] ZeroPageCheck portable_zero_page_check();
[[nodiscard]] ZeroPageCheck avx2_zero_page_check();

}  // namespace migrate
