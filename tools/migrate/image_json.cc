#include "image_json.hpp"

#include <fmt/format.h>

#include <chrono>
#include <ctime>
#include <iterator>

#include "adapters/kvm/cpu_model.hpp"
#include "adapters/kvm/vmm/machine_section.hpp"
#include "json_fields.hpp"
#include "progress_line.hpp"

namespace migrate::tool {
namespace {

Json or_null(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

Json or_null(const std::optional<Error>& error) { return error ? to_json(*error) : Json(nullptr); }

std::string hex(std::uint64_t value) { return fmt::format("{:016x}", value); }

/// UTC, as in "2026-01-31T12:00:00Z".
std::string time_text(std::uint64_t ns) {
  const std::time_t seconds = static_cast<std::time_t>(ns / 1'000'000'000);
  std::tm utc{};
  if (gmtime_r(&seconds, &utc) == nullptr) return "unknown";
  char text[32];
  return {text, std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc)};
}

/// How many bytes of pages a byte of the file stands for; 0 where it stands for none.
double ratio_of(const ImageFileInfo& file) {
  const auto content = static_cast<double>(file.stored_pages + file.duplicate_pages) *
                       static_cast<double>(kPageSize);
  return file.file_bytes == 0 ? 0 : content / static_cast<double>(file.file_bytes);
}

/// The processor features that the guest was given, by name; empty where the image does not say.
std::string features_of(const GuestDescription& guest) {
  for (const auto& property : guest.properties) {
    if (property.info.name != kvm::kCpuProperty) continue;
    const auto model = kvm::decode_cpu_model(property.body);
    if (!model || model->vcpus.empty()) return {};
    std::string names;
    for (const kvm::FeatureWord& word : kvm::feature_words()) {
      const std::uint32_t bits =
          kvm::word(model->vcpus.front(), word.function, word.index, word.reg);
      if (bits == 0) continue;
      if (!names.empty()) names += ", ";
      names += kvm::feature_names(word.function, word.index, word.reg, bits);
    }
    return names;
  }
  return {};
}

Json devices_of(const GuestDescription& guest) {
  Json devices = Json::array();
  const auto config = vmm::decode_machine(guest);
  if (!config) return devices;
  if (config->linux_guest) {
    for (const vmm::DiskConfig& disk : config->linux_guest->disks) {
      devices.push_back(
          {{"kind", "disk"}, {"bytes", disk.sectors * 512}, {"read_only", disk.read_only}});
    }
  }
  for (const vmm::NetConfig& net : config->nets) {
    devices.push_back({{"kind", "card"}, {"mac", net.mac ? vmm::to_text(*net.mac) : ""}});
  }
  return devices;
}

Json file_json(const ImageFileInfo& file) {
  return {{"path", file.path},
          {"id", file.id},
          {"parent", or_null(file.parent)},
          {"created", time_text(file.created_ns)},
          {"host", file.host},
          {"file_bytes", file.file_bytes},
          {"ratio", finite(ratio_of(file))},
          {"pages",
           {{"stored", file.stored_pages},
            {"zero", file.zero_pages},
            {"duplicate", file.duplicate_pages},
            {"parent", file.parent_pages}}},
          {"state_bytes", file.state_bytes},
          {"digest", hex(file.digest)}};
}

using Lines = std::back_insert_iterator<std::string>;

void add_error(Lines out, const Json& report) {
  if (const Json& error = part(report, "error"); !error.empty()) {
    fmt::format_to(out, "error        {}\n", error_from_json(error).to_text());
  }
}

double number(const Json& json, const char* key) {
  double value = 0;
  take(json, key, value);
  return value;
}

std::uint64_t count(const Json& json, const char* key) {
  std::uint64_t value = 0;
  take(json, key, value);
  return value;
}

}  // namespace

Json to_json(const CheckpointReport& report) {
  return {{"schema", kReportSchema},
          {"outcome", to_string(report.outcome)},
          {"path", or_null(report.path)},
          {"id", or_null(report.id)},
          {"parent", or_null(report.parent)},
          {"live", report.live},
          {"changed_by", or_null(report.changed_by)},
          {"pause_ms", report.pause_ms ? Json(finite(*report.pause_ms)) : Json(nullptr)},
          {"total_ms", finite(report.total_ms)},
          {"phases_ms",
           {{"setup", finite(report.phases_ms.setup)},
            {"quiesce", finite(report.phases_ms.quiesce)},
            {"arm", finite(report.phases_ms.arm)},
            {"state_save", finite(report.phases_ms.state_save)},
            {"resume", finite(report.phases_ms.resume)},
            {"memory", finite(report.phases_ms.memory)},
            {"publish", finite(report.phases_ms.publish)}}},
          {"pages",
           {{"total", report.pages.total},
            {"stored", report.pages.stored},
            {"zero", report.pages.zero},
            {"duplicate", report.pages.duplicate},
            {"parent", report.pages.parent},
            {"copied", report.pages.copied}}},
          {"bytes", {{"guest", report.bytes.guest}, {"file", report.bytes.file}}},
          {"faults",
           {{"count", report.faults.count},
            {"p50_us", finite(report.faults.p50_us)},
            {"p99_us", finite(report.faults.p99_us)},
            {"max_us", finite(report.faults.max_us)}}},
          {"cpu_s", finite(report.cpu_s)},
          {"error", or_null(report.error)}};
}

std::string checkpoint_text(const Json& report) {
  std::string text;
  const Lines out(text);
  fmt::format_to(out, "outcome      {}\n", report.value("outcome", ""));
  if (report.value("outcome", "") == to_string(Outcome::kDone)) {
    const Json& pages = part(report, "pages");
    const Json& bytes = part(report, "bytes");
    std::string path, id, parent;
    take(report, "path", path);
    take(report, "id", id);
    take(report, "parent", parent);
    fmt::format_to(out, "image        {}, {}{}{}\n", path.empty() ? "a stream" : path, id,
                   parent.empty() ? "" : ", on top of ", parent);
    fmt::format_to(out,
                   "size         {} of {}: {} pages stored, {} zero, {} equal to others, {} "
                   "as in the base\n",
                   human_bytes(number(bytes, "file")), human_bytes(number(bytes, "guest")),
                   count(pages, "stored"), count(pages, "zero"), count(pages, "duplicate"),
                   count(pages, "parent"));
    const auto pause = report.find("pause_ms");
    if (pause != report.end() && pause->is_number()) {
      fmt::format_to(out, "pause        {}\n", human_ms(pause->get<double>()));
    }
  }
  fmt::format_to(out, "total time   {}\n", human_ms(number(report, "total_ms")));
  add_error(out, report);
  return text;
}

Json to_json(const RestoreReport& report) {
  return {{"schema", kReportSchema},
          {"outcome", to_string(report.outcome)},
          {"path", or_null(report.path)},
          {"id", or_null(report.id)},
          {"mode", report.mode},
          {"name", report.name},
          {"started_ms", finite(report.started_ms)},
          {"total_ms", finite(report.total_ms)},
          {"phases_ms",
           {{"open", finite(report.phases_ms.open)},
            {"prepare", finite(report.phases_ms.prepare)},
            {"memory", finite(report.phases_ms.memory)},
            {"state_load", finite(report.phases_ms.state_load)},
            {"start", finite(report.phases_ms.start)}}},
          {"pages",
           {{"total", report.pages.total},
            {"stored", report.pages.stored},
            {"zero", report.pages.zero},
            {"duplicate", report.pages.duplicate},
            {"mapped", report.pages.mapped},
            {"demand", report.pages.demand},
            {"prefetched", report.pages.prefetched},
            {"background", report.pages.background},
            {"recorded", report.pages.recorded}}},
          {"bytes", {{"guest", report.bytes.guest}, {"file", report.bytes.file}}},
          {"faults",
           {{"count", report.faults.count},
            {"local", report.faults.local},
            {"p50_us", finite(report.faults.p50_us)},
            {"p99_us", finite(report.faults.p99_us)},
            {"max_us", finite(report.faults.max_us)},
            {"stall_ms", report.faults.stall_ms}}},
          {"integrity", {{"digest", report.digest}}},
          {"cpu_s", finite(report.cpu_s)},
          {"error", or_null(report.error)}};
}

std::string restore_text(const Json& report) {
  std::string text;
  const Lines out(text);
  fmt::format_to(out, "outcome      {}\n", report.value("outcome", ""));
  fmt::format_to(out, "guest        {} ({})\n", report.value("name", ""), report.value("mode", ""));
  if (number(report, "started_ms") > 0) {
    fmt::format_to(out, "started      after {}\n", human_ms(number(report, "started_ms")));
  }
  if (const Json& faults = part(report, "faults"); count(faults, "count") > 0) {
    fmt::format_to(out, "faults       {}: p50 {}, p99 {}\n", count(faults, "count"),
                   human_ms(number(faults, "p50_us") / 1000),
                   human_ms(number(faults, "p99_us") / 1000));
  }
  fmt::format_to(out, "total time   {}\n", human_ms(number(report, "total_ms")));
  add_error(out, report);
  return text;
}

Json to_json(const ImageInfo& info) {
  Json chain = Json::array();
  for (const ImageFileInfo& file : info.chain) chain.push_back(file_json(file));
  Json sections = Json::array();
  for (const auto& section : info.sections) {
    sections.push_back({{"name", section.info.name},
                        {"version", section.info.version},
                        {"mandatory", section.info.mandatory},
                        {"bytes", section.bytes}});
  }
  Json regions = Json::array();
  std::uint64_t bytes = 0;
  for (const Region& region : info.guest.regions) {
    bytes += region.range.bytes();
    regions.push_back({{"id", to_text(region.id)},
                       {"first_page", region.range.first.number},
                       {"pages", region.range.count}});
  }
  return {{"guest",
           {{"name", info.guest.name},
            {"kind", to_string(info.guest.kind)},
            {"vcpus", info.guest.vcpus},
            {"memory_bytes", bytes},
            {"state", to_string(info.run_state)},
            {"cpu_features", or_null(features_of(info.guest))},
            {"devices", devices_of(info.guest)},
            {"regions", regions}}},
          {"chain", chain},
          {"sections", sections}};
}

std::string image_text(const ImageInfo& info) {
  std::string text;
  const Lines out(text);
  const Json json = to_json(info);
  const Json& guest = json["guest"];
  fmt::format_to(out, "guest        {}: {}, {} vCPU{}, {}, {}\n", info.guest.name,
                 to_string(info.guest.kind), info.guest.vcpus, info.guest.vcpus == 1 ? "" : "s",
                 human_bytes(guest["memory_bytes"].get<double>()), to_string(info.run_state));
  for (const Json& device : guest["devices"]) {
    const bool disk = device["kind"] == "disk";
    fmt::format_to(
        out, "  {}       {}\n", disk ? "disk" : "card",
        disk ? human_bytes(device["bytes"].get<double>()) : device["mac"].get<std::string>());
  }
  std::uint64_t state = 0;
  for (const auto& section : info.sections) state += section.bytes;
  fmt::format_to(out, "state        {} sections, {}\n", info.sections.size(),
                 human_bytes(static_cast<double>(state)));
  if (guest["cpu_features"].is_string()) {
    fmt::format_to(out, "processor    {}\n", guest["cpu_features"].get<std::string>());
  }
  for (const ImageFileInfo& file : info.chain) {
    fmt::format_to(out, "{}        {}\n", &file == &info.chain.front() ? "image" : "base ",
                   file.path);
    fmt::format_to(out, "  id         {}\n  created    {} on {}\n", file.id,
                   time_text(file.created_ns), file.host);
    fmt::format_to(out,
                   "  size       {}: {} pages stored, {} zero, {} equal to others, {} as in "
                   "the base; {:.2f} bytes of pages a byte\n",
                   human_bytes(static_cast<double>(file.file_bytes)), file.stored_pages,
                   file.zero_pages, file.duplicate_pages, file.parent_pages, ratio_of(file));
    fmt::format_to(out, "  digest     {}\n", hex(file.digest));
  }
  return text;
}

}  // namespace migrate::tool
