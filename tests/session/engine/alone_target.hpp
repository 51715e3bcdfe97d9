// AloneTarget: the real target, whose source is scripted.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/session/engine/engine_run.hpp"
#include "tests/session/engine/scripted_source.hpp"

namespace migrate::testing {

class AloneTarget : public ::testing::Test, private Incoming::Host, private Observer {
 protected:
  using HostMemory = Memory;

  explicit AloneTarget(FakeTarget::Script script = {}, IncomingOptions options = {})
      : options_(std::move(options)) {
    std::string path = ::testing::TempDir() + "/alone-XXXXXX";
    MIGRATE_CHECK(mkdtemp(path.data()) != nullptr);
    options_.runtime_dir = path;
    // Nobody waits for these: what ends it sooner is what the tests are about.
    options_.hello_timeout = std::chrono::hours(1);
    options_.peer_timeout = std::chrono::hours(1);
    auto guest = std::make_unique<FakeTarget>(world_, std::move(script));
    target_ = guest.get();
    incoming_ =
        std::make_unique<Incoming>(std::move(guest), options_, static_cast<Incoming::Host&>(*this),
                                   static_cast<Observer*>(this));
    thread_ = std::thread([this] { result_.set_value(incoming_->run(*acceptor_)); });
  }
  ~AloneTarget() override {
    incoming_->cancel();
    source_.close();
    thread_.join();
    std::filesystem::remove_all(options_.runtime_dir);
  }

  void expect_end(ErrorCode code) {
    auto future = result_.get_future();
    ASSERT_EQ(future.wait_for(std::chrono::seconds(20)), std::future_status::ready);
    const IncomingResult in = future.get();
    EXPECT_EQ(in.report.error->code, code) << in.report.error->to_text();
  }
  Status send(std::span<const std::byte> bytes) {
    const iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    return source_.control().channel().send({&part, 1}, std::chrono::seconds(5));
  }

  Status on_described(const GuestDescription&) override { return {}; }
  Status on_ready() override { return {}; }
  void on_started() override {}
  void on_memory(Memory memory, const std::string&) override {
    host_memory_.push_back(memory);
    if (on_memory_) on_memory_(memory);
  }
  void on_progress(const Progress&) override {}
  void on_event(const Event& event) override {
    if (observe_) observe_(event);
  }

  World world_;
  FakeTarget* target_ = nullptr;
  std::function<void(HostMemory)> on_memory_;  ///< Set before the source says HELLO.
  std::vector<HostMemory> host_memory_;        ///< As the host was told of it.
  IncomingOptions options_;
  std::function<void(const Event&)> observe_;  ///< Set before the source says HELLO.
  test::InProcessNetwork network_;
  std::unique_ptr<Acceptor> acceptor_ = network_.acceptor();
  ScriptedSource source_{network_.connector(), {{kLow, {{0}, 100}, Backing::kAnonymous}}};
  std::unique_ptr<Incoming> incoming_;
  std::promise<IncomingResult> result_;
  std::thread thread_;
};

}  // namespace migrate::testing
