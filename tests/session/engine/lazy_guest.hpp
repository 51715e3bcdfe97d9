// LazyGuest: a thread that touches the target's memory as a vCPU would, from its start on.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <string_view>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "tests/session/engine/engine_run.hpp"

namespace migrate::testing {

class LazyGuest {
 public:
  using Code = std::function<void(LazyGuest&)>;
  explicit LazyGuest(Code code) : code_(std::move(code)) {}
  ~LazyGuest() { join(); }
  LazyGuest(const LazyGuest&) = delete;
  LazyGuest& operator=(const LazyGuest&) = delete;

  /// Where spec has such hooks already, those are called first.
  void use(RunSpec& spec) {
    spec.watch_run = [this](Migration& run) { run_ = &run; };
    spec.on_source_event = [this, first = spec.on_source_event](const Event& event) {
      if (first) first(event);
      if (event.name == "postcopy" && event.phase == Phase::kPostcopy) served_ = true;
    };
    spec.target.on_target = [this](FakeTarget& target) { target_ = &target; };
    spec.target.hook = [this, first = spec.target.hook](const char* where) {
      if (first) first(where);
      if (std::string_view(where) != "start" || thread_.joinable()) return;
      thread_ = std::thread([this] {
        code_(*this);
        ended_ = true;
      });
    };
  }

  /// Its first byte that is not the page's number; waits where the page is missing. By a system
  /// call, as KVM_RUN is one: 0 where memory has been made inaccessible.
  std::uint8_t read(const RegionId& region, std::uint64_t page) {
    std::uint8_t value = 0;
    const Fd file(::memfd_create("read", MFD_CLOEXEC));
    const ssize_t wrote = ::pwrite(file.get(), const_cast<std::byte*>(at(region, page)), 1, 0);
    if (wrote == 1) MIGRATE_CHECK(::pread(file.get(), &value, 1, 0) == 1);
    return value;
  }
  void write(const RegionId& region, std::uint64_t page, std::uint8_t value) {
    *at(region, page) = std::byte{value};
  }
  /// Looks without touching.
  bool has(const RegionId& region, std::uint64_t page) {
    unsigned char present = 0;
    std::byte* const begin = target_->memory().bytes(region).data() + page * kPageSize;
    MIGRATE_CHECK(::mincore(begin, kPageSize, &present) == 0);
    return (present & 1) != 0;
  }
  /// Until the source knows that the guest runs here: it may do so, and have got pages, before
  /// STARTED has come there.
  void wait_until_served() const {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!served_) {
      MIGRATE_CHECK(std::chrono::steady_clock::now() < until);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  Migration& run() { return *run_; }
  [[nodiscard]] bool started() const { return thread_.joinable(); }
  [[nodiscard]] bool ended() const { return ended_; }
  /// What still waits here for a lost source has nothing to wait for any more.
  void join() {
    if (!thread_.joinable()) return;
    if (!ended_ && run_ != nullptr) run_->in.waiting_memory.reset();
    thread_.join();
  }

 private:
  volatile std::byte* at(const RegionId& region, std::uint64_t page) {
    return target_->memory().bytes(region).data() + page * kPageSize;
  }

  Code code_;
  Migration* run_ = nullptr;
  FakeTarget* target_ = nullptr;
  std::atomic<bool> ended_{false};
  std::atomic<bool> served_{false};
  std::thread thread_;
};

}  // namespace migrate::testing
