// MappingChanger: maps, unmaps, moves, grows, discards and forks its own mappings, and writes to
// them in between, for a tracker in another process to follow.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <thread>

#include "tests/dirtylog/contract/bed.hpp"
#include "tests/dirtylog/contract/chance.hpp"

namespace migrate::testing {

class MappingChanger final : public Writer {
 public:
  /// Has the address space from `base` on to itself, where nothing may be mapped.
  MappingChanger(std::uint64_t base, std::uint64_t seed);
  ~MappingChanger() override;
  MappingChanger(const MappingChanger&) = delete;
  MappingChanger& operator=(const MappingChanger&) = delete;

  [[nodiscard]] std::string_view name() const override { return "changing mappings"; }
  void resume() override;
  void pause() override;
  [[nodiscard]] std::uint64_t writes() const override { return changes_.load(); }

 private:
  static constexpr std::size_t kPlaces = 6;
  /// Room for one mapping, wider than it can grow.
  struct Place {
    std::byte* address = nullptr;
    std::uint64_t pages = 0;  ///< 0: nothing is mapped.
    bool shared = false;
  };

  void run();
  void change(Place& place);
  void change_mapped(Place& place);
  void map(Place& place);
  void unmap(Place& place);
  void move(Place& place);
  void resize(Place& place);
  void discard(Place& place);
  void fork_beside(Place& place);
  void write_some(Place& place);

  Chance chance_;  ///< The thread's, as are the places.
  std::array<Place, kPlaces> places_;
  std::uint64_t generation_ = 0;
  std::atomic<std::uint64_t> changes_{0};

  std::mutex mutex_;
  std::condition_variable changed_;
  bool paused_ = true;
  bool parked_ = true;
  bool quit_ = false;
  std::thread thread_;
};

}  // namespace migrate::testing
