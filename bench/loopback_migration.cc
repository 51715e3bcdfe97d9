#include "bench/loopback_migration.hpp"

#include <atomic>
#include <cstring>
#include <optional>
#include <thread>

#include "bench/runtime_folder.hpp"

namespace migrate::bench {
namespace {

const std::string& runtime_folder() {
  // Static: it goes when the program gives up, too.
  static const RuntimeFolder folder;
  return folder.path();
}

class WillingHost final : public Incoming::Host {
 public:
  Status on_described(const GuestDescription&) override { return {}; }
  Status on_ready() override { return {}; }
  void on_started() override {}
  void on_memory(Memory, const std::string&) override {}
};

void touch(const vmm::Vmm& guest) {
  for (const KvmMemorySlot& slot : guest.kvm_vm().slots) {
    for (std::uint64_t at = 0; at < slot.bytes; at += kPageSize) {
      // Adds nothing, and at once: the guest may be running.
      std::atomic_ref(reinterpret_cast<std::uint64_t&>(slot.host[at])).fetch_or(0);
    }
  }
}

double guest_cpu_ms(const vmm::Vmm& guest) {
  const vmm::GuestStats stats = must(guest.stats());
  double sum = 0;
  for (const vmm::VcpuStats& vcpu : stats.vcpus) sum += vcpu.cpu_ms;
  return sum;
}

void check_arrived(const LoopbackSetup& setup, const OutgoingResult& sent,
                   const IncomingResult& received, const vmm::Vmm* guest) {
  if (sent.report.error) give_up("the source: " + sent.report.error->to_text());
  if (received.report.error) give_up("the target: " + received.report.error->to_text());
  if (sent.outcome != Outcome::kDone || guest == nullptr) give_up("the guest did not arrive");
  const auto expected = setup.paused ? vmm::VmmState::kPaused : vmm::VmmState::kRunning;
  if (guest->state() != expected) {
    give_up("the guest arrived " + std::string(vmm::to_string(guest->state())));
  }
  if (must(guest->stats()).verify_errors != 0) give_up("the guest found errors in its memory");
}

}  // namespace

std::span<std::byte> memory_of(const vmm::Vmm& guest) {
  const auto& slots = guest.kvm_vm().slots;
  std::size_t bytes = 0;
  for (const KvmMemorySlot& slot : slots) {
    // One mapping, in one or two slots.
    if (slot.host != slots.front().host + bytes) give_up("the guest's memory is in several places");
    bytes += slot.bytes;
  }
  return {slots.front().host, bytes};
}

std::shared_ptr<vmm::Vmm> make_guest(const LoopbackSetup& setup) {
  vmm::VmmConfig config;
  config.name = "bench";
  config.memory_bytes = setup.memory_bytes;
  config.vcpus = setup.vcpus;
  config.workload = must(vmm::parse_workload(setup.guest));
  std::shared_ptr<vmm::Vmm> guest = must(vmm::Vmm::create(config));
  // Also for a guest that will stand: it has begun, and has written what it writes first.
  must(guest->resume());
  std::this_thread::sleep_for(setup.warm_up);
  if (setup.paused) must(guest->pause());
  if (setup.touched) touch(*guest);
  return guest;
}

LoopbackRun migrate_over_loopback(const LoopbackSetup& setup) {
  return move_guest(setup, make_guest(setup));
}

LoopbackRun move_guest(const LoopbackSetup& setup, const std::shared_ptr<vmm::Vmm>& from) {
  static const std::unique_ptr<Link> loopback = make_loopback_link();
  const Ends ends = (setup.link != nullptr ? *setup.link : *loopback).open();

  vmm::VmmSourceHooks from_hooks(from);
  vmm::VmmTargetHooks to_hooks;
  WillingHost host;
  IncomingOptions incoming_options;
  incoming_options.runtime_dir = runtime_folder();
  auto target_guest = make_kvm_target(from->kvm_vm().kvm_fd, to_hooks);
  if (setup.wrap_target) target_guest = setup.wrap_target(std::move(target_guest));
  Incoming incoming(std::move(target_guest), incoming_options, host);
  Outgoing outgoing(must(make_kvm_source(from->kvm_vm(), from_hooks)), setup.options);

  const WarmMemory warm(setup.warm_bytes);
  const double cpu_before = cpu_seconds();
  const double guest_before = guest_cpu_ms(*from);
  std::optional<IncomingResult> received;
  std::optional<OutgoingResult> sent;
  {
    std::jthread target([&] { received.emplace(incoming.run(*ends.acceptor)); });
    sent.emplace(outgoing.run(*ends.connector));
    // A source that failed early has not always told the target.
    if (sent->outcome != Outcome::kDone) incoming.cancel();
  }
  const std::shared_ptr<vmm::Vmm> to = to_hooks.vmm();
  check_arrived(setup, *sent, *received, to.get());
  LoopbackRun run;
  run.cpu_s = cpu_seconds() - cpu_before - (guest_cpu_ms(*to) - guest_before) / 1000;
  run.source = std::move(sent->report);
  run.target = std::move(received->report);
  if (setup.compare) {
    const auto sent_memory = memory_of(*from);
    const auto received_memory = memory_of(*to);
    if (sent_memory.size() != received_memory.size() ||
        std::memcmp(sent_memory.data(), received_memory.data(), sent_memory.size()) != 0) {
      give_up("memory arrived changed");
    }
  }
  to->stop();
  return run;
}

}  // namespace migrate::bench
