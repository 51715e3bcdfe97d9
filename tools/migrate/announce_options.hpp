// How a guest's network hears that it is here: --announce, --no-announce, --announce-schedule, and
// the cards they are about.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "adapters/kvm/vmm/vmm_config.hpp"
#include "migrate/announce.hpp"

namespace migrate::tool {

struct AnnounceChoice {
  bool enabled = true;
  std::string leave_by;  ///< Where frames leave; empty: the bridge of the card's tap.
  AnnounceSchedule schedule;
};
void add_announce_options(CLI::App& command, AnnounceChoice& choice);

/// kNotFound for an interface that is not there: before anything else is done.
[[nodiscard]] Status check_announce(const AnnounceChoice& choice);

/// The same choice as words, for the process of a session.
[[nodiscard]] std::vector<std::string> announce_arguments(const AnnounceChoice& choice);

/// What is announced of `nets`, whose cards have their MAC addresses; nothing where that is not
/// wanted.
[[nodiscard]] std::vector<AnnouncedCard> announced_cards(const std::vector<vmm::NetConfig>& nets,
                                                         const AnnounceChoice& choice);

/// A guest's cards as they are at this host: what it brings, at the taps that are given here.
[[nodiscard]] std::vector<vmm::NetConfig> cards_here(const std::vector<vmm::NetConfig>& guests,
                                                     const std::vector<vmm::NetConfig>& given);

}  // namespace migrate::tool
