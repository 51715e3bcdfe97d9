// Whether this kernel keeps the soft-dirty bit.
#pragma once

#include "migrate/result.hpp"

namespace migrate {

/// Tried on a page of this process, without clearing any bit: kUnsupported, with the reason, where
/// a page that was just written does not show as soft-dirty.
[[nodiscard]] Status soft_dirty_supported();

}  // namespace migrate
