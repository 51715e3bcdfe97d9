// migrate announce: tells a network where an address is, by hand.
#include <cstdio>
#include <memory>

#include "base/log.hpp"
#include "command.hpp"
#include "migrate/announce.hpp"
#include "net-takeover/link_facts.hpp"

namespace migrate::tool {
namespace {

struct AnnounceOptions {
  std::string interface;
  std::string mac;
  std::vector<std::string> ips;
  std::string vlan;
  std::string schedule = to_text(AnnounceSchedule{});
  bool fdb = false;
};

// Its frames leave within the schedule's last time, a minute at most.
constexpr std::chrono::minutes kPatience{2};

Result<AnnouncedCard> card_of(const AnnounceOptions& options) {
  AnnouncedCard card;
  (options.fdb ? card.port : card.leave_by) = options.interface;
  MIGRATE_ASSIGN(card.mac, parse_mac(options.mac));
  for (const std::string& text : options.ips) {
    MIGRATE_ASSIGN(const IpAddress ip, parse_ip(text));
    card.ips.push_back(ip);
  }
  if (!options.vlan.empty()) {
    MIGRATE_ASSIGN(card.vlan, parse_vlan(options.vlan));
  }
  return card;
}

/// What is sent into a guest's own port the guest alone hears.
void note_guests_port(const AnnounceOptions& options, AnnounceReport& report) {
  if (options.fdb) return;
  const auto link = takeover::link_facts(options.interface);
  if (!link || link->bridge == 0 || (link->kind != "tun" && link->kind != "veth")) return;
  report.errors.push_back("'" + options.interface +
                          "' is a port of a bridge: only what is behind that port has heard it; "
                          "with --fdb, or with the bridge's name, the network does");
  log_line(LogLevel::kWarning, report.errors.back());
}

Result<AnnounceReport> announce_all(const AnnounceOptions& options) {
  MIGRATE_ASSIGN(const AnnouncedCard card, card_of(options));
  MIGRATE_ASSIGN(AnnounceSchedule schedule, parse_announce_schedule(options.schedule));
  MIGRATE_ASSIGN(const auto announcer, make_announcer({card}, std::move(schedule)));
  const auto now = std::chrono::steady_clock::now();
  announcer->taken_over({{}, {}, now});
  announcer->wait(now + kPatience);
  AnnounceReport report = announcer->report();
  const bool nothing_sent = report.frames_sent == 0;
  const bool no_entry = options.fdb && report.fdb_entries == 0;
  if (nothing_sent || no_entry) {
    const std::string why = report.errors.empty() ? "" : ": " + report.errors.back();
    return make_error(ErrorCode::kIo, (nothing_sent ? "nothing could be announced"
                                                    : "the bridge's table could not be set") +
                                          why)
        .advise("`ip link show " + options.interface + "` says what is with the interface");
  }
  note_guests_port(options, report);
  return report;
}

int announce(const GlobalOptions& global, const AnnounceOptions& options) {
  const auto report = announce_all(options);
  if (!report) return fail(global, report.error());
  if (global.json) {
    print_json({{"interface", options.interface},
                {"mac", options.mac},
                {"ips", options.ips},
                {"frames_sent", report->frames_sent},
                {"frames_failed", report->frames_failed},
                {"fdb_entries", report->fdb_entries},
                {"errors", report->errors}});
  } else {
    std::printf("%llu frames sent for %s on %s\n",
                static_cast<unsigned long long>(report->frames_sent), options.mac.c_str(),
                options.interface.c_str());
  }
  return to_int(ExitCode::kDone);
}

}  // namespace

void add_announce(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto options = std::make_shared<AnnounceOptions>();
  CLI::App* command =
      app.add_subcommand("announce", "Tell a network where a guest's addresses are now");
  command->add_option("IFACE", options->interface, "Where its neighbours are: a bridge or a card")
      ->required()
      ->type_name("");
  command->add_option("--mac", options->mac, "The guest's MAC address")
      ->required()
      ->type_name("MAC");
  command
      ->add_option("--ip", options->ips,
                   "An address of it, IPv4 or IPv6; may be given often, or not at all: then only "
                   "switches are told")
      ->type_name("ADDRESS")
      ->allow_extra_args(false);
  command->add_option("--vlan", options->vlan, "The VLAN it is in, as a tag on the frames")
      ->type_name("1-4094");
  command
      ->add_option("--schedule", options->schedule,
                   "When to send, from now (default: " + options->schedule + ")")
      ->type_name("TIME,...");
  command->add_flag("--fdb", options->fdb,
                    "IFACE is the guest's port on a bridge of this host: its forwarding table is "
                    "set, and frames leave by the bridge");
  command->callback([&global, &chosen, options] {
    chosen = [&global, options] { return announce(global, *options); };
  });
}

}  // namespace migrate::tool
