// CRIU finds the tree's cgroup frozen, so it seizes tasks that stand already, thaws the group while
// it holds them by ptrace (it has to run code in them), and freezes it again before it lets them
// go. We thaw it last of all: nothing runs before all of CRIU's doing has been undone.
#include "adapters/containers/source/dump_run.hpp"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <iterator>
#include <utility>
#include <vector>

#include "adapters/containers/source/process_tree.hpp"
#include "adapters/containers/source/tcp_repair.hpp"
#include "adapters/containers/source/tree_facts.hpp"
#include "adapters/containers/source/tree_mounts.hpp"
#include "base/log.hpp"

namespace migrate::containers {
namespace {

using Clock = std::chrono::steady_clock;

/// To come to a stand: CRIU's own limit is 10 s.
constexpr std::chrono::seconds kStopMax{20};
/// For the images: what is in them may be gigabytes of shared memory.
constexpr std::chrono::minutes kDumpMax{10};
/// To end in order after a negative answer.
constexpr std::chrono::seconds kEndMax{30};
constexpr std::chrono::seconds kStartMax{60};

std::atomic<DumpRun::HookSeen> g_hook_seen{nullptr};

/// A port of 127.0.0.1 that nobody had a moment ago.
Result<std::uint16_t> free_port() {
  const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  if (!socket || ::bind(socket.get(), any, size) != 0 ||
      ::getsockname(socket.get(), any, &size) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "no port of 127.0.0.1 can be had for CRIU");
  }
  return ntohs(address.sin_port);
}

std::vector<pid_t> processes_of(pid_t root) {
  std::vector<pid_t> processes;
  for (const TreeProcess& process : list_descendants(root)) processes.push_back(process.pid);
  return processes;
}

}  // namespace

void DumpRun::watch_hooks(HookSeen seen) { g_hook_seen = seen; }

DumpRun::~DumpRun() {
  if (stage_ == Stage::kIdle) return;
  if (const Status back = give_up(); !back) log_line(LogLevel::kError, back.error().to_text());
}

Status DumpRun::arm() {
  if (worker_ != nullptr) return {};
  CriuLaunch launch;
  launch.program = options_.criu;
  const bool shim = !options_.criu.shim.empty();
  if (shim && !hidden_) {
    MIGRATE_ASSIGN(hidden_, HiddenAreas::create());
  }
  // Which version it is shows only when it runs; with the shim and an empty list all is as without.
  if (shim) launch.hidden_areas_fd = hidden_->fd();
  MIGRATE_ASSIGN(worker_, CriuWorker::launch(launch));
  const auto ask = [&]() -> Status {
    const Deadline deadline = Clock::now() + kStartMax;
    MIGRATE_ASSIGN(version_, worker_->version(deadline));
    MIGRATE_TRY(check_criu_version(version_));
    hides_ = shim && shim_works_with(version_);
    // Also fills CRIU's cache of the kernel's features.
    MIGRATE_ASSIGN(const CriuFeatures features, worker_->features(deadline));
    if (hides_ || features.lazy_pages) return {};
    return make_error(ErrorCode::kUnsupported,
                      "CRIU " + version_.text + " finds no userfaultfd that fills memory lazily")
        .advise("use a kernel with CONFIG_USERFAULTFD that this process may use");
  };
  Status fit = ask();
  if (!fit) worker_.reset();
  return fit;
}

Result<CriuEvent> DumpRun::next_event(Deadline deadline) {
  auto event = worker_->next(deadline);
  lost_ = !event;
  if (!event) return event;
  ended_ = event->kind == CriuEvent::Kind::kEnd;
  if (!ended_) hook_ = event->hook;
  return event;
}

Status DumpRun::answer(bool go_on) {
  hook_.clear();
  Status told = worker_->answer(go_on);
  lost_ = !told;
  return told;
}

Status DumpRun::next_hook(Deadline deadline) {
  MIGRATE_ASSIGN(const CriuEvent event, next_event(deadline));
  if (event.kind == CriuEvent::Kind::kEnd) {
    if (!event.success) return worker_->failure("CRIU did not dump the tree");
    return make_error(ErrorCode::kGuest, "CRIU ended the dump before it was asked to");
  }
  if (const HookSeen seen = g_hook_seen; seen != nullptr) seen(*worker_, hook_);
  return {};
}

Status DumpRun::begin() {
  MIGRATE_TRY(arm());
  MIGRATE_ASSIGN(DumpFolder images, DumpFolder::make(options_.folder));
  images_ = std::move(images);
  MIGRATE_ASSIGN(LockTables tables, LockTables::of_process(options_.root));
  // Not another migration's, which may have its own there.
  MIGRATE_ASSIGN(tables_before_, tables.list());
  tables_ = std::move(tables);
  CriuDump dump;
  dump.root = options_.root;
  dump.images_fd = images_->fd();
  dump.freeze_cgroup = group_.path();
  dump.tcp = options_.tcp;
  dump.externals = external_words(options_);
  if (auto key = external_network(options_.root)) dump.externals.push_back(*std::move(key));
  if (hides_) {
    MIGRATE_TRY(hidden_->set({}));
  } else {
    MIGRATE_ASSIGN(dump.lazy_port, free_port());
  }
  MIGRATE_ASSIGN(guard_, FreezeGuard::launch(group_.path(), worker_->pid(),
                                             network_ != nullptr ? network_->undo() : GateUndo{}));
  const bool held = settle_network();
  locks_network_ = !held && has_tcp_sockets(options_.root);
  if (!locks_network_) dump.network_lock = CriuNetworkLock::kNone;
  MIGRATE_TRY(worker_->begin_dump(dump));
  stage_ = Stage::kBegun;
  return {};
}

bool DumpRun::settle_network() {
  if (network_ == nullptr) return false;
  const Status settled = network_->settle();
  if (settled) return network_->covers_all();
  log_line(LogLevel::kWarning, settled.error().to_text());
  return false;
}

Result<SteadyTime> DumpRun::stop() {
  MIGRATE_CHECK(stage_ == Stage::kIdle);
  auto stopped = stop_steps();
  if (stopped) return stopped;
  if (const Status back = give_up(); !back) log_line(LogLevel::kError, back.error().to_text());
  return stopped;
}

Result<SteadyTime> DumpRun::stop_steps() {
  MIGRATE_TRY(begin());
  const Deadline deadline = Clock::now() + kStopMax;
  SteadyTime stopped_at = Clock::now();
  for (;;) {
    MIGRATE_TRY(next_hook(deadline));
    if (hook_ == "pre-dump") {
      stopped_at = Clock::now();
      // CRIU would look every 100 ms whether it is frozen.
      MIGRATE_TRY(group_.freeze(true, deadline));
      if (hides_) smaps_.emplace(*hidden_, mappings_, processes_of(options_.root));
      if (network_ != nullptr && network_->holds()) MIGRATE_TRY(network_->hold());
    }
    if (hook_ == "query-ext-files") {
      MIGRATE_TRY(check_members());
      MIGRATE_TRY(check_sockets());
      stage_ = Stage::kStands;
      return stopped_at;
    }
    MIGRATE_TRY(answer(true));
  }
}

void DumpRun::learn_mappings() {
  if (hides_ && stage_ == Stage::kIdle) mappings_.look(processes_of(options_.root));
}

/// Packets for a connection that nobody locked would be answered by a reset.
Status DumpRun::check_sockets() const {
  const bool held = network_ != nullptr && network_->holds();
  if (locks_network_ || held || !has_tcp_sockets(options_.root)) return {};
  return make_error(ErrorCode::kBusy, "the tree opened its first TCP socket as it was stopped")
      .advise("the tree goes on here; send it again");
}

Status DumpRun::check_members() const {
  MIGRATE_ASSIGN(const std::vector<pid_t> inside, group_.processes());
  const std::vector<TreeProcess> tree = list_descendants(options_.root);
  for (const pid_t pid : inside) {
    const bool of_tree = std::any_of(tree.begin(), tree.end(),
                                     [pid](const TreeProcess& one) { return one.pid == pid; });
    if (of_tree) continue;
    return make_error(ErrorCode::kUnsupported,
                      "process " + std::to_string(pid) +
                          " belongs to the tree's cgroup but is no descendant of process " +
                          std::to_string(options_.root) + ": its parent has ended")
        .advise(
            "start the tree in a pid namespace of its own, where the first process inherits "
            "such children");
  }
  // Whom the group does not hold CRIU alone holds, and nothing kills it once the tree has left.
  for (const TreeProcess& process : tree) {
    if (process.zombie || std::binary_search(inside.begin(), inside.end(), process.pid)) continue;
    return make_error(ErrorCode::kUnsupported, "process " + std::to_string(process.pid) +
                                                   " of the tree is not in the tree's cgroup, " +
                                                   group_.path())
        .advise(
            "what moves the tree's processes to other cgroups must not do so while the tree is "
            "sent; start the tree in a cgroup of its own");
  }
  return {};
}

Status DumpRun::go_on(std::span<const HiddenArea> areas) {
  MIGRATE_CHECK(stage_ == Stage::kStands);
  if (hides_) MIGRATE_TRY(hidden_->set(areas));
  MIGRATE_TRY(answer(true));
  stage_ = Stage::kDumping;
  // Now, before another migration makes its own there.
  tables_made_ = own_tables();
  return {};
}

Status DumpRun::finish() {
  MIGRATE_CHECK(stage_ == Stage::kDumping);
  return finish_steps();
}

Status DumpRun::finish_steps() {
  const Deadline deadline = Clock::now() + kDumpMax;
  for (;;) {
    MIGRATE_TRY(next_hook(deadline));
    if (hook_ == "post-dump") break;
    MIGRATE_TRY(answer(true));
  }
  MIGRATE_TRY(group_.freeze(true, Clock::now() + kStopMax));
  stage_ = Stage::kHeld;
  return check_held();
}

/// Frozen and traced: so CRIU has held it all along. Else it may have run after it was copied.
Status DumpRun::check_held() const {
  for (const TreeProcess& process : list_descendants(options_.root)) {
    if (process.zombie) continue;
    const auto facts = process_facts(process.pid);
    if (facts && facts->tracer != 0) continue;
    return make_error(ErrorCode::kGuest, "CRIU let go of process " + std::to_string(process.pid) +
                                             " when it had copied it: it was killed, it seems")
        .advise("look in the kernel's log for who killed criu (out of memory?), and try again");
  }
  return {};
}

bool DumpRun::end_in_order() {
  const Deadline deadline = Clock::now() + kEndMax;
  while (!ended_ && !lost_) {
    if (!hook_.empty()) {
      // The others tell of something; these ask.
      const bool asks = hook_ == "pre-dump" || hook_ == "network-lock" ||
                        hook_ == "query-ext-files" || hook_ == "post-dump";
      if (!answer(!asks)) break;
    }
    (void)next_event(deadline);
  }
  return ended_;
}

std::set<std::string> DumpRun::own_tables() const {
  if (tables_made_) return *tables_made_;
  std::set<std::string> own;
  if (!tables_) return own;
  const auto now = tables_->list();
  if (!now) {
    log_line(LogLevel::kWarning, now.error().to_text());
    return own;
  }
  std::set_difference(now->begin(), now->end(), tables_before_.begin(), tables_before_.end(),
                      std::inserter(own, own.end()));
  return own;
}

Status DumpRun::clean_up() {
  Status all;
  const auto keep_first = [&](Status status) {
    if (!status && all) all = std::move(status);
  };
  keep_first(group_.freeze(true, Clock::now() + kStopMax));
  if (const auto cleared = clear_tcp_repair(processes_of(options_.root)); !cleared)
    keep_first(cleared.error());
  if (tables_) keep_first(tables_->remove(own_tables()));
  return all;
}

Status DumpRun::end() {
  Status all;
  if (stage_ != Stage::kIdle && !end_in_order()) {
    worker_->kill();
    all = clean_up();
  }
  // Reaped before anything runs: it traces nothing any more. One that could not even begin is of no
  // use to the next attempt.
  worker_.reset();
  return all;
}

Status DumpRun::give_up() {
  Status all = end();
  if (network_ != nullptr) network_->go_on();
  Status thawed = group_.freeze(false, Clock::now() + kStopMax);
  if (all && !thawed) all = std::move(thawed);
  forget();
  return all;
}

Status DumpRun::leave_frozen() {
  Status all = end();
  forget();
  return all;
}

void DumpRun::drop() {
  const std::set<std::string> tables =
      stage_ == Stage::kIdle ? std::set<std::string>() : own_tables();
  worker_.reset();
  if (tables_) {
    if (const Status gone = tables_->remove(tables); !gone) {
      log_line(LogLevel::kWarning, gone.error().to_text());
    }
  }
  forget();
}

void DumpRun::committing() noexcept {
  if (guard_ != nullptr) guard_->committing();
}

void DumpRun::forget() {
  smaps_.reset();
  guard_.reset();
  images_.reset();
  tables_.reset();
  tables_before_.clear();
  tables_made_.reset();
  hook_.clear();
  ended_ = lost_ = false;
  stage_ = Stage::kIdle;
}

}  // namespace migrate::containers
