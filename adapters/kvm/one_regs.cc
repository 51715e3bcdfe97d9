#include "adapters/kvm/one_regs.hpp"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>

#include "adapters/kvm/kvm_abi.hpp"
#include "adapters/kvm/kvm_call.hpp"

namespace migrate::kvm {
namespace {

struct List {
  abi::RegList head{kOneRegsMax};
  std::array<std::uint64_t, kOneRegsMax> ids;
};
static_assert(offsetof(List, ids) == sizeof(abi::RegList));

kvm_one_reg request(std::uint64_t id, std::uint64_t& value) {
  return {id, reinterpret_cast<std::uintptr_t>(&value)};
}

}  // namespace

Status read_one_regs(int vcpu_fd, std::vector<OneReg>& regs) {
  regs.clear();
  List list;
  if (::ioctl(vcpu_fd, abi::kGetRegList, &list) != 0) {
    // A kernel that has registers by number only for other processors.
    if (errno == ENOTTY || errno == EINVAL) return {};
    return make_errno_error(ErrorCode::kIo, errno, "KVM refuses KVM_GET_REG_LIST");
  }
  for (std::size_t i = 0; i < std::min<std::size_t>(list.head.count, kOneRegsMax); ++i) {
    const std::uint64_t id = list.ids[i];
    if ((id & KVM_REG_SIZE_MASK) != KVM_REG_SIZE_U64) {
      return make_error(ErrorCode::kUnsupported,
                        "KVM lists a register of a size this version does not know")
          .advise("use a newer version of migrate with this kernel");
    }
    OneReg reg{id, 0};
    const kvm_one_reg get = request(id, reg.value);
    MIGRATE_TRY(call(vcpu_fd, KVM_GET_ONE_REG, &get, "KVM_GET_ONE_REG"));
    regs.push_back(reg);
  }
  return {};
}

Status write_one_regs(int vcpu_fd, std::span<const OneReg> regs) {
  for (OneReg reg : regs) {
    const kvm_one_reg set = request(reg.id, reg.value);
    MIGRATE_TRY(call(vcpu_fd, KVM_SET_ONE_REG, &set, "KVM_SET_ONE_REG"));
  }
  return {};
}

}  // namespace migrate::kvm
