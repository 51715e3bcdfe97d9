// Checkpoints, restores and images as JSON (docs/report.md) and as text.
#pragma once

#include <string>

#include "migrate/checkpoint.hpp"
#include "migrate/image.hpp"
#include "migrate/restore.hpp"
#include "report_json.hpp"

namespace migrate::tool {

/// Every key of docs/report.md, "Checkpoints", whatever the outcome.
[[nodiscard]] Json to_json(const CheckpointReport& report);
[[nodiscard]] std::string checkpoint_text(const Json& report);

[[nodiscard]] Json to_json(const RestoreReport& report);
[[nodiscard]] std::string restore_text(const Json& report);

[[nodiscard]] Json to_json(const ImageInfo& info);
[[nodiscard]] std::string image_text(const ImageInfo& info);

}  // namespace migrate::tool
