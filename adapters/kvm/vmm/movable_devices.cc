#include "adapters/kvm/vmm/movable_devices.hpp"

#include <algorithm>

namespace migrate::vmm {

Status MovableDevices::quiesce(SteadyTime deadline) {
  for (MovableDevice* device : devices_) MIGRATE_TRY(device->quiesce(deadline));
  return {};
}

void MovableDevices::stand_for_good(SteadyTime deadline) {
  for (MovableDevice* device : devices_) (void)device->quiesce(deadline);
}

void MovableDevices::resume() {
  for (MovableDevice* device : devices_) device->resume();
}

Status MovableDevices::save(StateWriter& writer) {
  for (MovableDevice* device : devices_) MIGRATE_TRY(device->save(writer));
  return {};
}

Status MovableDevices::load(const SectionInfo& section, StateReader& reader) {
  const auto device = std::find_if(
      devices_.begin(), devices_.end(),
      [&](const MovableDevice* candidate) { return candidate->section_name() == section.name; });
  if (device == devices_.end()) return StateReader::skip_unknown(section);
  if (!loaded_.insert(section.name).second) {
    return make_error(ErrorCode::kProtocol, "state section " + section.name + " came twice");
  }
  return (*device)->load(section, reader);
}

Status MovableDevices::check_loaded() const {
  for (const MovableDevice* device : devices_) {
    if (loaded_.count(device->section_name()) != 0) continue;
    return make_error(ErrorCode::kProtocol,
                      "the state that arrived lacks section " + device->section_name())
        .advise("the peer is broken or of another version; use the same version on both hosts");
  }
  return {};
}

}  // namespace migrate::vmm
