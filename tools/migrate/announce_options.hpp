// How a guest's network hears that it is here: --announce, --no-announce, --announce-schedule, and
// the cards they are about.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "adapters/kvm/vmm/vmm_config.hpp"
#include "machine_options.hpp"
#include "migrate/announce.hpp"

namespace migrate::tool {

struct AnnounceChoice {
  bool enabled = true;
  /// Where frames leave; empty: the bridge of the card's tap. With several cards, which may be in
  /// different networks, only for those whose tap has no bridge.
  std::string leave_by;
  std::vector<std::string> by_card;  ///< The same of each card alone; what is not empty counts.
  AnnounceSchedule schedule;
  bool asked = false;  ///< It was said where or when.
};
void add_announce_options(CLI::App& command, AnnounceChoice& choice);

/// kNotFound for an interface that is not there: before anything else is done.
[[nodiscard]] Status check_announce(const AnnounceChoice& choice);

/// What keeps `nets` from being announced as things are now, in words.
[[nodiscard]] std::vector<std::string> announce_doubts(std::vector<vmm::NetConfig> nets,
                                                       const AnnounceChoice& choice);

/// by_card of what --net says.
[[nodiscard]] std::vector<std::string> announced_by_card(const std::vector<NetChoice>& nets);

/// The same choice as words, for the process of a session; by_card is in those of --net.
[[nodiscard]] std::vector<std::string> announce_arguments(const AnnounceChoice& choice);

/// What is announced of `nets`, whose cards have their MAC addresses; nothing where that is not
/// wanted.
[[nodiscard]] std::vector<AnnouncedCard> announced_cards(const std::vector<vmm::NetConfig>& nets,
                                                         const AnnounceChoice& choice);

/// A guest's cards as they are at this host: what it brings, at the taps that are given here.
[[nodiscard]] std::vector<vmm::NetConfig> cards_here(const std::vector<vmm::NetConfig>& guests,
                                                     const std::vector<vmm::NetConfig>& given);

}  // namespace migrate::tool
