#include "adapters/kvm/msrs.hpp"

#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
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
constexpr std::uint32_t kMsrPerfGlobalCtrl = 0x38f;

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

}  // namespace

Result<std::vector<std::uint32_t>> msr_candidates(int kvm_fd) {
  abi::MsrList list{};
  // With no room the kernel says E2BIG and how much it needs.
  if (::ioctl(kvm_fd, abi::kGetMsrIndexList, &list) != 0 && errno != E2BIG) {
    return make_errno_error(ErrorCode::kIo, errno, "KVM refuses KVM_GET_MSR_INDEX_LIST");
  }
  const std::uint32_t listed = std::min(list.count, kIndicesMax);
  std::vector<std::uint32_t> buffer(1 + listed);
  buffer[0] = listed;
  MIGRATE_TRY(call(kvm_fd, abi::kGetMsrIndexList, buffer.data(), "KVM_GET_MSR_INDEX_LIST"));
  std::vector<std::uint32_t> indices(buffer.begin() + 1, buffer.end());
  const auto add = [&](std::uint32_t first, std::uint32_t last) {
    for (std::uint32_t i = first; i <= last; ++i) {
      if (std::find(indices.begin(), indices.end(), i) == indices.end()) indices.push_back(i);
    }
  };
  add(0x200, 0x20f);  // Variable memory type ranges.
  add(0x250, 0x250);  // Fixed ones: 64 KiB, 16 KiB, 4 KiB.
  add(0x258, 0x259);
  add(0x268, 0x26f);
  add(0x2ff, 0x2ff);  // Default type and enable; after the ranges.
  return indices;
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
  std::stable_partition(values.begin(), values.end(), [](const kvm_msr_entry& entry) {
    return entry.index != kMsrPerfGlobalCtrl;
  });
}

std::string msr_list(std::span<const std::uint32_t> indices) {
  std::string text;
  for (const std::uint32_t index : indices) {
    std::array<char, 16> hex{};
    std::snprintf(hex.data(), hex.size(), "0x%x", index);
    if (!text.empty()) text += ", ";
    text += hex.data();
  }
  return text;
}

}  // namespace migrate::kvm
