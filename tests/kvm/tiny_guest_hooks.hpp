// A VMM around TinyGuest, as small as the adapter allows: hooks for both sides and sections kept in
// memory.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "migrate/kvm.hpp"
#include "tests/kvm/tiny_guest.hpp"

namespace migrate::testing {

class TinySourceHooks final : public KvmSourceHooks {
 public:
  explicit TinySourceHooks(TinyGuest& guest) : guest_(guest) {}

  [[nodiscard]] std::string name() override { return "tiny"; }
  Result<std::vector<GuestDescription::Property>> properties() override {
    return std::vector<GuestDescription::Property>{{{"tiny.device", 1, false}, {}}};
  }
  RunState run_state() override { return state; }
  Result<PauseResult> pause() override {
    guest_.pause();
    ++pauses;
    return PauseResult{std::exchange(state, RunState::kPaused), std::chrono::steady_clock::now()};
  }
  Status resume() override {
    guest_.resume();
    state = RunState::kRunning;
    return {};
  }
  Status save_devices(StateWriter& writer) override {
    return writer.section({"tiny.device", 1, true}, std::as_bytes(std::span(device)));
  }
  Status throttle(std::uint32_t, double) override {
    return make_error(ErrorCode::kUnsupported, "no throttle");
  }
  Status relinquish() override { return {}; }
  Status reclaim() override { return {}; }
  Status release() override { return {}; }
  Status first_pages(PageBitmap&) override { return {}; }
  PacketSource* waiting_packets() override { return nullptr; }
  void note(std::string_view text) override { notes.emplace_back(text); }

  RunState state = RunState::kPaused;
  int pauses = 0;
  std::string device = "device state";
  std::vector<std::string> notes;

 private:
  TinyGuest& guest_;
};

class TinyTargetHooks final : public KvmTargetHooks {
 public:
  Result<KvmVm> build(const GuestDescription&, const KvmMachine& machine) override {
    ++builds;
    TinyGuestOptions options;
    options.programmed = false;
    options.vcpus = machine.vcpus;
    options.irqchip = machine.irqchip;
    options.pit = machine.pit;
    options.slot_pages.clear();
    for (const auto& slot : machine.slots) options.slot_pages.push_back(slot.bytes / kPageSize);
    guest = std::make_unique<TinyGuest>(options);
    return guest->vm();
  }
  Status load_device(const SectionInfo& section, StateReader& reader) override {
    if (section.name != "tiny.device") return StateReader::skip_unknown(section);
    MIGRATE_ASSIGN(const auto bytes, reader.read_all(1000));
    device.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return {};
  }
  Status acquire() override { return {}; }
  Status yield() override { return {}; }
  Status start(RunState state) override {
    if (state == RunState::kRunning) guest->resume();
    return {};
  }
  std::vector<int> vcpu_threads() override { return {}; }
  PacketSink* packet_sink() override { return nullptr; }
  void discard() override {
    ++discards;
    guest.reset();
  }
  void note(std::string_view text) override { notes.emplace_back(text); }

  std::unique_ptr<TinyGuest> guest;
  std::string device;
  int builds = 0;
  int discards = 0;
  std::vector<std::string> notes;
};

/// Sections as they were written, to be doctored and read.
struct Sections {
  struct Section {
    SectionInfo info;
    std::vector<std::byte> body;
  };
  std::vector<Section> list;
  std::size_t before_final = 0;  ///< Sections written before memory_final().

  [[nodiscard]] Section& at(std::string_view name) {
    for (Section& section : list) {
      if (section.info.name == name) return section;
    }
    throw std::out_of_range("no section " + std::string(name));
  }
};

class SectionWriter final : public StateWriter {
 public:
  explicit SectionWriter(Sections& sections) : sections_(sections) {}
  Status begin(const SectionInfo& info) override {
    sections_.list.push_back({info, {}});
    return {};
  }
  Status append(std::span<const std::byte> bytes) override {
    auto& body = sections_.list.back().body;
    body.insert(body.end(), bytes.begin(), bytes.end());
    return {};
  }
  Status end() override { return {}; }
  Status memory_final() override {
    sections_.before_final = sections_.list.size();
    return {};
  }

 private:
  Sections& sections_;
};

class SectionReader final : public StateReader {
 public:
  explicit SectionReader(const Sections& sections) : sections_(sections) {}
  Result<std::optional<SectionInfo>> next() override {
    if (next_ == sections_.list.size()) return std::optional<SectionInfo>();
    offset_ = 0;
    return std::optional<SectionInfo>(sections_.list[next_++].info);
  }
  [[nodiscard]] std::uint64_t remaining() const override { return body().size() - offset_; }
  Status read(std::span<std::byte> into) override {
    if (into.size() > remaining()) return make_error(ErrorCode::kProtocol, "section is short");
    if (!into.empty()) std::memcpy(into.data(), body().data() + offset_, into.size());
    offset_ += into.size();
    return {};
  }

 private:
  [[nodiscard]] const std::vector<std::byte>& body() const {
    return sections_.list[next_ - 1].body;
  }
  const Sections& sections_;
  std::size_t next_ = 0;
  std::size_t offset_ = 0;
};

/// A guest with the adapter's two ends, and what goes from one to the other by hand.
class TinyMigration {
 public:
  explicit TinyMigration(TinyGuestOptions options = {}) : guest(options), source_hooks(guest) {
    auto made = make_kvm_source(guest.vm(), source_hooks);
    if (!made) throw std::runtime_error(made.error().to_text());
    source = *std::move(made);
    target = make_kvm_target(guest.vm().kvm_fd, target_hooks);
  }

  /// Runs the guest a little, stops it, and prepares the target.
  void run_and_prepare() {
    must(source_hooks.resume());
    guest.wait_for_sweeps(3);
    auto described = source->describe();
    must(described);
    description = *std::move(described);
    auto paused = source->pause();
    must(paused);
    must(target->prepare(description));
  }
  Status save() {
    sections = {};
    SectionWriter writer(sections);
    return source->save_state(writer);
  }
  void copy_memory() {
    for (const Region& region : guest.regions()) {
      must(target->pages().write(region.id, region.range, source->pages().mapped(region.id)));
    }
  }
  Status load() {
    SectionReader reader(sections);
    return target->load_state(reader);
  }

  template <typename T>
  static void must(const Result<T>& result) {
    if (!result) throw std::runtime_error(result.error().to_text());
  }

  TinyGuest guest;
  TinySourceHooks source_hooks;
  TinyTargetHooks target_hooks;
  std::unique_ptr<SourceGuest> source;
  std::unique_ptr<TargetGuest> target;
  GuestDescription description;
  Sections sections;
};

}  // namespace migrate::testing
