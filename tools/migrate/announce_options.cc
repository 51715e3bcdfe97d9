#include "announce_options.hpp"

#include "net-takeover/link_facts.hpp"
#include "net-takeover/outlets.hpp"

namespace migrate::tool {
namespace {

Status check_interface(const std::string& name, const char* option) {
  if (name.empty()) return {};
  auto link = takeover::link_facts(name);
  if (link) return {};
  link.error().message = option + (": " + link.error().message);
  return std::move(link).error();
}

/// Where the card with this number is announced; empty: on the bridge of its tap.
std::string leave_by(const std::vector<vmm::NetConfig>& nets, std::size_t number,
                     const AnnounceChoice& choice) {
  if (number < choice.by_card.size() && !choice.by_card[number].empty()) {
    return choice.by_card[number];
  }
  if (nets.size() == 1 || choice.leave_by.empty()) return choice.leave_by;
  const auto tap = takeover::link_facts(nets[number].tap);
  return tap && tap->bridge != 0 ? "" : choice.leave_by;
}

}  // namespace

void add_announce_options(CLI::App& command, AnnounceChoice& choice) {
  CLI::Option* none = command.add_flag_callback(
      "--no-announce", [&choice] { choice.enabled = false; },
      "Tell the network nothing once the guest has started here");
  command
      .add_option("--announce", choice.leave_by,
                  "Where the network is told that the guest is here now (default: the bridge that "
                  "its tap belongs to); with several cards only of those whose tap has no bridge")
      ->type_name("IFACE")
      ->each([&choice](const std::string&) { choice.asked = true; })
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
            choice.asked = true;
          },
          "When, since the guest's start (default: " + to_text(AnnounceSchedule{}) + ")")
      ->type_name("TIME,...")
      ->excludes(none);
}

Status check_announce(const AnnounceChoice& choice) {
  if (!choice.enabled) return {};
  for (const std::string& name : choice.by_card) {
    MIGRATE_TRY(check_interface(name, "--net ...,announce"));
  }
  return check_interface(choice.leave_by, "--announce");
}

std::vector<std::string> announce_doubts(std::vector<vmm::NetConfig> nets,
                                         const AnnounceChoice& choice) {
  if (nets.empty() && choice.asked) {
    return {"without --net there is no card to announce, and guests with cards are refused"};
  }
  // Which they will have the guest brings.
  for (vmm::NetConfig& net : nets) net.mac = net.mac.value_or(MacAddress{});
  std::vector<std::string> doubts;
  for (const AnnouncedCard& card : announced_cards(nets, choice)) {
    auto outlet = takeover::open_outlet(card);
    if (!outlet) {
      doubts.push_back(outlet.error().to_text());
      continue;
    }
    for (std::string& doubt : outlet->doubts) doubts.push_back(std::move(doubt));
  }
  return doubts;
}

std::vector<std::string> announced_by_card(const std::vector<NetChoice>& nets) {
  std::vector<std::string> names;
  for (const NetChoice& net : nets) names.push_back(net.announce);
  return names;
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
  for (std::size_t i = 0; i < nets.size(); ++i) {
    const vmm::NetConfig& net = nets[i];
    if (!net.mac) continue;
    cards.push_back({net.tap, leave_by(nets, i, choice), *net.mac, net.addresses, net.vlan});
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
