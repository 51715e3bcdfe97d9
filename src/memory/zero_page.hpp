// Is a page all zero?
#pragma once

#include <cstddef>

namespace migrate {

/// `page`: kPageSize bytes, aligned to 8. Stops at the first byte that is not zero.
[[nodiscard]] bool is_zero_page(const std::byte* page);

}  // namespace migrate
