// MovableDevices: a board's devices as one: they stand, work and move together.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "adapters/kvm/vmm/devices/io_device.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

class MovableDevices {
 public:
  /// It must outlive this.
  void add(MovableDevice& device) { devices_.push_back(&device); }

  /// As MovableDevice's. An error: some stand, until resume().
  Status quiesce(SteadyTime deadline);
  /// One that hangs keeps no other from it.
  void stand_for_good(SteadyTime deadline);
  void resume();

  Status save(StateWriter& writer);
  /// For each attempt anew.
  void begin_load() { loaded_.clear(); }
  Status load(const SectionInfo& section, StateReader& reader);
  /// kProtocol when one's section was not among those that came.
  [[nodiscard]] Status check_loaded() const;

 private:
  std::vector<MovableDevice*> devices_;
  std::set<std::string> loaded_;  ///< Sections of the attempt.
};

}  // namespace migrate::vmm
