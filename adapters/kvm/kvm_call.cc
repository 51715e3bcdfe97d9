#include "adapters/kvm/kvm_call.hpp"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <string>

namespace migrate::kvm {

Result<int> call(int fd, unsigned long request, const void* argument, const char* name) {
  const int result = ::ioctl(fd, request, argument);
  if (result < 0) {
    return make_errno_error(ErrorCode::kIo, errno, std::string("KVM refuses ") + name);
  }
  return result;
}

Result<int> call(int fd, unsigned long request, unsigned long argument, const char* name) {
  return call(fd, request, reinterpret_cast<const void*>(argument), name);
}

int extension(int fd, int capability) {
  return std::max(0, ::ioctl(fd, KVM_CHECK_EXTENSION, capability));
}

}  // namespace migrate::kvm
