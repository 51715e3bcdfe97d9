#include "bench/measuring.hpp"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "migrate/memory.hpp"
#include "migrate/options.hpp"

namespace migrate::bench {
namespace {

constexpr std::uint64_t kHugePage = 2 << 20;
// More than a target takes between two looks, at 5 GB/s and on a busy machine.
constexpr std::uint64_t kWarmAhead = 256 << 20;
constexpr std::chrono::milliseconds kWarmInterval{10};

}  // namespace

void give_up(const std::string& why) {
  std::fprintf(stderr, "%s: %s\n", program_invocation_short_name, why.c_str());
  std::exit(1);
}

void must(const Status& status) {
  if (!status) give_up(status.error().to_text());
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

WarmMemory::WarmMemory(std::uint64_t bytes) : bytes_(bytes / kHugePage * kHugePage) {
  if (bytes_ == 0) return;
  void* const mapping = ::mmap(nullptr, bytes_ + kHugePage, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) give_up("not enough memory; give a smaller --memory");
  mapping_ = static_cast<std::byte*>(mapping);
  const auto address = reinterpret_cast<std::uintptr_t>(mapping_);
  memory_ = mapping_ + ((kHugePage - address % kHugePage) % kHugePage);
  // As a target does, so that pieces of the same size are there for it.
  ::madvise(memory_, bytes_, MADV_HUGEPAGE);
  for (std::uint64_t at = 0; at < bytes_; at += kPageSize) {
    reinterpret_cast<volatile std::byte&>(memory_[at]) = std::byte{1};
  }
  const std::uint64_t before = others();
  give_back(kWarmAhead);
  follower_ = std::jthread([this, before](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      std::this_thread::sleep_for(kWarmInterval);
      const std::uint64_t now = others();
      give_back(kWarmAhead + (now > before ? now - before : 0));
    }
  });
}

WarmMemory::~WarmMemory() {
  follower_ = {};
  if (mapping_ != nullptr) ::munmap(mapping_, bytes_ + kHugePage);
}

void WarmMemory::give_back(std::uint64_t until) {
  until = std::min(until / kHugePage * kHugePage, bytes_);
  if (until <= given_) return;
  ::madvise(memory_ + given_, until - given_, MADV_DONTNEED);
  given_ = until;
}

std::uint64_t WarmMemory::others() const {
  std::ifstream file("/proc/self/statm");
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  file >> size >> resident;
  const std::uint64_t own = bytes_ - given_;
  return resident * kPageSize > own ? resident * kPageSize - own : 0;
}

double Samples::percentile(double percent) const {
  if (values_.empty()) return 0;
  std::vector<double> sorted = values_;
  std::sort(sorted.begin(), sorted.end());
  const double rank = std::ceil(percent / 100 * static_cast<double>(sorted.size()));
  const auto index = static_cast<std::size_t>(std::max(rank, 1.0)) - 1;
  return sorted[std::min(index, sorted.size() - 1)];
}

std::vector<Figure> measure_in_turns(std::span<const std::string> names, std::uint64_t bytes,
                                     unsigned repeats,
                                     std::span<const std::function<void()>> works) {
  struct Run {
    double seconds;
    double cpu;
  };
  std::vector<std::vector<Run>> runs(works.size());
  for (unsigned i = 0; i <= repeats; ++i) {
    for (std::size_t which = 0; which < works.size(); ++which) {
      const double cpu_before = cpu_seconds();
      const auto start = std::chrono::steady_clock::now();
      works[which]();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (i > 0) runs[which].push_back({took.count(), cpu_seconds() - cpu_before});
    }
  }
  std::vector<Figure> figures;
  const double gigabytes = static_cast<double>(bytes) / 1e9;
  for (std::size_t which = 0; which < works.size(); ++which) {
    std::sort(runs[which].begin(), runs[which].end(),
              [](const Run& a, const Run& b) { return a.seconds < b.seconds; });
    const Run& median = runs[which][runs[which].size() / 2];
    figures.push_back({names[which], gigabytes / median.seconds,
                       gigabytes / runs[which].front().seconds, median.cpu / gigabytes});
  }
  return figures;
}

Figure measure(std::string name, std::uint64_t bytes, unsigned repeats,
               const std::function<void()>& work) {
  return measure_in_turns(std::span(&name, 1), bytes, repeats, std::span(&work, 1)).front();
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

std::string host_text() {
  return cpu_model() + ", " + std::to_string(std::thread::hardware_concurrency()) +
         " cores, kernel " + kernel();
}

std::string host_json() {
  return "{\"kernel\":" + quoted(kernel()) + ",\"cpu\":" + quoted(cpu_model()) +
         ",\"cores\":" + std::to_string(std::thread::hardware_concurrency()) + "}";
}

std::string quoted(std::string_view text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    if (c >= ' ') json += c;
  }
  return json + "\"";
}

Arguments::Arguments(int argc, char** argv, std::string usage)
    : left_(argv + std::min(argc, 1), static_cast<std::size_t>(std::max(argc - 1, 0))),
      usage_(std::move(usage)) {}

bool Arguments::next() {
  if (left_.empty()) return false;
  name_ = left_.front();
  left_ = left_.subspan(1);
  if (name_ == "--help") {
    std::fputs(usage_.c_str(), stdout);
    std::exit(0);
  }
  return true;
}

std::string_view Arguments::value() {
  if (left_.empty()) misunderstood();
  const std::string_view value = left_.front();
  left_ = left_.subspan(1);
  return value;
}

std::uint64_t Arguments::size() {
  const auto bytes = parse_size(value());
  if (!bytes || *bytes < (1u << 20)) misunderstood();
  return *bytes / kPageSize * kPageSize;
}

unsigned Arguments::count() {
  const std::string_view text = value();
  unsigned count = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (failure != std::errc() || end != text.data() + text.size() || count < 1 || count > 10'000) {
    misunderstood();
  }
  return count;
}

void Arguments::misunderstood() const {
  std::fprintf(stderr, "%s: %s is not understood\n%s", program_invocation_short_name,
               std::string(name_).c_str(), usage_.c_str());
  std::exit(2);
}

}  // namespace migrate::bench
