#include "synced_folders.hpp"

#include <utility>

#include "forwarding_source.hpp"
#include "takeover_hook.hpp"

namespace migrate::tool {
namespace {

// The first copy may be of everything there is.
constexpr std::chrono::hours kFirstMax{24};
// Metadata as CRIU compares it (sizes, modes), owners by number, hard links; without "FROM/" the
// folder itself would be made within TO. Names reach the shell as variables: nothing to quote.
constexpr const char* kCommand =
    "exec rsync -aHAX --numeric-ids --delete -- \"$MIGRATE_FROM/\" \"$MIGRATE_TO\"";

Status copy(const SyncedFolder& folder, std::chrono::milliseconds limit) {
  MIGRATE_ASSIGN(const auto rsync, TakeoverHook::create(kCommand, limit));
  rsync->run({{"MIGRATE_FROM", folder.from}, {"MIGRATE_TO", folder.to}});
  // It is killed at its limit, and tells.
  const auto end = rsync->wait(std::chrono::steady_clock::now() + limit + std::chrono::seconds(10));
  if (end && end->kind == HookEnd::Kind::kOk) return {};
  return make_error(ErrorCode::kIo, "rsync of " + folder.from + " to " + folder.to + ": " +
                                        (end ? end->text : std::string("it does not end")))
      .on(Side::kSource)
      .advise("its own words are on standard error; try the same rsync by hand");
}

class SyncedSource final : public ForwardingSource {
 public:
  SyncedSource(std::unique_ptr<SourceGuest> source, std::vector<SyncedFolder> folders,
               std::chrono::milliseconds limit)
      : ForwardingSource(std::move(source)), folders_(std::move(folders)), limit_(limit) {}

  Result<GuestDescription> describe() override {
    if (!std::exchange(copied_, true)) {
      for (const SyncedFolder& folder : folders_) MIGRATE_TRY(copy(folder, kFirstMax));
    }
    return inner_->describe();
  }
  Status relinquish() override {
    for (const SyncedFolder& folder : folders_) MIGRATE_TRY(copy(folder, limit_));
    return inner_->relinquish();
  }

 private:
  const std::vector<SyncedFolder> folders_;
  const std::chrono::milliseconds limit_;
  bool copied_ = false;
};

}  // namespace

Result<SyncedFolder> parse_synced_folder(const std::string& text) {
  const std::size_t middle = text.find('=');
  if (middle == 0 || middle == std::string::npos || middle + 1 == text.size()) {
    return make_error(ErrorCode::kInvalidArgument, "--rsync: '" + text + "' is not FROM=TO")
        .advise("give a folder here and where it goes: /srv/web=host-b:/srv/web");
  }
  SyncedFolder folder{text.substr(0, middle), text.substr(middle + 1)};
  while (folder.from.size() > 1 && folder.from.back() == '/') folder.from.pop_back();
  return folder;
}

std::unique_ptr<SourceGuest> make_synced_source(std::unique_ptr<SourceGuest> source,
                                                std::vector<SyncedFolder> folders,
                                                std::chrono::milliseconds limit) {
  return std::make_unique<SyncedSource>(std::move(source), std::move(folders), limit);
}

}  // namespace migrate::tool
