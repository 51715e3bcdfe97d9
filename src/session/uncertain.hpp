// The handle on a guest whose owner is not known, over the driver that did not find out.
#pragma once

#include <memory>

#include "migrate/migration.hpp"
#include "session/source_driver.hpp"

namespace migrate::session {

/// `driver`'s guest must outlive the handle.
[[nodiscard]] std::unique_ptr<UncertainHandover> make_uncertain(
    std::unique_ptr<SourceDriver> driver);

}  // namespace migrate::session
