// One call of KVM with an error in words.
#pragma once

#include "migrate/result.hpp"

namespace migrate::kvm {

/// ioctl(fd, request, argument); `name` is the request's, for the message. The result is ioctl's.
Result<int> call(int fd, unsigned long request, const void* argument, const char* name);
Result<int> call(int fd, unsigned long request, unsigned long argument, const char* name);

/// KVM_CHECK_EXTENSION, 0 where the answer is an error. `fd` is /dev/kvm's or a VM's.
[[nodiscard]] int extension(int fd, int capability);

}  // namespace migrate::kvm
