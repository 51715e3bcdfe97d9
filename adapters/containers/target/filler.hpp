// The filler: a process of its own that serves the tree's page faults from the staging and fills
// its memory. It is the only one that reads the userfaultfds, and has one thread: what a process
// gives up is never filled again, because nothing is under way when it says so; and whoever else
// dies, no page is lost that is staged.
#pragma once

#include <sys/types.h>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

struct FillerHandle {
  Fd socket;      ///< To the filler; when the last copy is closed it is on its own.
  pid_t pid = 0;  ///< Not a child of this process: init reaps it.
};

/// Forks it. It keeps nothing of this process's but the socket, blocks every signal that can be,
/// and ends by itself: at kQuit, at kClosed, and when this process is gone - then once all is
/// filled, or at once after killing a tree whose memory will never be complete.
[[nodiscard]] Result<FillerHandle> launch_filler();

}  // namespace migrate::containers
