// The lock that says which host writes a disk image.
#pragma once

#include <string>

#include "migrate/result.hpp"

namespace migrate::vmm {

/// Locks the whole file by an open file description lock, which ends with the last descriptor of
/// that description and works across hosts on file systems that have such locks (NFS since 4.0,
/// CephFS, GFS2, OCFS2). `exclusive`: nobody else may hold it; otherwise any number may that are
/// not exclusive. Harmless when held. kBusy at once when it cannot be had, naming the process that
/// holds it where this host knows.
Status lock_disk(int fd, const std::string& path, bool exclusive);
Status unlock_disk(int fd, const std::string& path);

}  // namespace migrate::vmm
