#include "vmm_guest.hpp"

namespace migrate::tool {

namespace {

Error not_here() {
  return make_error(ErrorCode::kBusy, "the guest has not arrived yet")
      .advise("try again when it has (`migrate status`)");
}

}  // namespace

VmmGuest::VmmGuest(std::shared_ptr<vmm::Vmm> vmm)
    : facts_(facts_of(vmm->config())), vmm_(std::move(vmm)) {}

void VmmGuest::set_vmm(std::shared_ptr<vmm::Vmm> vmm) {
  MutexLock lock(mutex_);
  vmm_ = std::move(vmm);
}

std::shared_ptr<vmm::Vmm> VmmGuest::vmm() const {
  MutexLock lock(mutex_);
  return vmm_;
}

GuestState VmmGuest::state() const {
  const auto guest = vmm();
  if (!guest) return GuestState::kPaused;
  switch (guest->state()) {
    case vmm::VmmState::kPaused:
      return GuestState::kPaused;
    case vmm::VmmState::kRunning:
      return GuestState::kRunning;
    case vmm::VmmState::kStopped:
      return GuestState::kStopped;
    case vmm::VmmState::kLeft:
      return GuestState::kLeft;
    case vmm::VmmState::kFailed:
      return GuestState::kCrashed;
  }
  return GuestState::kCrashed;
}

std::optional<Error> VmmGuest::failure() const {
  const auto guest = vmm();
  return guest ? guest->failure() : std::nullopt;
}

int VmmGuest::ended_fd() const {
  const auto guest = vmm();
  return guest ? guest->ended_fd() : -1;
}

Status VmmGuest::pause() {
  const auto guest = vmm();
  if (!guest) return not_here();
  if (auto paused = guest->pause(); !paused) return std::move(paused).error();
  return {};
}

Status VmmGuest::resume() {
  const auto guest = vmm();
  return guest ? guest->resume() : Status(not_here());
}

void VmmGuest::stop() {
  if (const auto guest = vmm()) guest->stop();
}

Result<Json> VmmGuest::stats() const {
  const auto guest = vmm();
  if (!guest) return not_here();
  MIGRATE_ASSIGN(const vmm::GuestStats stats, guest->stats());
  return to_json(stats);
}

Result<ConsoleView> VmmGuest::console() const {
  const auto guest = vmm();
  if (!guest) return not_here();
  return ConsoleView{guest->console(), guest->console_terminal()};
}

Result<std::unique_ptr<SourceGuest>> VmmGuest::make_source() {
  MutexLock lock(mutex_);
  if (!vmm_) return not_here();
  if (!hooks_) hooks_ = std::make_unique<vmm::VmmSourceHooks>(vmm_);
  return make_kvm_source(vmm_->kvm_vm(), *hooks_, vmm::source_options(*vmm_));
}

GuestFacts facts_of(const vmm::VmmConfig& config) {
  return {config.name, config.vcpus, config.memory_bytes,
          config.linux_guest ? "linux" : vmm::to_text(config.workload)};
}

Json to_json(const vmm::PacketStats& packets) {
  return {{"arp", packets.arp},
          {"icmp", packets.icmp},
          {"udp", packets.udp},
          {"ndp", packets.ndp},
          {"icmpv6", packets.icmpv6},
          {"ignored", packets.ignored},
          {"malformed", packets.malformed}};
}

Json to_json(const vmm::GuestStats& stats) {
  Json vcpus = Json::array();
  for (const vmm::VcpuStats& vcpu : stats.vcpus) {
    vcpus.push_back({{"workload", vcpu.workload}, {"work", vcpu.work}, {"cpu_ms", vcpu.cpu_ms}});
  }
  Json first_error = nullptr;
  if (stats.first_error) {
    first_error = {{"kind", stats.first_error->kind},
                   {"vcpu", stats.first_error->vcpu},
                   {"page", stats.first_error->page},
                   {"expected", stats.first_error->expected},
                   {"found", stats.first_error->found}};
  }
  return {{"uptime_ms", stats.uptime_ms},
          {"pages_written", stats.pages_written},
          {"verify_passes", stats.verify_passes},
          {"verify_errors", stats.verify_errors},
          {"packets_answered", stats.packets.answered()},
          {"packets", to_json(stats.packets)},
          {"vcpus", vcpus},
          {"first_error", first_error}};
}

}  // namespace migrate::tool
