// The KVM adapter on processors other than x86-64: not there, and says so. What a vCPU's state is
// made of, its order and its clocks are all another's on each (KVM_GET_ONE_REG, the GIC's devices,
// CNTVOFF on arm64); nothing of this folder's other files carries over.
#include <string>

#include "migrate/kvm.hpp"
#include "migrate/kvm_cpu_baseline.hpp"

namespace migrate {
namespace {

Error not_here() {
  return make_error(ErrorCode::kUnsupported,
                    "KVM guests are moved on x86-64 only, and this is another processor")
      .advise("run source and target on x86-64 hosts");
}

class NoPages final : public PageSink {
 public:
  Status update_regions(const RegionDelta&) override { return not_here(); }
  Status write(const RegionId&, PageRange, std::span<const std::byte>) override {
    return not_here();
  }
  Status zero(const RegionId&, PageRange) override { return not_here(); }
  Status read(const RegionId&, PageRange, std::span<std::byte>) override { return not_here(); }
  std::span<std::byte> mapped(const RegionId&) override { return {}; }
};

/// prepare() refuses, so nothing else is asked of it.
class NoTarget final : public TargetGuest {
 public:
  Status prepare(const GuestDescription&) override { return not_here(); }
  PageSink& pages() override { return pages_; }
  Status load_state(StateReader&) override { return not_here(); }
  Result<std::chrono::nanoseconds> rehearse_load() override {
    return make_error(ErrorCode::kUnsupported, "loading is not rehearsed here");
  }
  Status acquire() override { return not_here(); }
  Status yield() override { return not_here(); }
  Status start(RunState) override { return not_here(); }
  void discard() override {}
  std::vector<FaultSource> fault_sources() override { return {}; }
  std::vector<int> vcpu_threads() override { return {}; }
  PacketSink* packet_sink() override { return nullptr; }

 private:
  NoPages pages_;
};

}  // namespace

Result<KvmCpuModel> capture_cpu_model(const KvmVm&) { return not_here(); }
Result<bool> complete_pending_exit(int, kvm_run*) { return not_here(); }
Result<KvmMachine> kvm_machine(const GuestDescription&) { return not_here(); }

Result<std::unique_ptr<SourceGuest>> make_kvm_source(KvmVm, KvmSourceHooks&, KvmSourceOptions) {
  return not_here();
}
std::unique_ptr<TargetGuest> make_kvm_target(int, KvmTargetHooks&, const KvmTargetOptions&) {
  return std::make_unique<NoTarget>();
}

// cpuid_of_baseline() is left out: CPUID's entries are no type there.
Result<KvmCpuBaseline> host_cpu_baseline(int) { return not_here(); }
Result<KvmCpuBaseline> common_cpu_baseline(const KvmCpuBaseline&, const KvmCpuBaseline&) {
  return not_here();
}
std::string to_text(const KvmCpuBaseline&) { return {}; }
Result<KvmCpuBaseline> parse_cpu_baseline(std::string_view) { return not_here(); }
Status set_baseline_msrs(int, const KvmCpuBaseline&) { return not_here(); }

}  // namespace migrate
