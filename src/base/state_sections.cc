// What every StateWriter and StateReader does alike.
#include "migrate/guest.hpp"

namespace migrate {

Status StateWriter::section(const SectionInfo& info, std::span<const std::byte> body) {
  MIGRATE_TRY(begin(info));
  MIGRATE_TRY(append(body));
  return end();
}

Result<std::vector<std::byte>> StateReader::read_all(std::uint64_t bytes_max) {
  const std::uint64_t size = remaining();
  if (size > bytes_max) {
    return make_error(ErrorCode::kProtocol, "a state section has " + std::to_string(size) +
                                                " bytes, more than the " +
                                                std::to_string(bytes_max) + " it may have");
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(size));
  MIGRATE_TRY(read(bytes));
  return bytes;
}

Status StateReader::skip_unknown(const SectionInfo& section) {
  if (!section.mandatory) return {};
  return make_error(ErrorCode::kIncompatible,
                    "the guest's state has a part this host does not know: section " +
                        section.name + ", version " + std::to_string(section.version))
      .advise("run the same or a newer version of migrate and of the hypervisor at the target");
}

}  // namespace migrate
