#include "adapters/kvm/vmm/devices/tap.hpp"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/log.hpp"

namespace migrate::vmm {
namespace {

constexpr const char* kDevice = "/dev/net/tun";

Result<Fd> open_device() {
  Fd fd(::open(kDevice, O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (fd) return fd;
  if (errno == EACCES || errno == EPERM) {
    return make_errno_error(ErrorCode::kPermission, errno, std::string("cannot open ") + kDevice)
        .advise("run as root, or give this user access to it");
  }
  return make_errno_error(ErrorCode::kUnsupported, errno, std::string("cannot open ") + kDevice)
      .advise("load the kernel module tun");
}

Error cannot_attach(const std::string& name) {
  const int error = errno;
  const auto failed = [&](ErrorCode code, const std::string& remedy) {
    return make_errno_error(code, error, "cannot use the network interface " + name).advise(remedy);
  };
  switch (error) {
    case EPERM:
    case EACCES:
      return failed(ErrorCode::kPermission, "make it this user's: ip tuntap add dev " + name +
                                                " mode tap user USER, or run as root");
    case EBUSY:
      return failed(ErrorCode::kBusy, "another process has it open; give each guest its own");
    case EINVAL:
      return failed(ErrorCode::kInvalidArgument,
                    "give a tap interface of one queue: ip tuntap add dev NAME mode tap");
    default:
      return failed(ErrorCode::kIo, "");
  }
}

}  // namespace

Result<Tap> Tap::open(const std::string& name) {
  if (name.empty() || name.size() >= IFNAMSIZ) {
    return make_error(ErrorCode::kInvalidArgument,
                      "'" + name + "' is no name of a network interface")
        .advise("names have 1 to 15 characters");
  }
  // Whoever may make interfaces would make one by attaching to it.
  if (::if_nametoindex(name.c_str()) == 0) {
    return make_errno_error(ErrorCode::kNotFound, errno, "there is no network interface " + name)
        .advise("make it: ip tuntap add dev " + name + " mode tap user USER, then put it into a " +
                "bridge and set it up");
  }
  MIGRATE_ASSIGN(Fd fd, open_device());
  ifreq request{};
  std::memcpy(request.ifr_name, name.data(), name.size());
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) return cannot_attach(name);
  const int header_bytes = kPacketHeaderBytes;
  if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &header_bytes) != 0 ||
      ::ioctl(fd.get(), TUNSETOFFLOAD, 0) != 0) {
    return cannot_attach(name);
  }
  return Tap(std::move(fd), name);
}

// The number stays taken, so that whoever still polls it does not come upon another's descriptor.
void Tap::close() {
  const Fd nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (nothing && ::dup3(nothing.get(), fd_.get(), O_CLOEXEC) >= 0) return;
  log_line(LogLevel::kWarning,
           "the network interface " + name_ +
               " stays in use until this process ends: " + std::strerror(errno));
}

}  // namespace migrate::vmm
