// What this machine can do at most: copying, scanning and hashing memory, and moving scattered
// pages through loopback TCP, with and without what a migration does to each page. Whole migrations
// are compared with these figures.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "memory/zero_page.hpp"
#include "migrate/channel.hpp"
#include "migrate/memory.hpp"
#include "migrate/options.hpp"
#include "wire/hasher.hpp"

namespace migrate::bench {
namespace {

// As many iovecs a system call as the engine's batches have.
constexpr std::size_t kBatchPages = 256;
// Nothing on loopback takes this long; a hang ends.
constexpr std::chrono::seconds kIdleMax{30};

struct Settings {
  std::uint64_t memory_bytes = 512ull << 20;
  std::vector<unsigned> lanes = {1, 2};
  unsigned repeats = 3;
  bool json = false;
};

struct Figure {
  std::string name;
  double gb_per_s_median = 0;
  double gb_per_s_best = 0;
  double cpu_s_per_gb = 0;  ///< Of the median run; both sides of a pump.
};

/// Ends the program: without this, nothing here can be measured.
[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "pump: %s\n", why.c_str());
  std::exit(1);
}

template <typename T>
T must(Result<T> result) {
  if (!result) give_up(result.error().to_text());
  return std::move(result).value();
}
void must(const Status& status) {
  if (!status) give_up(status.error().to_text());
}

/// Anonymous memory, prefaulted by being written.
class Memory {
 public:
  Memory(std::uint64_t bytes, std::uint64_t seed) : bytes_(bytes) {
    void* address =
        ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) give_up("not enough memory; give a smaller --memory");
    base_ = static_cast<std::byte*>(address);
    // As the engine does with a target's memory.
    ::madvise(base_, bytes_, MADV_HUGEPAGE);
    fill(seed);
  }
  ~Memory() { ::munmap(base_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  [[nodiscard]] std::byte* page(std::size_t number) const { return base_ + number * kPageSize; }
  [[nodiscard]] std::size_t pages() const { return bytes_ / kPageSize; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  /// Zero for seed 0, else bytes that no compression or zero check could make use of.
  void fill(std::uint64_t seed) {
    if (seed == 0) {
      std::memset(base_, 0, bytes_);
      return;
    }
    auto* words = reinterpret_cast<std::uint64_t*>(base_);
    std::mt19937_64 random(seed);
    for (std::size_t i = 0; i < bytes_ / sizeof *words; ++i) words[i] = random();
  }

  std::uint64_t bytes_;
  std::byte* base_ = nullptr;
};

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// Runs `work` on `bytes` once to warm up and then `repeats` times.
Figure measure(std::string name, std::uint64_t bytes, unsigned repeats,
               const std::function<void()>& work) {
  struct Run {
    double seconds;
    double cpu;
  };
  std::vector<Run> runs;
  for (unsigned i = 0; i <= repeats; ++i) {
    const double cpu_before = cpu_seconds();
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (i > 0) runs.push_back({took.count(), cpu_seconds() - cpu_before});
  }
  std::sort(runs.begin(), runs.end(),
            [](const Run& a, const Run& b) { return a.seconds < b.seconds; });
  const Run& median = runs[runs.size() / 2];
  const double gigabytes = static_cast<double>(bytes) / 1e9;
  return {std::move(name), gigabytes / median.seconds, gigabytes / runs.front().seconds,
          median.cpu / gigabytes};
}

/// Keeps the compiler from leaving work out.
std::atomic<std::uint64_t> sink;

Figure measure_memcpy(const Settings& settings, const Memory& from, const Memory& to) {
  return measure("memcpy", from.bytes(), settings.repeats,
                 [&] { std::memcpy(to.page(0), from.page(0), from.bytes()); });
}

Figure measure_zero_scan(const Settings& settings) {
  // Only a zero page is looked at whole.
  const Memory zero(settings.memory_bytes, 0);
  return measure("zero scan", zero.bytes(), settings.repeats, [&] {
    std::uint64_t found = 0;
    for (std::size_t i = 0; i < zero.pages(); ++i) found += is_zero_page(zero.page(i)) ? 1 : 0;
    sink += found;
  });
}

Figure measure_hash(const Settings& settings, const Memory& memory, const wire::Hasher& hasher) {
  return measure("XXH3, 4 KiB pages", memory.bytes(), settings.repeats, [&] {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < memory.pages(); ++i) {
      sum += hasher.hash({memory.page(i), kPageSize});
    }
    sink += sum;
  });
}

/// What is done to each page beside moving it.
enum class PageWork {
  kNone,
  kHashed,  ///< Zero check and hash at the source, hash at the target; sent from where it lies.
  kStaged,  ///< As kHashed, through a copy, as must be done while the guest may write.
};

std::string_view to_string(PageWork work) {
  switch (work) {
    case PageWork::kNone:
      return "pages only";
    case PageWork::kHashed:
      return "scan + hash";
    case PageWork::kStaged:
      return "copy + scan + hash";
  }
  return "unknown";
}

/// One connection with its share of the pages, scattered.
struct Lane {
  std::unique_ptr<Channel> source;
  std::unique_ptr<Channel> target;
  std::vector<std::size_t> pages;
  std::uint64_t sent_hashes = 0;
  std::uint64_t received_hashes = 0;
};

std::vector<Lane> open_lanes(unsigned count, std::size_t pages) {
  const auto acceptor = must(make_tcp_acceptor("127.0.0.1", "0"));
  const std::string address = acceptor->address();
  const auto connector = make_tcp_connector("127.0.0.1", address.substr(address.rfind(':') + 1));
  // The same order in each run: batches do not find neighbours, nor do two runs differ by chance.
  std::vector<std::size_t> order(pages);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
  std::vector<Lane> lanes(count);
  for (unsigned i = 0; i < count; ++i) {
    lanes[i].source = must(connector->connect(kIdleMax));
    lanes[i].target = must(acceptor->accept(kIdleMax));
    const auto first = static_cast<std::ptrdiff_t>(pages * i / count);
    const auto end = static_cast<std::ptrdiff_t>(pages * (i + 1) / count);
    lanes[i].pages.assign(order.begin() + first, order.begin() + end);
  }
  return lanes;
}

std::uint64_t hash_of(const wire::Hasher& hasher, std::span<const iovec> parts) {
  std::uint64_t sum = 0;
  for (const iovec& part : parts) {
    sum += hasher.hash({static_cast<const std::byte*>(part.iov_base), part.iov_len});
  }
  return sum;
}

std::uint64_t zero_pages_of(std::span<const iovec> parts) {
  std::uint64_t count = 0;
  for (const iovec& part : parts) {
    count += is_zero_page(static_cast<const std::byte*>(part.iov_base)) ? 1 : 0;
  }
  return count;
}

void run_source(Lane& lane, const Memory& memory, PageWork work, const wire::Hasher& hasher) {
  std::vector<iovec> parts;
  std::vector<std::byte> staging(work == PageWork::kStaged ? kBatchPages * kPageSize : 0);
  lane.sent_hashes = 0;
  for (std::size_t first = 0; first < lane.pages.size(); first += kBatchPages) {
    const std::size_t count = std::min(kBatchPages, lane.pages.size() - first);
    parts.clear();
    for (std::size_t i = 0; i < count; ++i) {
      std::byte* page = memory.page(lane.pages[first + i]);
      if (work == PageWork::kStaged) {
        page = static_cast<std::byte*>(std::memcpy(&staging[i * kPageSize], page, kPageSize));
      }
      parts.push_back({page, kPageSize});
    }
    if (work != PageWork::kNone) {
      sink += zero_pages_of(parts);
      lane.sent_hashes += hash_of(hasher, parts);
    }
    must(lane.source->send(parts, kIdleMax));
  }
}

/// Fills all of `parts`, which are used up.
void receive_whole(Channel& channel, std::span<iovec> parts) {
  while (!parts.empty()) {
    std::size_t count = must(channel.receive(parts, kIdleMax));
    if (count == 0) give_up("a connection to this very process was closed");
    while (!parts.empty() && count >= parts.front().iov_len) {
      count -= parts.front().iov_len;
      parts = parts.subspan(1);
    }
    if (count > 0) {
      parts.front().iov_base = static_cast<std::byte*>(parts.front().iov_base) + count;
      parts.front().iov_len -= count;
    }
  }
}

void run_target(Lane& lane, const Memory& memory, PageWork work, const wire::Hasher& hasher) {
  std::vector<iovec> parts;
  std::vector<iovec> left;
  lane.received_hashes = 0;
  for (std::size_t first = 0; first < lane.pages.size(); first += kBatchPages) {
    const std::size_t count = std::min(kBatchPages, lane.pages.size() - first);
    parts.clear();
    for (std::size_t i = 0; i < count; ++i) {
      parts.push_back({memory.page(lane.pages[first + i]), kPageSize});
    }
    left = parts;
    receive_whole(*lane.target, left);
    if (work != PageWork::kNone) lane.received_hashes += hash_of(hasher, parts);
  }
}

Figure measure_pump(const Settings& settings, unsigned count, PageWork work, const Memory& from,
                    const Memory& to, const wire::Hasher& hasher) {
  std::memset(to.page(0), 0, to.bytes());
  std::vector<Lane> lanes = open_lanes(count, from.pages());
  std::string name = "pump, " + std::to_string(count) + (count == 1 ? " lane, " : " lanes, ");
  name += to_string(work);
  Figure figure = measure(std::move(name), from.bytes(), settings.repeats, [&] {
    std::vector<std::jthread> threads;
    for (Lane& lane : lanes) {
      threads.emplace_back([&] { run_target(lane, to, work, hasher); });
      threads.emplace_back([&] { run_source(lane, from, work, hasher); });
    }
  });
  for (const Lane& lane : lanes) {
    if (lane.sent_hashes != lane.received_hashes) give_up("pages arrived changed");
  }
  if (std::memcmp(from.page(0), to.page(0), from.bytes()) != 0) give_up("memory arrived changed");
  return figure;
}

std::vector<Figure> measure_all(const Settings& settings) {
  const wire::Hasher hasher(wire::SessionRandom{}, wire::SessionRandom{});
  const Memory from(settings.memory_bytes, 1);
  const Memory to(settings.memory_bytes, 0);
  std::vector<Figure> figures;
  figures.push_back(measure_memcpy(settings, from, to));
  figures.push_back(measure_zero_scan(settings));
  figures.push_back(measure_hash(settings, from, hasher));
  for (const unsigned lanes : settings.lanes) {
    for (const PageWork work : {PageWork::kNone, PageWork::kHashed, PageWork::kStaged}) {
      figures.push_back(measure_pump(settings, lanes, work, from, to, hasher));
    }
  }
  return figures;
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string kernel() {
  utsname name{};
  return ::uname(&name) == 0 ? name.release : "unknown";
}

void print_table(const Settings& settings, const std::vector<Figure>& figures) {
  std::printf("%s, %u cores, kernel %s; %s a run, median of %u\n\n", cpu_model().c_str(),
              std::thread::hardware_concurrency(), kernel().c_str(),
              format_size(settings.memory_bytes).c_str(), settings.repeats);
  std::printf("%-36s %10s %10s %14s\n", "", "GB/s", "best", "cpu s per GB");
  for (const Figure& figure : figures) {
    std::printf("%-36s %10.2f %10.2f %14.2f\n", figure.name.c_str(), figure.gb_per_s_median,
                figure.gb_per_s_best, figure.cpu_s_per_gb);
  }
}

std::string quoted(std::string_view text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    if (c >= ' ') json += c;
  }
  return json + "\"";
}

void print_json(const Settings& settings, const std::vector<Figure>& figures) {
  std::printf("{\"schema\":\"migrate-pump\",\"version\":1,\"host\":{\"kernel\":%s,\"cpu\":%s,",
              quoted(kernel()).c_str(), quoted(cpu_model()).c_str());
  std::printf("\"cores\":%u},\"memory_bytes\":%llu,\"repeats\":%u,\"figures\":[",
              std::thread::hardware_concurrency(),
              static_cast<unsigned long long>(settings.memory_bytes), settings.repeats);
  for (std::size_t i = 0; i < figures.size(); ++i) {
    const Figure& figure = figures[i];
    std::printf("%s{\"name\":%s,\"gb_per_s\":%.3f,\"gb_per_s_best\":%.3f,\"cpu_s_per_gb\":%.3f}",
                i == 0 ? "" : ",", quoted(figure.name).c_str(), figure.gb_per_s_median,
                figure.gb_per_s_best, figure.cpu_s_per_gb);
  }
  std::printf("]}\n");
}

[[noreturn]] void usage(int exit_code) {
  std::fprintf(exit_code == 0 ? stdout : stderr,
               "usage: pump [--memory SIZE] [--lanes N,N,...] [--repeats N] [--json]\n"
               "  --memory   moved in each run, twice that is needed [512M]\n"
               "  --lanes    numbers of connections to measure [1,2]\n"
               "  --repeats  runs of each, after one to warm up [3]\n");
  std::exit(exit_code);
}

unsigned parse_count(std::string_view text) {
  unsigned count = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (failure != std::errc() || end != text.data() + text.size() || count < 1 || count > 64) {
    usage(2);
  }
  return count;
}

std::vector<unsigned> parse_counts(std::string_view text) {
  std::vector<unsigned> counts;
  while (true) {
    const std::size_t comma = text.find(',');
    counts.push_back(parse_count(text.substr(0, comma)));
    if (comma == std::string_view::npos) return counts;
    text.remove_prefix(comma + 1);
  }
}

Settings parse(std::span<char*> arguments) {
  Settings settings;
  while (!arguments.empty()) {
    const std::string_view name = arguments.front();
    arguments = arguments.subspan(1);
    if (name == "--help") usage(0);
    if (name == "--json") {
      settings.json = true;
      continue;
    }
    if (arguments.empty()) usage(2);
    const std::string_view value = arguments.front();
    arguments = arguments.subspan(1);
    if (name == "--memory") {
      const auto bytes = parse_size(value);
      if (!bytes || *bytes < (1u << 20)) usage(2);
      settings.memory_bytes = *bytes / kPageSize * kPageSize;
    } else if (name == "--lanes") {
      settings.lanes = parse_counts(value);
    } else if (name == "--repeats") {
      settings.repeats = parse_count(value);
    } else {
      usage(2);
    }
  }
  return settings;
}

}  // namespace
}  // namespace migrate::bench

int main(int argc, char** argv) {
  using namespace migrate::bench;
  const Settings settings =
      parse(std::span(argv + 1, static_cast<std::size_t>(std::max(argc - 1, 0))));
  const std::vector<Figure> figures = measure_all(settings);
  settings.json ? print_json(settings, figures) : print_table(settings, figures);
  return 0;
}
