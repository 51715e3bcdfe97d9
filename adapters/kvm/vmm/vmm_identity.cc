// What tells a guest of a Vmm from its copies: its generation id, and how it hears of another.
#include "adapters/kvm/vmm/devices/guest_ram.hpp"
#include "adapters/kvm/vmm/vmm_impl.hpp"
#include "base/log.hpp"

namespace migrate::vmm {

/// Of a guest that begins here, in memory that is as new. It keeps an id that it has.
Status Vmm::Impl::give_generation() {
  Generation generation;
  if (const auto known = generation_id()) {
    generation.id = *known;
  } else {
    MIGRATE_ASSIGN(generation.id, make_generation_id());
  }
  generation.address = board_->generation_address();
  set_generation(generation);
  return {};
}

void Vmm::Impl::set_generation(const Generation& generation) {
  if (generation.address) {
    const GuestRam ram(memory_.slots(), board_->writes());
    MIGRATE_CHECK(ram.write(*generation.address, generation.id.bytes));
  }
  MutexLock lock(mutex_);
  generation_ = generation;
}

std::optional<GenerationId> Vmm::Impl::generation_id() const {
  MutexLock lock(mutex_);
  return generation_ ? std::optional(generation_->id) : std::nullopt;
}

/// Its memory has the id, or will have: nothing is written.
Status Vmm::Impl::load_generation(const SectionInfo& section, StateReader& reader) {
  MIGRATE_ASSIGN(const auto arrived, read_generation_section(section, reader));
  if (arrived && arrived->address) {
    const GuestRam ram(memory_.slots(), nullptr);
    if (!ram.contains(*arrived->address, sizeof arrived->id.bytes, true)) {
      return make_error(ErrorCode::kProtocol,
                        "section " + section.name + " is of a place outside of memory")
          .advise("the peer is broken or of another version; use the same version on both hosts");
    }
  }
  MutexLock lock(mutex_);
  generation_ = arrived;
  return {};
}

Status Vmm::Impl::renew_identity() {
  MutexLock control(control_mutex_);
  MIGRATE_TRY(check_alive());
  if (state() != VmmState::kPaused) {
    return make_error(ErrorCode::kBusy, "the guest runs: it would not see its identity change");
  }
  Generation renewed;
  MIGRATE_ASSIGN(renewed.id, make_generation_id());
  {
    MutexLock lock(mutex_);
    if (generation_) renewed.address = generation_->address;
  }
  if (!renewed.address && board_->generation_address()) {
    log_line(LogLevel::kWarning,
             "guest " + config_.name +
                 ": it was started by a version of migrate that gave it no generation id, and does "
                 "not hear that it is a copy");
  }
  set_generation(renewed);
  board_->tell_of_new_identity();
  return {};
}

}  // namespace migrate::vmm
