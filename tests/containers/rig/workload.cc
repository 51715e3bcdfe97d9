// The guest of the container tests and benches: it writes checked pages at a rate, and does on the
// side what programs do. Told by signals, it answers in files:
//   SIGUSR1 checks everything and appends a line of JSON to --status; SIGTERM ends it.
//   --stamps gets the time (CLOCK_REALTIME, ns, 8 bytes) every millisecond: a gap is what was seen
//   of a move.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <sstream>
#include <thread>
#include <vector>

#include "guest_links.hpp"
#include "guest_memory.hpp"

namespace migrate::rig {
namespace {

constexpr char kUsage[] =
    "workload --status FILE [--stamps FILE] [--kind K,K..=anon] [--size MIB=64] [--rate MB/s=20]\n"
    "         [--threads N=1] [--tree N=1] [--links] [--timers] [--file PATH] [--serve PORT]\n"
    "         [--folder DIR=.]\n";
constexpr uint64_t kTickNs = 1'000'000;
// What was not written while it stood still is not made up for.
constexpr uint64_t kBacklogNs = 20'000'000;
// Of a tree's private memory each process writes one page of so many; the rest stays shared.
constexpr size_t kTreeStride = 64;
constexpr size_t kFilePages = 256;
// Areas that come and go do so at 16 MB/s.
constexpr uint64_t kChangeTicks = 16;

struct Options {
  std::string status, stamps, folder = ".", file;
  std::vector<std::string> kinds = {"anon"};
  size_t size_mib = 64, rate_mb = 20, threads = 1, tree = 1;
  bool links = false, timers = false;
  uint16_t serve = 0;
};

uint64_t Now() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
  uint64_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

 private:
  uint64_t state_;
};

// One process of the tree: its areas, its writers and its ends of the links.
class Guest {
 public:
  explicit Guest(Options options) : options_(std::move(options)) {}
  void OpenFiles();
  void MakeAreas();
  void AddArea(std::unique_ptr<Area> area) { areas_.push_back(std::move(area)); }
  // In parent and children; then Run() in each.
  void ForkTree();
  [[noreturn]] void Run();

 private:
  struct Writer {
    std::mutex busy;
    Random random{1};
    uint64_t last_ns = 0;
    uint64_t owed_bytes = 0;
    std::atomic<uint64_t> pages_written{0};
  };

  void WriteTick(size_t writer);
  bool Writes(size_t writer, size_t page) const;
  void ThreadLoop(size_t writer);
  void MainTick();
  void Verify();
  void Append(const std::string& line) const;

  Options options_;
  int status_ = -1;
  int stamps_ = -1;
  size_t role_ = 0;
  std::vector<pid_t> children_;
  std::vector<std::unique_ptr<Area>> areas_;
  std::vector<std::string> missing_;
  std::vector<std::unique_ptr<Writer>> writers_;
  std::vector<Links> links_;
  CheckedFile file_;
  Timers timers_;
  uint64_t loops_ = 0;
  uint64_t last_tick_ns_ = 0;
  uint64_t longest_gap_ns_ = 0;
  uint64_t verified_ = 0;
};

void Guest::OpenFiles() {
  const int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
  status_ = open(options_.status.c_str(), flags, 0600);
  if (!options_.stamps.empty()) stamps_ = open(options_.stamps.c_str(), flags, 0600);
  if (status_ < 0 || (stamps_ < 0 && !options_.stamps.empty())) std::exit(2);
  if (!options_.file.empty() && !file_.Open(options_.file, kFilePages)) missing_.push_back("file");
}

void Guest::MakeAreas() {
  const size_t pages = options_.size_mib * (1u << 20) / kPageBytes;
  uint64_t first_number = 1;
  for (const std::string& kind : options_.kinds) {
    first_number += pages + (1u << 20);
    if (kind == "stack") continue;
    std::string problem;
    auto area = MakeArea(kind, pages, first_number, options_.folder, &problem);
    if (area) {
      AddArea(std::move(area));
    } else {
      missing_.push_back(kind + ": " + problem);
    }
  }
}

void Guest::ForkTree() {
  for (size_t child = 1; child < options_.tree; ++child) {
    Links links = Links::Make();
    const pid_t pid = fork();
    if (pid < 0) std::abort();
    if (pid > 0) {
      links.KeepParentEnds();
      if (options_.links) links_.push_back(std::move(links));
      children_.push_back(pid);
      continue;
    }
    role_ = child;
    links.KeepChildEnds();
    // The parent's links to the children before are not this one's, and stay open here as they do
    // anywhere.
    links_.clear();
    if (options_.links) links_.push_back(std::move(links));
    children_.clear();
    if (stamps_ >= 0) close(stamps_);
    stamps_ = -1;
    // What is shared is the parent's to write and to check.
    std::erase_if(areas_, [](const std::unique_ptr<Area>& area) {
      return area->kind() == "shared" || area->kind() == "memfd" || area->kind() == "sysv";
    });
    options_.file.clear();
    return;
  }
}

bool Guest::Writes(size_t writer, size_t page) const {
  if (options_.tree > 1 && page % kTreeStride != role_ % kTreeStride) return false;
  return options_.threads < 2 || page / kTreeStride % options_.threads == writer;
}

void Guest::WriteTick(size_t index) {
  Writer& writer = *writers_[index];
  const std::lock_guard<std::mutex> lock(writer.busy);
  const uint64_t now = Now();
  const uint64_t elapsed = std::min(now - std::min(now, writer.last_ns), kBacklogNs);
  writer.last_ns = now;
  writer.owed_bytes += elapsed * options_.rate_mb / 1000 / options_.threads / options_.tree;
  while (writer.owed_bytes >= kPageBytes && !areas_.empty()) {
    writer.owed_bytes -= kPageBytes;
    Area& area = *areas_[writer.random.Next() % areas_.size()];
    size_t page = writer.random.Next() % area.writable();
    // The next one that is this writer's; an area may be too small to have one.
    for (size_t tries = 0; tries < kTreeStride * 64 && !Writes(index, page); ++tries) {
      page = (page + 1) % area.writable();
    }
    if (!Writes(index, page)) continue;
    area.Write(page);
    writer.pages_written.fetch_add(1, std::memory_order_relaxed);
  }
}

void Guest::ThreadLoop(size_t writer) {
  const timespec tick{0, kTickNs};
  for (;;) {
    nanosleep(&tick, nullptr);
    WriteTick(writer);
  }
}

void Guest::MainTick() {
  const uint64_t now = Now();
  if (last_tick_ns_ != 0 && now > last_tick_ns_) {
    longest_gap_ns_ = std::max(longest_gap_ns_, now - last_tick_ns_);
  }
  last_tick_ns_ = now;
  ++loops_;
  if (stamps_ >= 0 && write(stamps_, &now, sizeof now) != sizeof now) std::abort();
  WriteTick(0);
  // With several writers, pages may not change places below them.
  if (options_.threads == 1 && loops_ % kChangeTicks == 0) {
    for (const auto& area : areas_) area->Change(writers_[0]->random.Next());
  }
  if (!options_.file.empty() && file_.pages() > 0) file_.WriteOne(writers_[0]->random.Next());
  for (Links& links : links_) {
    if (role_ == 0) {
      links.Drive();
    } else {
      links.Answer();
    }
  }
  timers_.Tick();
}

void Guest::Append(const std::string& line) const {
  // One write, so that lines of several processes do not mix.
  if (write(status_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) std::abort();
}

void Guest::Verify() {
  std::vector<std::unique_lock<std::mutex>> locks;
  for (const auto& writer : writers_) locks.emplace_back(writer->busy);
  uint64_t errors = 0;
  uint64_t pages = 0;
  uint64_t written = 0;
  std::ostringstream bad;
  for (const auto& area : areas_) {
    uint64_t wrong = 0;
    for (size_t page = 0; page < area->pages(); ++page) {
      if (!area->IsRight(page) && wrong++ == 0) bad << area->kind() << " page " << page << "; ";
    }
    errors += wrong;
    pages += area->pages();
  }
  if (!options_.file.empty()) errors += file_.CountErrors();
  uint64_t messages = 0;
  uint64_t link_errors = 0;
  for (const Links& links : links_) {
    messages += links.messages();
    link_errors += links.errors();
  }
  for (const auto& writer : writers_) written += writer->pages_written;
  std::ostringstream line;
  line << "{\"event\":\"verify\",\"role\":" << role_ << ",\"pid\":" << getpid()
       << ",\"ns\":" << last_tick_ns_ << ",\"loops\":" << loops_ << ",\"pages_written\":" << written
       << ",\"pages\":" << pages << ",\"verify_errors\":" << errors << ",\"bad\":\"" << bad.str()
       << "\",\"longest_gap_us\":" << longest_gap_ns_ / 1000 << ",\"messages\":" << messages
       << ",\"link_errors\":" << link_errors << ",\"interval_timer\":" << timers_.interval()
       << ",\"posix_timer\":" << timers_.posix() << ",\"timer_fd\":" << timers_.descriptor()
       << ",\"verified\":" << ++verified_ << "}\n";
  Append(line.str());
  // The check's own time is none that a move took.
  last_tick_ns_ = 0;
}

void Guest::Run() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGUSR1, SIGTERM, SIGALRM, SIGCHLD, SIGRTMIN}) {
    sigaddset(&signals, number);
  }
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  for (size_t index = 0; index < options_.threads; ++index) {
    writers_.push_back(std::make_unique<Writer>());
    writers_.back()->random = Random(role_ * 1000 + index + 1);
    writers_.back()->last_ns = Now();
  }
  for (size_t index = 1; index < options_.threads; ++index) {
    std::thread([this, index] { ThreadLoop(index); }).detach();
  }
  if (options_.serve != 0 && role_ == 0) std::thread(ServeEcho, options_.serve).detach();
  if (options_.timers) timers_.Start();
  std::ostringstream line;
  line << "{\"event\":\"ready\",\"role\":" << role_ << ",\"pid\":" << getpid() << ",\"missing\":\"";
  for (const std::string& kind : missing_) line << kind << "; ";
  line << "\"}\n";
  Append(line.str());
  const timespec tick{0, kTickNs};
  for (;;) {
    const int number = sigtimedwait(&signals, nullptr, &tick);
    if (number == SIGTERM) {
      for (const pid_t child : children_) kill(child, SIGTERM);
      while (wait(nullptr) > 0) {
      }
      std::_Exit(0);
    }
    if (number == SIGUSR1) {
      for (const pid_t child : children_) kill(child, SIGUSR1);
      Verify();
    }
    if (number > 0) timers_.Fired(number);
    MainTick();
  }
}

std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

bool Parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--links" || word == "--timers") {
      (word == "--links" ? options->links : options->timers) = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const std::string value = argv[++i];
    const auto number = static_cast<size_t>(std::strtoull(value.c_str(), nullptr, 10));
    if (word == "--status")
      options->status = value;
    else if (word == "--stamps")
      options->stamps = value;
    else if (word == "--folder")
      options->folder = value;
    else if (word == "--file")
      options->file = value;
    else if (word == "--kind")
      options->kinds = Split(value);
    else if (word == "--size")
      options->size_mib = number;
    else if (word == "--rate")
      options->rate_mb = number;
    else if (word == "--threads")
      options->threads = number;
    else if (word == "--tree")
      options->tree = number;
    else if (word == "--serve")
      options->serve = static_cast<uint16_t>(number);
    else
      return false;
  }
  return !options->status.empty() && options->size_mib > 0 && options->threads > 0 &&
         options->tree > 0 && options->tree <= kTreeStride;
}

// Nothing of who started it: no terminal, no descriptors, no session.
void Detach() {
  setsid();
  close_range(3, ~0u, 0);
  for (int fd = 0; fd < 3; ++fd) {
    const int null = open("/dev/null", O_RDWR);
    dup2(null, fd);
    if (null > 2) close(null);
  }
}

// Reached from the bottom of a deep stack, which has no arguments.
Guest* g_guest;

int Main(int argc, char** argv) {
  Options options;
  if (!Parse(argc, argv, &options)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  Detach();
  const bool with_stack =
      std::find(options.kinds.begin(), options.kinds.end(), "stack") != options.kinds.end();
  const size_t pages = options.size_mib * (1u << 20) / kPageBytes;
  g_guest = new Guest(std::move(options));
  g_guest->OpenFiles();
  g_guest->MakeAreas();
  const auto go = [](std::unique_ptr<Area> area) {
    if (area) g_guest->AddArea(std::move(area));
    g_guest->ForkTree();
    g_guest->Run();
  };
  if (!with_stack) go(nullptr);
  // Frames are larger than their page.
  const rlim_t room = (pages + 1024) * (kPageBytes + 1024);
  const rlimit limit{room, RLIM_INFINITY};
  setrlimit(RLIMIT_STACK, &limit);
  WithStackArea(pages, uint64_t{1} << 40, go);
  return 1;
}

}  // namespace
}  // namespace migrate::rig

int main(int argc, char** argv) { return migrate::rig::Main(argc, argv); }
