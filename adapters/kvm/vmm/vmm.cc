#include "adapters/kvm/vmm/vmm.hpp"

#include "adapters/kvm/vmm/demo_config.hpp"
#include "adapters/kvm/vmm/demo_plan.hpp"
#include "adapters/kvm/vmm/linux_config.hpp"
#include "adapters/kvm/vmm/vmm_impl.hpp"

namespace migrate::vmm {

std::string_view to_string(VmmState state) {
  switch (state) {
    case VmmState::kPaused:
      return "paused";
    case VmmState::kRunning:
      return "running";
    case VmmState::kStopped:
      return "stopped";
    case VmmState::kLeft:
      return "left";
    case VmmState::kFailed:
      return "failed";
  }
  return "unknown";
}

Vmm::Vmm(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Vmm::~Vmm() = default;

// Configurations are checked before anything is allocated: they may be nonsense.
Result<std::unique_ptr<Vmm>> Vmm::create(const VmmConfig& config) {
  VmmConfig complete = config;
  if (complete.linux_guest) {
    MIGRATE_TRY(complete_linux(complete));
  } else {
    MIGRATE_TRY(complete_demo(complete));
  }
  MIGRATE_ASSIGN(auto impl, Impl::build(complete, {Machine::offers_irqchip(), false}));
  MIGRATE_TRY(impl->boot());
  return std::unique_ptr<Vmm>(new Vmm(std::move(impl)));
}

Result<std::unique_ptr<Vmm>> Vmm::create_incoming(const VmmConfig& config,
                                                  const VmmPlatform& platform) {
  if (config.linux_guest) {
    MIGRATE_TRY(check_linux(config));
  } else if (const auto plan = plan_demo_guest(config, 0); !plan) {
    return plan.error();
  }
  MIGRATE_ASSIGN(auto impl, Impl::build(config, platform));
  impl->board().devices().shed_waiting_frames();
  return std::unique_ptr<Vmm>(new Vmm(std::move(impl)));
}

const VmmConfig& Vmm::config() const { return impl_->config(); }
const KvmVm& Vmm::kvm_vm() const { return impl_->kvm_vm(); }
Result<PauseResult> Vmm::pause() { return impl_->pause(); }
Status Vmm::resume() { return impl_->resume(); }
void Vmm::stop() { impl_->end(VmmState::kStopped); }
void Vmm::leave() { impl_->end(VmmState::kLeft); }
VmmState Vmm::state() const { return impl_->state(); }
std::optional<Error> Vmm::failure() const { return impl_->failure(); }
int Vmm::ended_fd() const { return impl_->ended_fd(); }
Result<GuestStats> Vmm::stats() const { return impl_->stats(); }
std::string Vmm::console() const { return impl_->console(); }
std::string Vmm::console_terminal() const { return impl_->board().console_terminal(); }
std::size_t Vmm::console_input(std::span<const std::byte> bytes) {
  return impl_->board().console_input(bytes);
}
Status Vmm::throttle(std::uint32_t vcpu, double share) { return impl_->throttle(vcpu, share); }
Status Vmm::save_devices(StateWriter& writer) { return impl_->save_devices(writer); }
Status Vmm::load_device(const SectionInfo& section, StateReader& reader) {
  return impl_->load_device(section, reader);
}
Status Vmm::take_arrived_disks() { return impl_->take_arrived_disks(); }
Status Vmm::take_disks() { return impl_->board().take_disks(); }
void Vmm::prepare_leaving() { impl_->board().prepare_leaving(); }
Status Vmm::give_up_disks() { return impl_->give_up_disks(); }
Status Vmm::add_first_pages(PageBitmap& pages) { return impl_->add_first_pages(pages); }
std::vector<int> Vmm::vcpu_threads() { return impl_->vcpu_threads(); }
std::optional<GenerationId> Vmm::generation_id() const { return impl_->generation_id(); }
Status Vmm::renew_identity() { return impl_->renew_identity(); }
Result<std::vector<CardFrame>> Vmm::take_waiting_frames(std::size_t frames_max,
                                                        std::size_t bytes_max) {
  return impl_->take_waiting_frames(frames_max, bytes_max);
}

void Vmm::keep_waiting_frames() { impl_->board().devices().keep_waiting_frames(); }

bool Vmm::deliver_frame(std::uint32_t card, std::span<const std::byte> frame) {
  const VirtioDevices& devices = impl_->board().devices();
  return card < devices.nets() && devices.net(card).deliver(frame);
}

std::shared_ptr<SoftwareBitmap> Vmm::device_writes() const { return impl_->board().writes(); }

}  // namespace migrate::vmm
