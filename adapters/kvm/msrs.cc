#include "adapters/kvm/msrs.hpp"

#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <cstddef>
#include <cstdio>

#include "adapters/kvm/kvm_abi.hpp"
#include "adapters/kvm/kvm_call.hpp"

namespace migrate::kvm {
namespace {

/// KVM takes fewer than 256 MSRs a call (MAX_IO_MSRS in its source).
constexpr std::size_t kBatch = 255;
/// Far above what a kernel lists (some hundred); bounds what we allocate for it.
constexpr std::uint32_t kIndicesMax = 4096;
constexpr std::uint32_t kMsrMcgCap = 0x179;
constexpr std::uint32_t kMsrMc0Ctl = 0x400;   ///< Four a bank: CTL, STATUS, ADDR, MISC.
constexpr std::uint32_t kMsrMc0Ctl2 = 0x280;  ///< One a bank, with MCG_CMCI_P.
constexpr std::uint64_t kMcgCmci = 1U << 10;
constexpr std::uint32_t kBanksMax = 32;  ///< KVM's own limit; beyond are other MSRs.

/// Which come before others when loading: 0, 1, 2.
int load_rank(std::uint32_t index) {
  switch (index) {
    case 0x8b:  // UCODE_REV
    case 0xce:  // PLATFORM_INFO
    case kMsrArchCapabilities:
    case 0x345:       // PERF_CAPABILITIES
    case 0xc0011029:  // DE_CFG
      return 0;
    case 0x38f:       // PERF_GLOBAL_CTRL
    case 0xc0000301:  // PERF_CNTR_GLOBAL_CTL of AMD
      return 2;
    default:
      // What VMX offers (VMX_BASIC to VMX_VMFUNC).
      return index >= 0x480 && index <= 0x491 ? 0 : 1;
  }
}

/// A kvm_msrs with room for a batch.
struct Batch {
  abi::Msrs head{};
  std::array<kvm_msr_entry, kBatch> entries;

  /// KVM_GET_MSRS or KVM_SET_MSRS of the first `count`: how many were done.
  Result<std::size_t> run(int vcpu_fd, unsigned long request, std::size_t count, const char* name) {
    head.count = static_cast<std::uint32_t>(count);
    MIGRATE_ASSIGN(const int done, call(vcpu_fd, request, this, name));
    return static_cast<std::size_t>(done);
  }
};
static_assert(offsetof(Batch, entries) == sizeof(abi::Msrs));

Result<std::vector<std::uint32_t>> index_list(int kvm_fd, unsigned long request, const char* name) {
  abi::MsrList list{};
  // With no room the kernel says E2BIG and how much it needs.
  if (::ioctl(kvm_fd, request, &list) != 0 && errno != E2BIG) {
    return make_errno_error(ErrorCode::kIo, errno, std::string("KVM refuses ") + name);
  }
  const std::uint32_t listed = std::min(list.count, kIndicesMax);
  std::vector<std::uint32_t> buffer(1 + listed);
  buffer[0] = listed;
  MIGRATE_TRY(call(kvm_fd, request, buffer.data(), name));
  return std::vector<std::uint32_t>(buffer.begin() + 1, buffer.end());
}

void add_range(std::vector<std::uint32_t>& indices, std::uint32_t first, std::uint32_t last) {
  for (std::uint32_t i = first; i <= last; ++i) {
    if (std::find(indices.begin(), indices.end(), i) == indices.end()) indices.push_back(i);
  }
}

}  // namespace

Result<std::vector<std::uint32_t>> msr_candidates(int kvm_fd) {
  MIGRATE_ASSIGN(auto indices, index_list(kvm_fd, abi::kGetMsrIndexList, "KVM_GET_MSR_INDEX_LIST"));
  add_range(indices, 0x200, 0x20f);  // Variable memory type ranges.
  add_range(indices, 0x250, 0x250);  // Fixed ones: 64 KiB, 16 KiB, 4 KiB.
  add_range(indices, 0x258, 0x259);
  add_range(indices, 0x268, 0x26f);
  add_range(indices, 0x2ff, 0x2ff);  // Default type and enable; after the ranges.
  return indices;
}

Result<std::optional<std::uint64_t>> machine_check_cap(int vcpu_fd) {
  std::vector<kvm_msr_entry> values;
  std::vector<std::uint32_t> unreadable;
  MIGRATE_TRY(read_msrs(vcpu_fd, {&kMsrMcgCap, 1}, values, unreadable));
  if (values.empty()) return std::optional<std::uint64_t>();
  return std::optional<std::uint64_t>(values.front().data);
}

Status add_machine_check_msrs(int vcpu_fd, std::vector<std::uint32_t>& indices) {
  MIGRATE_ASSIGN(const auto cap, machine_check_cap(vcpu_fd));
  const auto banks = static_cast<std::uint32_t>(cap.value_or(0) & 0xff);
  if (banks == 0 || banks > kBanksMax) return {};
  add_range(indices, kMsrMc0Ctl, kMsrMc0Ctl + 4 * banks - 1);
  if ((*cap & kMcgCmci) != 0) add_range(indices, kMsrMc0Ctl2, kMsrMc0Ctl2 + banks - 1);
  return {};
}

Result<std::vector<kvm_msr_entry>> feature_msrs(int kvm_fd) {
  std::vector<kvm_msr_entry> values;
  if (extension(kvm_fd, KVM_CAP_GET_MSR_FEATURES) == 0) return values;
  MIGRATE_ASSIGN(const auto indices, index_list(kvm_fd, abi::kGetMsrFeatureIndexList,
                                                "KVM_GET_MSR_FEATURE_INDEX_LIST"));
  std::vector<std::uint32_t> unreadable;
  MIGRATE_TRY(read_msrs(kvm_fd, indices, values, unreadable));
  return values;
}

Status read_msrs(int vcpu_fd, std::span<const std::uint32_t> indices,
                 std::vector<kvm_msr_entry>& values, std::vector<std::uint32_t>& unreadable) {
  Batch batch;
  while (!indices.empty()) {
    const std::size_t count = std::min(indices.size(), kBatch);
    for (std::size_t i = 0; i < count; ++i) batch.entries[i] = {indices[i], 0, 0};
    MIGRATE_ASSIGN(const std::size_t done,
                   batch.run(vcpu_fd, abi::kGetMsrs, count, "KVM_GET_MSRS"));
    for (std::size_t i = 0; i < done; ++i) values.push_back(batch.entries[i]);
    // KVM stops at the first it cannot read.
    if (done < count) unreadable.push_back(indices[done]);
    indices = indices.subspan(std::min(count, done + 1));
  }
  return {};
}

Status write_msrs(int vcpu_fd, std::span<const kvm_msr_entry> values,
                  std::vector<kvm_msr_entry>& refused) {
  Batch batch;
  while (!values.empty()) {
    const std::size_t count = std::min(values.size(), kBatch);
    for (std::size_t i = 0; i < count; ++i) batch.entries[i] = values[i];
    MIGRATE_ASSIGN(const std::size_t done,
                   batch.run(vcpu_fd, abi::kSetMsrs, count, "KVM_SET_MSRS"));
    if (done < count) refused.push_back(values[done]);
    values = values.subspan(std::min(count, done + 1));
  }
  return {};
}

void sort_for_loading(std::vector<kvm_msr_entry>& values) {
  std::stable_sort(values.begin(), values.end(),
                   [](const kvm_msr_entry& a, const kvm_msr_entry& b) {
                     return load_rank(a.index) < load_rank(b.index);
                   });
}

const kvm_msr_entry* find_msr(std::span<const kvm_msr_entry> values, std::uint32_t index) {
  const auto found = std::find_if(values.begin(), values.end(),
                                  [&](const kvm_msr_entry& entry) { return entry.index == index; });
  return found == values.end() ? nullptr : &*found;
}

std::string hex(std::uint64_t value) {
  std::array<char, 24> text{};
  std::snprintf(text.data(), text.size(), "0x%" PRIx64, value);
  return text.data();
}

std::string msr_list(std::span<const std::uint32_t> indices) {
  std::string text;
  for (const std::uint32_t index : indices) text += (text.empty() ? "" : ", ") + hex(index);
  return text;
}

}  // namespace migrate::kvm
