#include "adapters/containers/target/link_switch.hpp"

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/fd.hpp"

namespace migrate::containers {

Status put_link_up(const std::string& name) {
  const auto failed = [&](int error) {
    return make_errno_error(error == ENODEV ? ErrorCode::kNotFound : ErrorCode::kIo, error,
                            "the network interface " + name + " cannot be put up")
        .advise("see `ip link show " + name + "`");
  };
  ifreq request{};
  if (name.size() >= sizeof request.ifr_name) return failed(ENODEV);
  std::memcpy(request.ifr_name, name.c_str(), name.size() + 1);
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket || ::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return failed(errno);
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return failed(errno);
  return {};
}

}  // namespace migrate::containers
