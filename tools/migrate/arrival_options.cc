#include "arrival_options.hpp"

#include "huge_pages_option.hpp"
#include "tracker_option.hpp"

namespace migrate::tool {

void add_arrival_options(CLI::App& command, ArrivalOptions& options) {
  command
      .add_option("--name", options.name,
                  "What to call the guest on this host (default: as it was)")
      ->type_name("NAME");
  command
      .add_option("--tracker", options.tracker,
                  "How the guest's writes are tracked when it leaves again (default: auto)")
      ->type_name(tracker_names());
  add_huge_pages_option(command, options.huge_pages);
  add_machine_options(command, options.machine, nullptr);
  CLI::Option* kernel =
      command
          .add_option("--kernel", options.machine.kernel,
                      "What a Linux guest restarts with (default: it stops instead)")
          ->type_name("FILE");
  command.add_option("--initrd", options.machine.initrd, "Its initial file system then")
      ->type_name("FILE")
      ->needs(kernel);
}

Result<vmm::ArrivalConfig> parse_arrival(const ArrivalOptions& options,
                                         const MachineChoice& machine) {
  vmm::ArrivalConfig guest;
  guest.name = options.name;
  MIGRATE_ASSIGN(guest.tracking, parse_tracker(options.tracker));
  MIGRATE_TRY(check_tracker(guest.tracking));
  MIGRATE_ASSIGN(guest.huge_page_bytes, parse_huge_pages(options.huge_pages));
  guest.disks = machine.disks;
  guest.nets = cards_of(machine.nets);
  guest.console = machine.console;
  guest.kernel = machine.kernel;
  guest.initrd = machine.initrd;
  return guest;
}

}  // namespace migrate::tool
