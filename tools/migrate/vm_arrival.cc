#include "vm_arrival.hpp"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "announce_options.hpp"

namespace migrate::tool {

Result<std::unique_ptr<VmArrival>> VmArrival::create(vmm::ArrivalConfig config) {
  Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm) {
    return make_errno_error(ErrorCode::kUnsupported, errno,
                            "cannot take virtual machines: /dev/kvm")
        .advise("see `migrate doctor`");
  }
  return std::unique_ptr<VmArrival>(new VmArrival(std::move(config), std::move(kvm)));
}

std::unique_ptr<TargetGuest> VmArrival::make_target(std::function<void()> on_discard) {
  hooks_ = std::make_unique<ArrivalHooks>(config_, std::move(on_discard));
  return make_kvm_target(kvm_.get(), *hooks_, KvmTargetOptions{config_.huge_page_bytes});
}

Result<std::unique_ptr<HostedGuest>> VmArrival::make_guest(const GuestDescription& description,
                                                           const std::string& name) {
  GuestFacts facts;
  // What this VMM cannot read the adapter refuses in a moment, and says why.
  if (const auto machine = vmm::decode_machine(description)) facts = facts_of(*machine);
  facts.name = name;
  auto guest = std::make_unique<VmmGuest>(std::move(facts));
  guest_ = guest.get();
  return std::unique_ptr<HostedGuest>(std::move(guest));
}

std::vector<vmm::NetConfig> VmArrival::cards(const GuestDescription& description) const {
  const auto machine = vmm::decode_machine(description);
  if (!machine) return {};
  const auto made = hooks_ ? hooks_->vmm() : nullptr;
  if (config_.new_identity && made) {
    // A Linux that was made another guest keeps its former addresses until it looks again, and
    // those may be another's: nobody is told. Others have the addresses that were made for them.
    return machine->linux_guest ? std::vector<vmm::NetConfig>() : made->config().nets;
  }
  return cards_here(machine->nets, config_.nets);
}

void VmArrival::started() { guest_->set_vmm(hooks_->vmm()); }

}  // namespace migrate::tool
