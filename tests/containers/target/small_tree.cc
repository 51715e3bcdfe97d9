#include "tests/containers/target/small_tree.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <sstream>

#include "adapters/containers/criu/criu_worker.hpp"
#include "adapters/containers/target/target_checks.hpp"
#include "adapters/containers/tree_state.hpp"

namespace migrate::containers {
namespace {

constexpr std::chrono::seconds kLong{60};

std::vector<pid_t> children_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children");
  std::vector<pid_t> children;
  for (pid_t child = 0; file >> child;) children.push_back(child);
  return children;
}

bool wait_until(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kLong;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    ::poll(nullptr, 0, 2);
  }
  return true;
}

bool is_stopped(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const std::size_t end = text.rfind(')');
  return end != std::string::npos && text.compare(end, 3, ") T") == 0;
}

}  // namespace

Result<std::optional<SectionInfo>> SectionList::next() {
  read_ = 0;
  if (next_ == sections.size()) return std::optional<SectionInfo>();
  return std::optional(sections[next_++].first);
}

std::uint64_t SectionList::remaining() const { return sections[next_ - 1].second.size() - read_; }

Status SectionList::read(std::span<std::byte> into) {
  if (into.size() > remaining()) return make_error(ErrorCode::kProtocol, "the section is shorter");
  std::memcpy(into.data(), sections[next_ - 1].second.data() + read_, into.size());
  read_ += into.size();
  return {};
}

SmallTree::SmallTree(std::string folder) : folder_(std::move(folder)) {
  const std::string counts = folder_ + "/counts";
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::execl(MIGRATE_CHECKING_TREE, "checking_tree", counts.c_str(), nullptr);
    ::_exit(127);
  }
  pids_ = {pid};
  runs_ = true;
  wait_until([&] { return figures().checks[0] > 0 && figures().checks[1] > 0; });
  const auto children = children_of(pid);
  pids_.insert(pids_.end(), children.begin(), children.end());
}

SmallTree::~SmallTree() {
  if (!runs_) return;
  for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
  ::waitpid(pids_[0], nullptr, 0);
}

SmallTree::Figures SmallTree::figures() const {
  Figures figures;
  std::ifstream file(folder_ + "/counts", std::ios::binary);
  std::uint64_t words[3] = {};
  file.read(reinterpret_cast<char*>(words), sizeof words);
  figures.checks[0] = words[0];
  figures.checks[1] = words[1];
  figures.wrong = words[2];
  return figures;
}

bool SmallTree::goes_on_from(const Figures& before) const {
  return wait_until([&] {
    const Figures now = figures();
    return now.wrong > 0 ||
           (now.checks[0] > before.checks[0] + 3 && now.checks[1] > before.checks[1] + 3);
  });
}

void SmallTree::wake() const {
  for (const pid_t pid : pids_) ::kill(pid, SIGCONT);
}

Status SmallTree::dump(const CriuProgram& criu) {
  for (const pid_t pid : pids_) ::kill(pid, SIGSTOP);
  const bool stopped = wait_until([&] { return std::ranges::all_of(pids_, is_stopped); });
  if (!stopped || pids_.size() != 2) return make_error(ErrorCode::kTimeout, "no tree to dump");
  MIGRATE_TRY(copy_memory());
  return take_images(criu);
}

Status SmallTree::copy_memory() {
  for (std::uint32_t space = 0; space < pids_.size(); ++space) {
    std::ifstream maps("/proc/" + std::to_string(pids_[space]) + "/maps");
    std::uint32_t id = 0;
    for (std::string line; std::getline(maps, line);) {
      std::uint64_t begin = 0, end = 0, inode = 0;
      char flags[8] = {}, name[64] = {};
      std::sscanf(line.c_str(), "%lx-%lx %4s %*s %*s %lu %63s", &begin, &end, flags, &inode, name);
      const std::string_view what(name);
      if (flags[3] != 'p' || inode != 0 || what.starts_with("[v")) continue;
      Memory memory{{{space, id++, 0}, {{begin / 4096}, (end - begin) / 4096}, Backing::kAnonymous},
                    std::vector<std::byte>(end - begin)};
      const iovec into{memory.content.data(), memory.content.size()};
      const iovec from{reinterpret_cast<void*>(begin), memory.content.size()};
      if (::process_vm_readv(pids_[space], &into, 1, &from, 1, 0) < 0 && flags[0] == 'r') {
        return make_errno_error(ErrorCode::kIo, errno, "cannot read " + line);
      }
      memory_.push_back(std::move(memory));
    }
  }
  return {};
}

Status SmallTree::take_images(const CriuProgram& criu) {
  const std::string folder = folder_ + "/dumped";
  std::filesystem::create_directory(folder);
  const Fd images(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  CriuLaunch launch;
  launch.program.path = criu.path;
  MIGRATE_ASSIGN(const auto worker, CriuWorker::launch(launch));
  const Deadline deadline = std::chrono::steady_clock::now() + kLong;
  MIGRATE_ASSIGN(const CriuVersion version, worker->version(deadline));
  version_ = version.text;
  CriuDump dump;
  dump.root = pids_[0];
  dump.images_fd = images.get();
  MIGRATE_TRY(worker->begin_dump(dump));
  for (;;) {
    MIGRATE_ASSIGN(const CriuEvent event, worker->next(deadline));
    if (event.kind == CriuEvent::Kind::kEnd) {
      if (!event.success) return worker->failure("no dump");
      break;
    }
    MIGRATE_TRY(worker->answer(true));
  }
  ::waitpid(pids_[0], nullptr, 0);
  runs_ = false;
  wait_until([&] { return taken_pids(pids_).empty(); });
  std::vector<SpaceOwner> owners;
  for (std::uint32_t space = 0; space < pids_.size(); ++space)
    owners.push_back({space, pids_[space]});
  state.sections.push_back({{std::string(kSpacesSection), 1, true}, encode_spaces(owners)});
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".img") continue;
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    MIGRATE_ASSIGN(const std::string name, image_section(entry.path().filename().string()));
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    state.sections.push_back({{name, 1, true}, {bytes, bytes + text.size()}});
  }
  std::filesystem::remove_all(folder);
  return {};
}

GuestDescription SmallTree::description() const {
  GuestDescription description;
  description.kind = GuestKind::kContainer;
  description.name = "small tree";
  for (const Memory& memory : memory_) description.regions.push_back(memory.region);
  TreeDescription tree;
  tree.criu_version = version_;
  tree.machine = machine_name();
  tree.pids = pids_;
  description.properties.push_back(to_property(tree));
  return description;
}

Status SmallTree::send_memory(PageSink& sink) const {
  for (const Memory& memory : memory_) {
    const std::span<std::byte> into = sink.mapped(memory.region.id);
    for (std::size_t at = 0; at < into.size(); at += kPageSize) {
      const auto page = std::span(memory.content).subspan(at, kPageSize);
      if (std::ranges::all_of(page, [](std::byte b) { return b == std::byte{0}; })) continue;
      std::memcpy(into.data() + at, page.data(), kPageSize);
    }
  }
  return {};
}

}  // namespace migrate::containers
