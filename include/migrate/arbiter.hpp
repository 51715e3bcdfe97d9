// Arbiters that come with the library. The interface is in migrate/migration.hpp.
#pragma once

#include <memory>
#include <string>

#include "migrate/migration.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// An arbiter on storage that both hosts mount, such as an NFS export: one file a session in
/// `directory`, which must exist. Whoever is there first owns the session, for good; that is on
/// stable storage before acquire() returns, so acquire() takes as long as the storage's flush,
/// which adds to the downtime. Thread-safe. kNotFound when `directory` is none.
///
/// Files stay (a hundred bytes each): a source in doubt may ask long after. They may be deleted
/// once the guest's owner is known.
[[nodiscard]] Result<std::unique_ptr<Arbiter>> make_file_arbiter(std::string directory);

}  // namespace migrate
