#include "adapters/kvm/vmm/workload.hpp"

#include <array>
#include <charconv>
#include <optional>
#include <span>

#include "migrate/memory.hpp"
#include "migrate/options.hpp"

namespace migrate::vmm {
namespace {

template <typename Value>
struct Name {
  std::string_view name;
  Value value;
};

constexpr std::array kWorkNames = {Name<WorkKind>{"idle", WorkKind::kIdle},
                                   Name<WorkKind>{"counter", WorkKind::kCounter},
                                   Name<WorkKind>{"writer", WorkKind::kWriter},
                                   Name<WorkKind>{"reader", WorkKind::kReader},
                                   Name<WorkKind>{"verifier", WorkKind::kVerifier},
                                   Name<WorkKind>{"responder", WorkKind::kResponder}};
constexpr std::array kPatternNames = {
    Name<Pattern>{"uniform", Pattern::kUniform}, Name<Pattern>{"sweep", Pattern::kSweep},
    Name<Pattern>{"zipf", Pattern::kZipf}, Name<Pattern>{"burst", Pattern::kBurst}};
// A file has no name of its own here: it is written @FILE.
constexpr std::array kFillNames = {Name<Fill>{"zero", Fill::kZero}, Name<Fill>{"text", Fill::kText},
                                   Name<Fill>{"random", Fill::kRandom},
                                   Name<Fill>{"mixed", Fill::kMixed}};

template <typename Value>
std::optional<Value> value_of(std::span<const Name<Value>> names, std::string_view name) {
  for (const auto& entry : names) {
    if (entry.name == name) return entry.value;
  }
  return std::nullopt;
}

template <typename Value>
std::string name_of(std::span<const Name<Value>> names, Value value) {
  for (const auto& entry : names) {
    if (entry.value == value) return std::string(entry.name);
  }
  return "unknown";
}

template <typename Value>
std::string listed(std::span<const Name<Value>> names) {
  std::string text;
  for (const auto& entry : names) text.append(text.empty() ? "" : ", ").append(entry.name);
  return text;
}

Error refused(std::string message, std::string remedy) {
  return make_error(ErrorCode::kInvalidArgument, std::move(message)).advise(std::move(remedy));
}

std::string quoted(std::string_view text) { return "\"" + std::string(text) + "\""; }

/// The text up to `separator`, which is taken off as well.
std::string_view take_until(std::string_view& text, char separator) {
  const std::size_t at = text.find(separator);
  const std::string_view head = text.substr(0, at);
  text = at == std::string_view::npos ? std::string_view{} : text.substr(at + 1);
  return head;
}

std::string_view keys_of(WorkKind kind) {
  switch (kind) {
    case WorkKind::kWriter:
      return "rate, set, pattern, seed, fill";
    case WorkKind::kReader:
      return "rate, set, seed, fill";
    case WorkKind::kVerifier:
      return "rate, seed, fill";
    case WorkKind::kIdle:
    case WorkKind::kCounter:
    case WorkKind::kResponder:
      break;
  }
  return "seed, fill";
}

bool has_key(WorkKind kind, std::string_view key) {
  std::string_view keys = keys_of(kind);
  while (!keys.empty()) {
    if (take_until(keys, ',') == key) return true;
    if (keys.starts_with(' ')) keys.remove_prefix(1);
  }
  return false;
}

Result<std::uint64_t> parse_work_rate(std::string_view text) {
  if (text == "max") return std::uint64_t{0};
  MIGRATE_ASSIGN(const std::uint64_t rate, parse_rate(text));
  if (rate == 0 || rate > kRateMax) {
    return refused("rate " + quoted(text) + " is out of range",
                   "give 1 to " + format_size(kRateMax) + " bytes a second, or rate=max");
  }
  return rate;
}

Result<std::uint64_t> parse_set(std::string_view text) {
  MIGRATE_ASSIGN(const std::uint64_t bytes, parse_size(text));
  if (bytes == 0 || bytes % kPageSize != 0) {
    return refused("set " + quoted(text) + " is not made of whole pages",
                   "give a multiple of 4K, such as set=64M");
  }
  return bytes;
}

/// The largest unit that divides it: format_size() is for people and cuts.
std::string exact_size(std::uint64_t bytes) {
  constexpr std::string_view kUnits[] = {"", "K", "M", "G", "T"};
  std::size_t unit = 0;
  for (; unit < 4 && bytes != 0 && bytes % 1024 == 0; ++unit) bytes /= 1024;
  return std::to_string(bytes).append(kUnits[unit]);
}

/// Reads one text: what holds for the whole guest is gathered from all its parts.
class Parser {
 public:
  Result<GuestWorkload> parse(std::string_view text) {
    if (text.empty()) text = "idle";
    // A separator at the end would otherwise pass for nothing.
    if (text.ends_with('+')) return empty_part();
    while (!text.empty()) MIGRATE_TRY(parse_part(take_until(text, '+')));
    if (result_.vcpus.size() > demo::kVcpusMax) {
      return refused(std::to_string(result_.vcpus.size()) + " workloads are too many",
                     "give one a vCPU, at most " + std::to_string(demo::kVcpusMax));
    }
    if (seed_) result_.seed = *seed_;
    if (fill_) result_.fill = *fill_;
    return std::move(result_);
  }

 private:
  static Error empty_part() {
    return refused("a workload between two + is empty", "give one of " + names());
  }
  static std::string names() { return listed<WorkKind>(kWorkNames); }

  Status parse_part(std::string_view part) {
    if (part.empty()) return empty_part();
    const bool has_options = part.find(':') != std::string_view::npos;
    const std::string_view name = take_until(part, ':');
    const auto kind = value_of<WorkKind>(kWorkNames, name);
    if (!kind) return refused("there is no workload " + quoted(name), "give one of " + names());
    VcpuWork work;
    work.kind = *kind;
    if (work.kind == WorkKind::kWriter) work.rate_bytes_per_s = kDefaultWriterRate;
    if (has_options) MIGRATE_TRY(parse_options(work, name, part));
    result_.vcpus.push_back(work);
    return {};
  }

  Status parse_options(VcpuWork& work, std::string_view name, std::string_view options) {
    std::vector<std::string_view> seen;
    bool more = true;
    while (more) {
      more = options.find(',') != std::string_view::npos;
      const std::string_view option = take_until(options, ',');
      const std::size_t equals = option.find('=');
      const std::string_view key = option.substr(0, equals);
      if (!has_key(work.kind, key) || equals == std::string_view::npos) {
        return refused("workload " + quoted(name) + " has no option " + quoted(option),
                       "give key=value with " + std::string(keys_of(work.kind)));
      }
      for (const std::string_view former : seen) {
        if (former != key) continue;
        return refused(quoted(key) + " is given twice for workload " + quoted(name),
                       "give it once");
      }
      seen.push_back(key);
      MIGRATE_TRY(set(work, key, option.substr(equals + 1)));
    }
    return {};
  }

  Status set(VcpuWork& work, std::string_view key, std::string_view value) {
    if (key == "seed") return set_seed(value);
    if (key == "fill") return set_fill(value);
    if (key == "rate") {
      MIGRATE_ASSIGN(work.rate_bytes_per_s, parse_work_rate(value));
    } else if (key == "set") {
      MIGRATE_ASSIGN(work.set_bytes, parse_set(value));
    } else {
      const auto pattern = value_of<Pattern>(kPatternNames, value);
      if (!pattern) {
        return refused("there is no pattern " + quoted(value),
                       "give one of " + listed<Pattern>(kPatternNames));
      }
      work.pattern = *pattern;
    }
    return {};
  }

  Status set_seed(std::string_view value) {
    std::uint64_t seed = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), seed);
    if (error != std::errc{} || end != value.data() + value.size()) {
      return refused("seed " + quoted(value) + " is not a whole number below 2^64",
                     "give such as seed=1");
    }
    if (seed_ && *seed_ != seed) return two_values("seed");
    seed_ = seed;
    return {};
  }

  Status set_fill(std::string_view value) {
    const bool is_file = value.starts_with('@') && value.size() > 1;
    const auto fill = is_file ? Fill::kFile : value_of<Fill>(kFillNames, value);
    if (!fill) {
      return refused("there is no fill " + quoted(value),
                     "give one of " + listed<Fill>(kFillNames) + ", @FILE");
    }
    const std::string_view file = is_file ? value.substr(1) : std::string_view{};
    if (fill_ && (*fill_ != *fill || result_.file != file)) return two_values("fill");
    fill_ = fill;
    result_.file = file;
    return {};
  }

  static Error two_values(const char* key) {
    return refused(std::string("two values are given for ") + key,
                   "it holds for the whole guest: give it once");
  }

  GuestWorkload result_;
  std::optional<std::uint64_t> seed_;
  std::optional<Fill> fill_;
};

}  // namespace

Result<GuestWorkload> parse_workload(std::string_view text) { return Parser().parse(text); }

std::string to_text(const VcpuWork& work) {
  std::string options;
  const auto add = [&](std::string_view key, std::string_view value) {
    options.append(options.empty() ? ":" : ",").append(key).append("=").append(value);
  };
  if (has_key(work.kind, "rate")) {
    add("rate", work.rate_bytes_per_s == 0 ? "max" : exact_size(work.rate_bytes_per_s));
  }
  if (has_key(work.kind, "set") && work.set_bytes != 0) add("set", exact_size(work.set_bytes));
  if (has_key(work.kind, "pattern")) add("pattern", name_of<Pattern>(kPatternNames, work.pattern));
  return name_of<WorkKind>(kWorkNames, work.kind) + options;
}

std::string to_text(const GuestWorkload& workload) {
  const std::vector<VcpuWork> idle(1);
  std::string text;
  for (const VcpuWork& work : workload.vcpus.empty() ? idle : workload.vcpus) {
    const bool first = text.empty();
    text.append(first ? "" : "+").append(to_text(work));
    if (!first) continue;
    text += text.find(':') == std::string::npos ? ":" : ",";
    text += "seed=" + std::to_string(workload.seed) + ",fill=";
    text += workload.fill == Fill::kFile ? "@" + workload.file
                                         : name_of<Fill>(kFillNames, workload.fill);
  }
  return text;
}

}  // namespace migrate::vmm
