#include "adapters/kvm/cpu_model.hpp"

#include <algorithm>
#include <string>

#include "adapters/kvm/kvm_call.hpp"
#include "adapters/kvm/msrs.hpp"
#include "adapters/kvm/trial_vm.hpp"
#include "adapters/kvm/vcpu_state.hpp"
#include "base/bytes.hpp"

namespace migrate::kvm {
namespace {

constexpr std::uint32_t kMsrsMax = 4096;
/// KVM's own limit is 4096 (KVM_MAX_VCPUS).
constexpr std::uint32_t kVcpusMax = 4096;

bool same(const kvm_cpuid_entry2& a, const kvm_cpuid_entry2& b) {
  return a.function == b.function && a.index == b.index && a.flags == b.flags && a.eax == b.eax &&
         a.ebx == b.ebx && a.ecx == b.ecx && a.edx == b.edx;
}

void put_list(ByteWriter& writer, const std::vector<std::uint32_t>& list) {
  writer.put(static_cast<std::uint32_t>(list.size()));
  writer.bytes(std::as_bytes(std::span<const std::uint32_t>(list)));
}

Error too_many(const ByteReader& reader, std::uint32_t count, const char* what) {
  return make_error(ErrorCode::kProtocol, "the CPU model claims " + std::to_string(count) + " " +
                                              what + " at byte " + std::to_string(reader.offset()));
}

Result<std::vector<std::uint32_t>> get_list(ByteReader& reader) {
  const auto count = reader.get<std::uint32_t>();
  if (count > kMsrsMax) return too_many(reader, count, "MSRs");
  const auto bytes = reader.bytes(std::size_t{count} * sizeof(std::uint32_t));
  std::vector<std::uint32_t> list(bytes.size() / sizeof(std::uint32_t));
  if (!list.empty()) std::memcpy(list.data(), bytes.data(), bytes.size());
  return list;
}

Result<std::vector<kvm_msr_entry>> get_msrs(ByteReader& reader) {
  const auto count = reader.get<std::uint32_t>();
  if (count > kMsrsMax) return too_many(reader, count, "MSRs");
  std::vector<kvm_msr_entry> entries;
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) {
    entries.push_back(reader.get<kvm_msr_entry>());
  }
  return entries;
}

void put_cpuid(ByteWriter& writer, const Cpuid& cpuid) {
  writer.put(static_cast<std::uint32_t>(cpuid.size()));
  for (const kvm_cpuid_entry2& entry : cpuid) writer.put(entry);
}

Result<Cpuid> get_cpuid(ByteReader& reader) {
  const auto count = reader.get<std::uint32_t>();
  if (count > kCpuidEntriesMax) return too_many(reader, count, "CPUID entries");
  Cpuid cpuid;
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) {
    cpuid.push_back(reader.get<kvm_cpuid_entry2>());
  }
  return cpuid;
}

/// vCPUs differ in little more than their APIC id: the first is given whole, of the others the
/// entries that differ from the first one's, by their places.
void put_vcpus(ByteWriter& writer, const std::vector<Cpuid>& vcpus) {
  writer.put(static_cast<std::uint32_t>(vcpus.size()));
  for (std::size_t i = 0; i < vcpus.size(); ++i) {
    const bool whole = i == 0 || vcpus[i].size() != vcpus[0].size();
    writer.put(std::uint32_t{whole ? 1U : 0U});
    if (whole) {
      put_cpuid(writer, vcpus[i]);
      continue;
    }
    std::vector<std::uint32_t> places;
    for (std::uint32_t j = 0; j < vcpus[i].size(); ++j) {
      if (!same(vcpus[i][j], vcpus[0][j])) places.push_back(j);
    }
    writer.put(static_cast<std::uint32_t>(places.size()));
    for (const std::uint32_t place : places) {
      writer.put(place);
      writer.put(vcpus[i][place]);
    }
  }
}

Result<Cpuid> get_vcpu(ByteReader& reader, const std::vector<Cpuid>& before) {
  const auto whole = reader.get<std::uint32_t>();
  if (whole != 0) return get_cpuid(reader);
  if (before.empty()) {
    return make_error(ErrorCode::kProtocol, "the CPU model has no first vCPU, at byte " +
                                                std::to_string(reader.offset()));
  }
  Cpuid cpuid = before.front();
  const auto count = reader.get<std::uint32_t>();
  if (count > cpuid.size()) return too_many(reader, count, "changed CPUID entries");
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) {
    const auto place = reader.get<std::uint32_t>();
    if (place >= cpuid.size()) return too_many(reader, place, "CPUID entries");
    cpuid[place] = reader.get<kvm_cpuid_entry2>();
  }
  return cpuid;
}

Result<std::vector<Cpuid>> get_vcpus(ByteReader& reader) {
  const auto count = reader.get<std::uint32_t>();
  if (count > kVcpusMax) return too_many(reader, count, "vCPUs");
  std::vector<Cpuid> vcpus;
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) {
    MIGRATE_ASSIGN(Cpuid cpuid, get_vcpu(reader, vcpus));
    vcpus.push_back(std::move(cpuid));
  }
  return vcpus;
}

Status read_msr_lists(const KvmVm& vm, CpuModel& model) {
  MIGRATE_ASSIGN(auto candidates, msr_candidates(vm.kvm_fd));
  MIGRATE_TRY(add_machine_check_msrs(vm.vcpu_fds.front(), candidates));
  std::vector<kvm_msr_entry> values;
  // Which MSRs exist is the same on all vCPUs of a VM; which are in use is not.
  MIGRATE_TRY(read_msrs(vm.vcpu_fds.front(), candidates, values, model.unreadable));
  for (const kvm_msr_entry& entry : values) model.msrs.push_back(entry.index);
  MIGRATE_ASSIGN(const auto features, feature_msrs(vm.kvm_fd));
  for (const kvm_msr_entry& feature : features) {
    const kvm_msr_entry* own = find_msr(values, feature.index);
    if (own != nullptr) model.feature_msrs.push_back(*own);
  }
  for (std::size_t i = 1; i < vm.vcpu_fds.size(); ++i) {
    std::vector<std::uint32_t> unreadable;
    MIGRATE_TRY(read_msrs(vm.vcpu_fds[i], model.msrs, values, unreadable));
  }
  for (const kvm_msr_entry& entry : values) {
    const bool known =
        std::find(model.in_use.begin(), model.in_use.end(), entry.index) != model.in_use.end();
    if (entry.data != 0 && !known) model.in_use.push_back(entry.index);
  }
  return {};
}

}  // namespace

Result<CpuModel> read_cpu_model(const KvmVm& vm) {
  if (vm.kvm_fd < 0 || vm.vm_fd < 0 || vm.vcpu_fds.empty()) {
    return make_error(ErrorCode::kInvalidArgument, "the VM has no descriptors");
  }
  CpuModel model;
  const VcpuCaps caps = vcpu_caps(vm.vm_fd, vm.irqchip);
  model.xsave_bytes = static_cast<std::uint32_t>(caps.xsave_bytes);
  MIGRATE_ASSIGN(model.supported, supported_cpuid(vm.kvm_fd));
  MIGRATE_TRY(read_msr_lists(vm, model));
  for (const int vcpu : vm.vcpu_fds) {
    MIGRATE_ASSIGN(Cpuid cpuid, vcpu_cpuid(vcpu));
    model.vcpus.push_back(std::move(cpuid));
  }
  if (!caps.get_tsc_khz) return model;
  MIGRATE_ASSIGN(const int khz, call(vm.vcpu_fds.front(), KVM_GET_TSC_KHZ, 0UL, "KVM_GET_TSC_KHZ"));
  model.tsc_khz = static_cast<std::uint32_t>(khz);
  model.host_tsc_khz = model.tsc_khz;
  // Where frequencies can be set, the guest's may not be the host's.
  if (caps.tsc_control) {
    MIGRATE_ASSIGN(const TrialVm trial, TrialVm::create(vm.kvm_fd, false));
    model.host_tsc_khz = trial.tsc_khz();
  }
  return model;
}

std::vector<std::byte> encode(const CpuModel& model) {
  std::vector<std::byte> bytes;
  ByteWriter writer(bytes);
  writer.put(model.tsc_khz);
  writer.put(model.host_tsc_khz);
  writer.put(model.xsave_bytes);
  put_list(writer, model.msrs);
  put_list(writer, model.unreadable);
  put_list(writer, model.in_use);
  writer.put(static_cast<std::uint32_t>(model.feature_msrs.size()));
  for (const kvm_msr_entry& entry : model.feature_msrs) writer.put(entry);
  put_cpuid(writer, model.supported);
  put_vcpus(writer, model.vcpus);
  return bytes;
}

Result<CpuModel> decode_cpu_model(std::span<const std::byte> bytes) {
  CpuModel model;
  ByteReader reader(bytes);
  model.tsc_khz = reader.get<std::uint32_t>();
  model.host_tsc_khz = reader.get<std::uint32_t>();
  model.xsave_bytes = reader.get<std::uint32_t>();
  MIGRATE_ASSIGN(model.msrs, get_list(reader));
  MIGRATE_ASSIGN(model.unreadable, get_list(reader));
  MIGRATE_ASSIGN(model.in_use, get_list(reader));
  MIGRATE_ASSIGN(model.feature_msrs, get_msrs(reader));
  MIGRATE_ASSIGN(model.supported, get_cpuid(reader));
  MIGRATE_ASSIGN(model.vcpus, get_vcpus(reader));
  MIGRATE_TRY(reader.finish("the CPU model"));
  return model;
}

}  // namespace migrate::kvm

namespace migrate {

Result<KvmCpuModel> capture_cpu_model(const KvmVm& vm) {
  MIGRATE_ASSIGN(const kvm::CpuModel model, kvm::read_cpu_model(vm));
  return KvmCpuModel{kvm::encode(model)};
}

}  // namespace migrate
