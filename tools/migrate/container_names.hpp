// Which process tree a name means: of the container runtimes whose state is on this host.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::tool {

struct ContainerProcess {
  pid_t root = 0;
  std::string name;     ///< What the migration calls it; fit for check_guest_name().
  std::string runtime;  ///< "runc", "crun", "podman"; empty for a bare process.
};

/// Where runtimes keep their state, under a root that tests set.
struct RuntimeFolders {
  std::filesystem::path root = "/";
};

/// `text`: "pid:PID", or "container:NAME" (the name or id that runc, crun or podman has for it).
/// kInvalidArgument for anything else; kNotFound, with where was looked.
[[nodiscard]] Result<ContainerProcess> find_container(const std::string& text,
                                                      const RuntimeFolders& folders = {});
/// Whether `text` means a process tree, by its prefix.
[[nodiscard]] bool names_container(const std::string& text);

}  // namespace migrate::tool
