// Capture and load of the state of 1, 8 and 64 vCPUs (created, not running) by the adapter's own
// parts and order: one thread beside several, and beside what the adapter chooses.
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "adapters/kvm/cpu_model.hpp"
#include "adapters/kvm/cpuid.hpp"
#include "adapters/kvm/parallel.hpp"
#include "adapters/kvm/state_codec.hpp"
#include "adapters/kvm/vcpu_state.hpp"
#include "adapters/kvm/vm_state.hpp"
#include "base/fd.hpp"
#include "bench/measuring.hpp"

namespace migrate::bench {
namespace {

using kvm::Part;

constexpr const char* kUsage =
    "usage: vcpu_state [--vcpus N]... [--repeats N] [--json]\n"
    "  --vcpus    may be given more than once [1, 8 and 64]\n"
    "  --repeats  of each capture and load [100]\n";

struct Settings {
  std::vector<unsigned> vcpus;
  unsigned repeats = 100;
  bool json = false;
};

struct Way {
  const char* name;
  std::size_t threads;  ///< 0: what the adapter chooses.
  Samples save_ms, load_ms;
};

struct Comparison {
  unsigned vcpus = 0;
  std::size_t msrs = 0;
  std::size_t bytes = 0;  ///< Of all vCPUs' sections.
  std::vector<Way> ways;
};

int must_call(int result, const char* what) {
  if (result < 0) give_up(std::string("KVM refuses ") + what);
  return result;
}

/// A VM with an irqchip where there is one, and vCPUs with this host's CPUID.
class Vm {
 public:
  explicit Vm(unsigned vcpus) : kvm_(::open("/dev/kvm", O_RDWR | O_CLOEXEC)) {
    if (!kvm_) give_up("/dev/kvm does not open");
    vm_ = Fd(must_call(::ioctl(kvm_.get(), KVM_CREATE_VM, 0), "KVM_CREATE_VM"));
    irqchip_ = ::ioctl(vm_.get(), KVM_CREATE_IRQCHIP, 0) == 0;
    const kvm::Cpuid cpuid = must(kvm::supported_cpuid(kvm_.get()));
    for (unsigned i = 0; i < vcpus; ++i) {
      vcpus_.emplace_back(must_call(::ioctl(vm_.get(), KVM_CREATE_VCPU, i), "KVM_CREATE_VCPU"));
      must(kvm::set_vcpu_cpuid(vcpus_.back().get(), cpuid));
    }
    caps_ = kvm::vcpu_caps(vm_.get(), irqchip_);
    kvm::enable_whole_events(vm_.get(), caps_);
  }

  [[nodiscard]] int vcpu(std::size_t i) const { return vcpus_[i].get(); }
  [[nodiscard]] const kvm::VcpuCaps& caps() const { return caps_; }
  [[nodiscard]] kvm::VmParts parts() const { return {vm_.get(), irqchip_, false}; }
  [[nodiscard]] KvmVm description() const {
    KvmVm vm;
    vm.kvm_fd = kvm_.get();
    vm.vm_fd = vm_.get();
    for (const Fd& fd : vcpus_) vm.vcpu_fds.push_back(fd.get());
    vm.irqchip = irqchip_;
    return vm;
  }

 private:
  Fd kvm_, vm_;
  bool irqchip_ = false;
  std::vector<Fd> vcpus_;
  kvm::VcpuCaps caps_;
};

struct State {
  kvm::VmState vm;
  std::vector<kvm::VcpuState> vcpus;
};

void save(const Vm& from, std::span<const std::uint32_t> msrs, std::size_t threads, State& state) {
  must(kvm::in_runs(kvm::save_order(), [&](std::span<const Part> run) -> Status {
    if (kvm::of_vm(run.front())) {
      for (const Part part : run) MIGRATE_TRY(kvm::save_part(part, from.parts(), state.vm));
      return {};
    }
    const auto one = [&](std::size_t i) -> Status {
      std::vector<std::uint32_t> unreadable;
      for (const Part part : run) {
        MIGRATE_TRY(
            kvm::save_part(part, from.vcpu(i), from.caps(), msrs, state.vcpus[i], unreadable));
      }
      return {};
    };
    return kvm::for_each_vcpu(state.vcpus.size(), one, threads);
  }));
}

void load(const Vm& into, const State& state, std::size_t threads) {
  kvm::LoadContext context;
  context.caps = into.caps();
  context.source_clock = state.vm.clock;
  must(kvm::in_runs(kvm::load_order(), [&](std::span<const Part> run) -> Status {
    if (kvm::of_vm(run.front())) {
      for (const Part part : run) {
        MIGRATE_TRY(kvm::load_part(part, into.parts(), state.vm, context.target_clock));
      }
      return {};
    }
    const auto one = [&](std::size_t i) -> Status {
      kvm::LoadNotes notes;
      for (const Part part : run) {
        MIGRATE_TRY(kvm::load_part(part, into.vcpu(i), context, state.vcpus[i], notes));
      }
      return {};
    };
    return kvm::for_each_vcpu(state.vcpus.size(), one, threads);
  }));
}

double time_ms(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}

Comparison compare(unsigned vcpus, unsigned repeats) {
  const Vm source(vcpus);
  const Vm target(vcpus);
  const kvm::CpuModel model = must(kvm::read_cpu_model(source.description()));
  Comparison comparison;
  comparison.vcpus = vcpus;
  comparison.msrs = model.msrs.size();
  const std::size_t cores = std::max(2U, std::thread::hardware_concurrency());
  comparison.ways = {
      {"one thread", 1, {}, {}}, {"all cores", cores, {}, {}}, {"adapter", 0, {}, {}}};
  State state;
  state.vcpus.resize(vcpus);
  for (kvm::VcpuState& vcpu : state.vcpus) kvm::reserve(vcpu, source.caps(), model.msrs.size());
  // In turns, so that what else the machine does meets all alike; the first turn warms up.
  for (unsigned i = 0; i <= repeats; ++i) {
    for (Way& way : comparison.ways) {
      const double save_ms = time_ms([&] { save(source, model.msrs, way.threads, state); });
      const double load_ms = time_ms([&] { load(target, state, way.threads); });
      if (i == 0) continue;
      way.save_ms.add(save_ms);
      way.load_ms.add(load_ms);
    }
  }
  for (const kvm::VcpuState& vcpu : state.vcpus) comparison.bytes += kvm::encode(vcpu).size();
  return comparison;
}

void print_table(const Comparison& comparison) {
  std::printf("\n%u vCPU%s, %zu MSRs each, %zu bytes in all; ms %12s %9s %9s %9s\n",
              comparison.vcpus, comparison.vcpus == 1 ? "" : "s", comparison.msrs, comparison.bytes,
              "save", "p99", "load", "p99");
  for (const Way& way : comparison.ways) {
    std::printf("  %-44s %9.3f %9.3f %9.3f %9.3f\n", way.name, way.save_ms.median(),
                way.save_ms.percentile(99), way.load_ms.median(), way.load_ms.percentile(99));
  }
}

void print_json(const std::vector<Comparison>& comparisons) {
  std::printf("{\"schema\":\"migrate-bench-vcpu-state\",\"version\":1,\"host\":%s,\"guests\":[",
              host_json().c_str());
  for (std::size_t i = 0; i < comparisons.size(); ++i) {
    const Comparison& comparison = comparisons[i];
    std::printf("%s{\"vcpus\":%u,\"msrs\":%zu,\"bytes\":%zu,\"ways\":[", i == 0 ? "" : ",",
                comparison.vcpus, comparison.msrs, comparison.bytes);
    for (std::size_t j = 0; j < comparison.ways.size(); ++j) {
      const Way& way = comparison.ways[j];
      std::printf(
          "%s{\"way\":%s,\"save_ms\":{\"p50\":%f,\"p99\":%f},\"load_ms\":{\"p50\":%f,\"p99\":%f}}",
          j == 0 ? "" : ",", quoted(way.name).c_str(), way.save_ms.median(),
          way.save_ms.percentile(99), way.load_ms.median(), way.load_ms.percentile(99));
    }
    std::printf("]}");
  }
  std::printf("]}\n");
}

Settings parse(Arguments arguments) {
  Settings settings;
  while (arguments.next()) {
    if (arguments.name() == "--json") {
      settings.json = true;
    } else if (arguments.name() == "--vcpus") {
      settings.vcpus.push_back(arguments.count());
    } else if (arguments.name() == "--repeats") {
      settings.repeats = arguments.count();
    } else {
      arguments.misunderstood();
    }
  }
  if (settings.vcpus.empty()) settings.vcpus = {1, 8, 64};
  return settings;
}

int run(const Settings& settings) {
  std::vector<Comparison> comparisons;
  if (!settings.json) std::printf("%s\n", host_text().c_str());
  for (const unsigned vcpus : settings.vcpus) {
    comparisons.push_back(compare(vcpus, settings.repeats));
    if (!settings.json) print_table(comparisons.back());
  }
  if (settings.json) print_json(comparisons);
  return 0;
}

}  // namespace
}  // namespace migrate::bench

int main(int argc, char** argv) {
  return migrate::bench::run(migrate::bench::parse({argc, argv, migrate::bench::kUsage}));
}
