// Arrival: a guest of one kind on its way here; what `recv` and `restore` need of it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "adapters/kvm/vmm/vmm_config.hpp"
#include "hosted_guest.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

/// Methods are called on the migration's thread, in the order in which they stand here.
class Arrival {
 public:
  virtual ~Arrival() = default;

  /// For one Incoming or Restore; this outlives it. `on_discard`: nothing of the guest is left
  /// here.
  virtual std::unique_ptr<TargetGuest> make_target(std::function<void()> on_discard) = 0;
  /// The guest that is going to be hosted as `name`. It cannot be touched until started().
  /// kIncompatible for a kind that is not taken here.
  virtual Result<std::unique_ptr<HostedGuest>> make_guest(const GuestDescription& description,
                                                          const std::string& name) = 0;
  /// Its network cards, with what they get here: what is announced.
  [[nodiscard]] virtual std::vector<vmm::NetConfig> cards(
      const GuestDescription& description) const = 0;
  /// The guest of make_guest() runs, and may be touched.
  virtual void started() = 0;
  /// All of its memory is in this process.
  virtual void memory_complete() = 0;
};

}  // namespace migrate::tool
