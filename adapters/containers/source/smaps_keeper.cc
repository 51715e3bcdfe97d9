#include "adapters/containers/source/smaps_keeper.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

#include "adapters/containers/source/process_tree.hpp"
#include "base/guarded.hpp"
#include "base/log.hpp"
#include "base/start_thread.hpp"

namespace migrate::containers {
namespace {

/// The lines of smaps that begin a mapping are those of maps; the others begin with a capital.
std::string lines_of_maps(std::string_view smaps) {
  std::string maps;
  while (!smaps.empty()) {
    const std::size_t length = std::min(smaps.size(), smaps.find('\n') + 1);
    if (smaps[0] < 'A' || smaps[0] > 'Z') maps.append(smaps.substr(0, length));
    smaps.remove_prefix(length == 0 ? smaps.size() : length);
  }
  return maps;
}

}  // namespace

SmapsKeeper::~SmapsKeeper() {
  if (thread_.joinable()) thread_.join();
}

void SmapsKeeper::look(std::vector<pid_t> processes) {
  if (busy_) return;
  if (thread_.joinable()) thread_.join();
  busy_ = true;
  const Status begun =
      start_thread(thread_, "tree-mappings", [this, tree = std::move(processes)] { run(tree); });
  if (!begun) busy_ = false;
}

void SmapsKeeper::run(const std::vector<pid_t>& processes) {
  const Status done = guarded([&]() -> Status {
    if (!std::exchange(tried_, true)) {
      MIGRATE_ASSIGN(flags_, AreaFlags::create());
    }
    if (!flags_) return {};
    std::map<pid_t, Kept> now;
    for (const pid_t pid : processes) {
      auto known = kept_.extract(pid);
      if (known && holds(pid, known.mapped())) {
        now.insert(std::move(known));
      } else if (auto kept = read(pid)) {
        now.emplace(pid, *std::move(kept));
      }
    }
    kept_ = std::move(now);
    return {};
  });
  if (!done) {
    kept_.clear();
    log_line(LogLevel::kDebug,
             "CRIU is going to read smaps in the stop: " + done.error().to_text());
  }
  busy_ = false;
}

/// Nothing where the mappings change meanwhile.
std::optional<SmapsKeeper::Kept> SmapsKeeper::read(pid_t pid) const {
  const auto before = flags_->read(pid);
  auto text = read_proc(proc_path(pid, "smaps"));
  const auto after = flags_->read(pid);
  if (!text || !before || !after || *before != *after || before->empty()) return std::nullopt;
  std::string maps = lines_of_maps(*text);
  return Kept{*before, std::move(maps), *std::move(text)};
}

bool SmapsKeeper::holds(pid_t pid, const Kept& kept) const {
  const auto flags = flags_->read(pid);
  return flags && *flags == kept.flags && read_proc(proc_path(pid, "maps")) == kept.maps;
}

std::optional<std::string> SmapsKeeper::text_that_holds(pid_t pid) const {
  if (busy_) return std::nullopt;
  const auto known = kept_.find(pid);
  if (known == kept_.end() || !holds(pid, known->second)) return std::nullopt;
  return known->second.text;
}

}  // namespace migrate::containers
