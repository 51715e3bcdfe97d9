#include "dirtylog/vcpu_ring.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

namespace migrate {
namespace {

Error not_of_this_vm(int error) {
  return make_errno_error(ErrorCode::kInvalidArgument, error, "cannot map the dirty ring of a vCPU")
      .advise("check that the vCPU is of the VM on which the ring was enabled");
}

}  // namespace

Result<VcpuRing> VcpuRing::map(int vcpu_fd, std::uint32_t entries) {
  const off_t offset = KVM_DIRTY_LOG_PAGE_OFFSET * ::sysconf(_SC_PAGESIZE);
  void* const first = ::mmap(nullptr, entries * sizeof(kvm_dirty_gfn), PROT_READ | PROT_WRITE,
                             MAP_SHARED, vcpu_fd, offset);
  if (first == MAP_FAILED) return not_of_this_vm(errno);
  VcpuRing ring(static_cast<kvm_dirty_gfn*>(first), entries);
  // A vCPU without a ring, or with a smaller one, is mapped all the same: the first access would be
  // a SIGBUS. Kernels that cannot say so (before 5.14) answer EINVAL.
  if (::madvise(first, entries * sizeof(kvm_dirty_gfn), MADV_POPULATE_WRITE) != 0 &&
      errno != EINVAL) {
    return not_of_this_vm(errno);
  }
  return ring;
}

VcpuRing::~VcpuRing() {
  if (first_ != nullptr) ::munmap(first_, entries_ * sizeof(kvm_dirty_gfn));
}

}  // namespace migrate
