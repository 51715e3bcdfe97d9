// Images as guests of a migration: one that leaves a file, and one that arrives in a file.
#pragma once

#include <memory>
#include <string>

#include "migrate/checkpoint.hpp"
#include "migrate/guest.hpp"
#include "migrate/image.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// The guest of an image, to be sent: its memory does not change, and it does at the target what it
/// did when it was taken. The file stays as it is, whatever becomes of the migration: who sends one
/// image twice has two guests. Errors as inspect_image().
[[nodiscard]] Result<std::unique_ptr<SourceGuest>> make_image_source(
    const std::string& path, const ImageSearch& search = {});

/// Takes a guest into a file: it appears there with start(), whole, and never runs. Its memory is
/// held in a temporary file of the same folder meanwhile, so that takes room twice. Post-copy is
/// not to be had. `options`: path, lanes and compress count.
[[nodiscard]] Result<std::unique_ptr<TargetGuest>> make_image_target(
    const CheckpointOptions& options);

}  // namespace migrate
