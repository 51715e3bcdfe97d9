#include "tracker_option.hpp"

#include <fcntl.h>

#include <array>
#include <utility>

#include "base/fd.hpp"

namespace migrate::tool {
namespace {

using Choice = std::optional<TrackerKind>;

// The rest of the kinds are for guests that are processes.
constexpr std::array<std::pair<std::string_view, Choice>, 5> kNames = {{
    {"auto", std::nullopt},
    {"log", TrackerKind::kKvmBitmap},
    {"ring", TrackerKind::kKvmRing},
    {"write-protect", TrackerKind::kWriteProtect},
    {"hash", TrackerKind::kContentHash},
}};

template <typename Wanted>
std::string names(std::string_view between, Wanted&& wanted) {
  std::string list;
  for (const auto& [name, choice] : kNames) {
    if (!wanted(choice)) continue;
    if (!list.empty()) list += between;
    list += name;
  }
  return list;
}

const TrackerOffer* find(std::span<const TrackerOffer> offers, TrackerKind kind) {
  for (const TrackerOffer& offer : offers) {
    if (offer.kind == kind) return &offer;
  }
  return nullptr;
}

}  // namespace

std::string tracker_names() {
  return names("|", [](const Choice&) { return true; });
}

Result<std::optional<TrackerKind>> parse_tracker(std::string_view name) {
  for (const auto& [known, choice] : kNames) {
    if (known == name) return choice;
  }
  return make_error(ErrorCode::kInvalidArgument,
                    "--tracker: there is no tracker '" + std::string(name) + "'")
      .advise("give one of " + names(", ", [](const Choice&) { return true; }));
}

std::string_view tracker_name(std::optional<TrackerKind> kind) {
  for (const auto& [name, choice] : kNames) {
    if (choice == kind) return name;
  }
  return "auto";
}

Status check_tracker(std::optional<TrackerKind> kind) {
  if (!kind) return {};
  const Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  // Without KVM there is no guest either: what makes it says so better.
  if (!kvm) return {};
  const auto offers = probe_trackers(kvm.get());
  const TrackerOffer* offer = find(offers, *kind);
  if (offer == nullptr || offer->available) return {};
  const auto available = [&](const Choice& choice) {
    const TrackerOffer* other = choice ? find(offers, *choice) : nullptr;
    return !choice || (other != nullptr && other->available);
  };
  return make_error(ErrorCode::kUnsupported, "--tracker " + std::string(tracker_name(kind)) +
                                                 " is not possible on this host: " + offer->detail)
      .advise("give one of " + names(", ", available));
}

}  // namespace migrate::tool
