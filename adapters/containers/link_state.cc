#include "adapters/containers/link_state.hpp"

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/fd.hpp"

namespace migrate::containers {
namespace {

Error link_error(const std::string& name, int error) {
  if (error == ENODEV) {
    return make_errno_error(ErrorCode::kNotFound, error, "there is no network interface " + name)
        .advise("name one of this host's (ip link)");
  }
  const bool forbidden = error == EPERM || error == EACCES;
  return make_errno_error(forbidden ? ErrorCode::kPermission : ErrorCode::kIo, error,
                          "the network interface " + name + " cannot be used");
}

/// `change` gives the flags to set; the same ones for a look.
template <typename Change>
Result<bool> with_flags(const std::string& name, Change change) {
  ifreq request{};
  if (name.empty() || name.size() >= sizeof(request.ifr_name)) return link_error(name, ENODEV);
  std::memcpy(request.ifr_name, name.data(), name.size());
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return link_error(name, errno);
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return link_error(name, errno);
  const auto before = static_cast<unsigned short>(request.ifr_flags);
  const auto wanted = static_cast<unsigned short>(change(before));
  request.ifr_flags = static_cast<short>(wanted);
  if (wanted != before && ::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) {
    return link_error(name, errno);
  }
  return (wanted & IFF_UP) != 0;
}

}  // namespace

Status set_link(const std::string& name, bool up) {
  MIGRATE_TRY(with_flags(name, [up](unsigned flags) {
    return up ? flags | static_cast<unsigned>(IFF_UP) : flags & ~static_cast<unsigned>(IFF_UP);
  }));
  return {};
}

Result<bool> link_is_up(const std::string& name) {
  return with_flags(name, [](unsigned flags) { return flags; });
}

}  // namespace migrate::containers
