// A baseline as a file: docs/cpu-baseline.md.
#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <vector>

#include "adapters/kvm/cpu_baseline.hpp"
#include "adapters/kvm/msrs.hpp"

namespace migrate {
namespace {

using namespace kvm;

constexpr std::string_view kMagic = "migrate-cpu-baseline";
constexpr std::uint32_t kFormat = 1;
/// A baseline has some forty lines; more is another file.
constexpr std::size_t kTextBytesMax = 64 * 1024;
constexpr std::array<std::string_view, 4> kRegisters = {"eax", "ebx", "ecx", "edx"};

using Tokens = std::vector<std::string_view>;

Error wrong(std::size_t line, const std::string& what) {
  return make_error(ErrorCode::kInvalidArgument,
                    "the CPU baseline's line " + std::to_string(line) + " " + what)
      .advise("make it anew: migrate doctor --cpu-baseline > FILE");
}

/// The words of a line up to a '#'.
Tokens tokens_of(std::string_view line) {
  line = line.substr(0, line.find('#'));
  Tokens tokens;
  while (true) {
    const auto begin = line.find_first_not_of(" \t\r");
    if (begin == std::string_view::npos) return tokens;
    const auto end = std::min(line.find_first_of(" \t\r", begin), line.size());
    tokens.push_back(line.substr(begin, end - begin));
    line.remove_prefix(end);
  }
}

template <typename T>
bool read_number(std::string_view text, T& value) {
  const bool hexadecimal = text.rfind("0x", 0) == 0;
  if (hexadecimal) text.remove_prefix(2);
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value, hexadecimal ? 16 : 10);
  return error == std::errc() && end == text.data() + text.size();
}

/// Reads one line after another into a baseline.
class Reader {
 public:
  Status take(std::size_t number, const Tokens& tokens);
  Result<KvmCpuBaseline> finish() &&;

 private:
  [[nodiscard]] bool take_fields(const Tokens& tokens);
  [[nodiscard]] bool take_word(const Tokens& tokens);
  [[nodiscard]] bool take_component(const Tokens& tokens);

  KvmCpuBaseline baseline_;
  std::vector<std::string> seen_;
  bool begun_ = false;
};

/// "word 0x7.0 ebx 0x20"
bool Reader::take_word(const Tokens& tokens) {
  KvmCpuBaseline::Word word;
  if (tokens.size() != 4) return false;
  const auto dot = tokens[1].find('.');
  if (dot == std::string_view::npos || !read_number(tokens[1].substr(0, dot), word.function) ||
      !read_number(tokens[1].substr(dot + 1), word.index) || !read_number(tokens[3], word.bits)) {
    return false;
  }
  const auto* const reg = std::find(kRegisters.begin(), kRegisters.end(), tokens[2]);
  word.reg = static_cast<std::uint32_t>(reg - kRegisters.begin());
  const auto words = feature_words();
  const bool known = std::any_of(words.begin(), words.end(), [&](const FeatureWord& place) {
    return place.function == word.function && place.index == word.index &&
           static_cast<std::uint32_t>(place.reg) == word.reg;
  });
  if (known) baseline_.words.push_back(word);
  return known;
}

/// "component 2 bytes 256 offset 576 flags 0x0"
bool Reader::take_component(const Tokens& tokens) {
  KvmCpuBaseline::Component component;
  const bool read =
      tokens.size() == 8 && tokens[2] == "bytes" && tokens[4] == "offset" && tokens[6] == "flags" &&
      read_number(tokens[1], component.number) && read_number(tokens[3], component.bytes) &&
      read_number(tokens[5], component.offset) && read_number(tokens[7], component.flags);
  // No XSAVE area is near a mebibyte; sums of two stay small.
  constexpr std::uint32_t kBytesMax = 1 << 20;
  if (!read || component.number < 2 || component.number > 62 || component.bytes > kBytesMax ||
      component.offset > kBytesMax) {
    return false;
  }
  baseline_.components.push_back(component);
  return true;
}

bool Reader::take_fields(const Tokens& tokens) {
  const std::string_view key = tokens[0];
  const auto number = [&](std::size_t i, auto& value) {
    return i < tokens.size() && read_number(tokens[i], value);
  };
  if (key == "vendor") {
    if (tokens.size() != 2 || tokens[1].size() != 12) return false;
    baseline_.vendor = tokens[1];
    return true;
  }
  if (key == "signature") return tokens.size() == 2 && number(1, baseline_.signature);
  if (key == "max-leaf") {
    return tokens.size() == 3 && number(1, baseline_.max_leaf) &&
           number(2, baseline_.max_extended_leaf) && baseline_.max_leaf < 0x40000000 &&
           baseline_.max_extended_leaf >= 0x80000000;
  }
  if (key == "address-bits") {
    return tokens.size() == 3 && number(1, baseline_.physical_bits) &&
           number(2, baseline_.linear_bits) && baseline_.physical_bits <= 64 &&
           baseline_.linear_bits <= 64;
  }
  if (key == "arch-capabilities") {
    return tokens.size() == 2 && number(1, baseline_.arch_capabilities.emplace());
  }
  if (key == "word") return take_word(tokens);
  return key == "component" && take_component(tokens);
}

Status Reader::take(std::size_t number, const Tokens& tokens) {
  if (!begun_) {
    std::uint32_t format = 0;
    if (tokens[0] != kMagic || tokens.size() != 2 || !read_number(tokens[1], format)) {
      return wrong(number, "is not the beginning of one");
    }
    if (format != kFormat) {
      return make_error(ErrorCode::kVersionMismatch, "the CPU baseline is of format " +
                                                         std::to_string(format) + ", and format " +
                                                         std::to_string(kFormat) + " is known here")
          .advise("make it on a host with this version");
    }
    begun_ = true;
    return {};
  }
  // A key comes once; words and components once for each place.
  std::string key(tokens[0]);
  if (key == "word" && tokens.size() > 2) key += std::string(tokens[1]) + std::string(tokens[2]);
  if (key == "component" && tokens.size() > 1) key += tokens[1];
  if (std::find(seen_.begin(), seen_.end(), key) != seen_.end()) {
    return wrong(number, "comes twice");
  }
  seen_.push_back(std::move(key));
  if (!take_fields(tokens)) return wrong(number, "is not understood");
  return {};
}

Result<KvmCpuBaseline> Reader::finish() && {
  for (const char* key : {"vendor", "signature", "max-leaf", "address-bits"}) {
    if (std::find(seen_.begin(), seen_.end(), key) != seen_.end()) continue;
    return make_error(ErrorCode::kInvalidArgument,
                      std::string("the CPU baseline lacks the line ") + key)
        .advise("make it anew: migrate doctor --cpu-baseline > FILE");
  }
  return std::move(baseline_);
}

std::string signature_text(std::uint32_t signature) {
  const std::uint32_t family = (signature >> 8 & 0xf) + (signature >> 20 & 0xff);
  const std::uint32_t model = (signature >> 4 & 0xf) | (signature >> 12 & 0xf0);
  return "family " + std::to_string(family) + ", model " + std::to_string(model) + ", stepping " +
         std::to_string(signature & 0xf);
}

}  // namespace

std::string to_text(const KvmCpuBaseline& baseline) {
  std::string text = std::string(kMagic) + " " + std::to_string(kFormat) + "\n";
  text += "vendor " + baseline.vendor + "\n";
  text +=
      "signature " + hex(baseline.signature) + "  # " + signature_text(baseline.signature) + "\n";
  text += "max-leaf " + hex(baseline.max_leaf) + " " + hex(baseline.max_extended_leaf) + "\n";
  text += "address-bits " + std::to_string(baseline.physical_bits) + " " +
          std::to_string(baseline.linear_bits) + "\n";
  for (const KvmCpuBaseline::Word& word : baseline.words) {
    text += "word " + hex(word.function) + "." + std::to_string(word.index) + " " +
            std::string(kRegisters[word.reg & 3]) + " " + hex(word.bits);
    const std::string names =
        feature_names(word.function, word.index, static_cast<Register>(word.reg), word.bits);
    if (!names.empty() && word.function != 0xd) text += "  # " + names;
    text += "\n";
  }
  for (const KvmCpuBaseline::Component& component : baseline.components) {
    text += "component " + std::to_string(component.number) + " bytes " +
            std::to_string(component.bytes) + " offset " + std::to_string(component.offset) +
            " flags " + hex(component.flags) + "\n";
  }
  if (baseline.arch_capabilities) {
    text += "arch-capabilities " + hex(*baseline.arch_capabilities) + "\n";
  }
  return text;
}

Result<KvmCpuBaseline> parse_cpu_baseline(std::string_view text) {
  if (text.size() > kTextBytesMax) {
    return make_error(ErrorCode::kInvalidArgument, "a CPU baseline is not as long as this file");
  }
  Reader reader;
  for (std::size_t line = 1; !text.empty(); ++line) {
    const auto end = std::min(text.find('\n'), text.size());
    const Tokens tokens = tokens_of(text.substr(0, end));
    if (!tokens.empty()) MIGRATE_TRY(reader.take(line, tokens));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return std::move(reader).finish();
}

}  // namespace migrate
