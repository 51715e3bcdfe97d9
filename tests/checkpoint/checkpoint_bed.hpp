// CheckpointBed: a fake guest, a checkpointer that has it, and images of it read back.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/image_chain.hpp"
#include "checkpoint/take.hpp"
#include "migrate/checkpoint.hpp"
#include "tests/session/engine/fake_guest.hpp"
#include "tests/tools/scratch_folder.hpp"

namespace migrate::checkpoint {

using migrate::testing::FakeSource;
using migrate::testing::TrackerStyle;
using migrate::testing::World;
using Memory = std::map<RegionId, std::vector<std::byte>>;

template <typename Change>
FakeSource::Script scripted(Change&& change) {
  FakeSource::Script script;
  change(script);
  return script;
}
inline CheckpointOptions options_of(bool live, std::string base = {}, bool keep_tracking = false) {
  CheckpointOptions options;
  options.live = live;
  options.base = std::move(base);
  options.keep_tracking = keep_tracking;
  options.lanes = 2;
  return options;
}

/// Calls back at events.
class Listener final : public Observer {
 public:
  void on_progress(const Progress&) override {}
  void on_event(const Event& event) override {
    names.push_back(event.name);
    if (call) call(event.name);
  }
  std::function<void(const std::string&)> call;
  std::vector<std::string> names;
};

class CheckpointBed {
 public:
  static constexpr RegionId kRam{0, 1, 0}, kSmall{0, 7, 0};

  /// `script.writes` is called first wherever the guest may write; what its memory is when its
  /// state is saved is kept.
  explicit CheckpointBed(FakeSource::Script script = {}) {
    const auto writes = script.writes;
    script.writes = [this, writes](FakeSource& of, const char* where) {
      if (writes) writes(of, where);
      if (std::string(where) == "save") at_the_instant = memory_of(of);
    };
    auto made = std::make_unique<FakeSource>(
        world, std::vector<Region>{{kRam, {{0}, 1500}}, {kSmall, {{0x100000}, 70}}},
        std::move(script));
    guest = made.get();
    for (std::uint64_t page = 0; page < 1200; ++page) {
      // Some are zero, some alike, and some were never written.
      if (page % 5 == 0) continue;
      guest->write(kRam, {page}, static_cast<std::uint8_t>(page % 7 == 0 ? 0 : page % 250 + 1));
    }
    checkpointer.emplace(std::move(made), &listener);
  }

  static Memory memory_of(FakeSource& of) {
    Memory memory;
    for (const Region& region : of.memory().regions()) {
      const auto bytes = of.memory().bytes(region.id);
      memory[region.id].assign(bytes.begin(), bytes.end());
    }
    return memory;
  }
  [[nodiscard]] std::string path(const std::string& name) const {
    return (folder.path() / name).string();
  }
  /// What lies in the folder.
  [[nodiscard]] std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
  CheckpointReport take(const std::string& name, CheckpointOptions options = {}) {
    options.path = path(name);
    return checkpointer->take(options);
  }
  /// The memory and state of an image are those at the latest instant.
  void expect_image(const std::string& name) const {
    const auto chain = ImageChain::open(path(name));
    ASSERT_TRUE(chain) << chain.error().to_text();
    auto reader = ImageReader::create(*chain);
    ASSERT_TRUE(reader) << reader.error().to_text();
    std::uint16_t number = 0;
    for (const Region& region : (*chain)->regions()) {
      std::vector<std::byte> content(region.range.bytes());
      const Status read = (*reader)->read(number++, 0, region.range.count, content.data());
      ASSERT_TRUE(read) << read.error().to_text();
      const auto& wanted = at_the_instant.at(region.id);
      for (std::uint64_t page = 0; page < region.range.count; ++page) {
        ASSERT_EQ(std::memcmp(content.data() + page * kPageSize, wanted.data() + page * kPageSize,
                              kPageSize),
                  0)
            << name << ": page " << page << " of " << to_text(region.id);
      }
    }
    const auto state = (*chain)->state();
    ASSERT_TRUE(state) << state.error().to_text();
    ASSERT_EQ(state->size(), 2u);
    EXPECT_EQ(state->at(0).info.name, "fake.cpu");
    EXPECT_EQ(state->at(0).body, migrate::testing::fake_state(300));
    EXPECT_FALSE(state->at(1).info.mandatory);
  }
  /// It runs as before, its memory is what it was, and nothing holds its writes back.
  void expect_untouched(const Memory& before) {
    EXPECT_TRUE(guest->running());
    EXPECT_EQ(world.running_max, 1);
    EXPECT_EQ(memory_of(*guest), before);
    for (std::uint64_t page = 0; page < 1500; page += 3) guest->write(kRam, {page}, 77);
  }

  World world;
  Listener listener;
  migrate::tool::testing::ScratchFolder folder;
  Memory at_the_instant;
  FakeSource* guest = nullptr;
  std::optional<Checkpointer> checkpointer;
};

}  // namespace migrate::checkpoint
