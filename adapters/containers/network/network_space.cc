#include "adapters/containers/network/network_space.hpp"

#include <fcntl.h>
#include <sched.h>

#include <cerrno>
#include <thread>

#include "base/guarded.hpp"
#include "base/start_thread.hpp"

namespace migrate::containers {

Result<Fd> open_network(const std::string& path) {
  const char* const own = "/proc/thread-self/ns/net";
  Fd space(::open(path.empty() ? own : path.c_str(), O_RDONLY | O_CLOEXEC));
  if (space) return space;
  return make_errno_error(errno == EACCES ? ErrorCode::kPermission : ErrorCode::kNotFound, errno,
                          "there is no network namespace " + path)
      .advise("ip netns add NAME");
}

Status in_network(int space, const std::function<Status()>& act) {
  Status done;
  std::thread thread;
  MIGRATE_TRY(start_thread(thread, "mig-network", [&] {
    if (::setns(space, CLONE_NEWNET) != 0) {
      done = make_errno_error(ErrorCode::kPermission, errno,
                              "the tree's network namespace cannot be entered");
      return;
    }
    done = guarded(act);
  }));
  thread.join();
  return done;
}

}  // namespace migrate::containers
