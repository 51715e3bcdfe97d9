// The demo guest's program: goes to demo::kProgram, which is also where it begins.
#pragma once

#include <span>

namespace migrate::vmm::demo {

[[nodiscard]] std::span<const unsigned char> image();

}  // namespace migrate::vmm::demo
