#include "announce_options.hpp"

#include "net-takeover/link_facts.hpp"

namespace migrate::tool {

void add_announce_options(CLI::App& command, AnnounceChoice& choice) {
  CLI::Option* none = command.add_flag_callback(
      "--no-announce", [&choice] { choice.enabled = false; },
      "Tell the network nothing once the guest has started here");
  command
      .add_option("--announce", choice.leave_by,
                  "Where the network is told that the guest is here now (default: the bridge that "
                  "its tap belongs to)")
      ->type_name("IFACE")
      ->excludes(none);
  command
      .add_option_function<std::string>(
          "--announce-schedule",
          [&choice](const std::string& value) {
            auto schedule = parse_announce_schedule(value);
            if (!schedule) {
              throw CLI::ValidationError("--announce-schedule", schedule.error().to_text());
            }
            choice.schedule = *std::move(schedule);
          },
          "When, since the guest's start (default: " + to_text(AnnounceSchedule{}) + ")")
      ->type_name("TIME,...")
      ->excludes(none);
}

Status check_announce(const AnnounceChoice& choice) {
  if (!choice.enabled || choice.leave_by.empty()) return {};
  auto link = takeover::link_facts(choice.leave_by);
  if (link) return {};
  link.error().message = "--announce: " + link.error().message;
  return std::move(link).error();
}

std::vector<std::string> announce_arguments(const AnnounceChoice& choice) {
  if (!choice.enabled) return {"--no-announce"};
  std::vector<std::string> words = {"--announce-schedule", to_text(choice.schedule)};
  if (!choice.leave_by.empty()) words.insert(words.end(), {"--announce", choice.leave_by});
  return words;
}

std::vector<AnnouncedCard> announced_cards(const std::vector<vmm::NetConfig>& nets,
                                           const AnnounceChoice& choice) {
  std::vector<AnnouncedCard> cards;
  if (!choice.enabled) return cards;
  for (const vmm::NetConfig& net : nets) {
    if (!net.mac) continue;
    cards.push_back({net.tap, choice.leave_by, *net.mac, net.addresses, net.vlan});
  }
  return cards;
}

std::vector<vmm::NetConfig> cards_here(const std::vector<vmm::NetConfig>& guests,
                                       const std::vector<vmm::NetConfig>& given) {
  std::vector<vmm::NetConfig> cards;
  // Where the numbers differ the VMM refuses the guest, and says why.
  for (std::size_t i = 0; i < guests.size() && i < given.size(); ++i) {
    vmm::NetConfig card = given[i];
    card.mac = guests[i].mac;
    if (card.addresses.empty()) card.addresses = guests[i].addresses;
    cards.push_back(std::move(card));
  }
  return cards;
}

}  // namespace migrate::tool
