// ContainerSourceTest: a small tree with a TCP connection, and a source for it over a real CRIU.
#pragma once

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "adapters/containers/link_state.hpp"
#include "adapters/containers/source/dump_run.hpp"
#include "adapters/containers/source/lock_tables.hpp"
#include "adapters/containers/source/process_tree.hpp"
#include "adapters/containers/source/tcp_repair.hpp"
#include "adapters/containers/tree_state.hpp"
#include "migrate/containers.hpp"
#include "tests/containers/source/small_tree.hpp"

namespace migrate::containers {

namespace fs = std::filesystem;

inline std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

/// Both ends of a TCP connection over loopback.
struct Connection {
  Fd here;
  Fd there;

  Connection() {
    const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(listener.get(), any, size), 0);
    EXPECT_EQ(::listen(listener.get(), 1), 0);
    EXPECT_EQ(::getsockname(listener.get(), any, &size), 0);
    here.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(here.get(), any, size), 0);
    there.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_TRUE(there.valid());
  }
  [[nodiscard]] bool echoes(const std::string& text) const {
    if (::send(here.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return false;
    std::string back;
    while (back.size() < text.size()) {
      pollfd readable{here.get(), POLLIN, 0};
      if (::poll(&readable, 1, 60'000) <= 0) return false;
      char piece[256];
      const ssize_t got = ::recv(here.get(), piece, sizeof(piece), 0);
      if (got <= 0) return false;
      back.append(piece, static_cast<std::size_t>(got));
    }
    return back == text;
  }
};

/// Keeps sections, and calls the engine's part when memory is final.
class Collector final : public StateWriter {
 public:
  std::function<Status()> on_memory_final = [] { return Status(); };
  std::map<std::string, std::size_t> sections;
  std::vector<std::byte> spaces;

  Status begin(const SectionInfo& section) override {
    open_ = section.name;
    sections[open_] = 0;
    EXPECT_TRUE(section.mandatory);
    return {};
  }
  Status append(std::span<const std::byte> bytes) override {
    EXPECT_LE(bytes.size(), std::size_t{1} << 20);
    sections[open_] += bytes.size();
    if (open_ == kSpacesSection) spaces.insert(spaces.end(), bytes.begin(), bytes.end());
    return {};
  }
  Status end() override { return {}; }
  Status memory_final() override { return on_memory_final(); }
  [[nodiscard]] std::size_t bytes() const {
    std::size_t all = 0;
    for (const auto& [name, size] : sections) all += size;
    return all;
  }

 private:
  std::string open_;
};

class ContainerSourceTest : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr std::size_t kPrivateBytes = std::size_t{32} << 20;

  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "moving process trees needs root";
    if (environment("MIGRATE_CRIU").empty()) GTEST_SKIP() << "no CRIU here (MIGRATE_CRIU)";
    // Packets are CRIU's to keep in a namespace where nobody else migrates.
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    ASSERT_TRUE(set_link("lo", true));
    char name[] = "/dev/shm/migrate-source-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    connection_.emplace();
    tree_.emplace(2, connection_->there.get(), kPrivateBytes);
    connection_->there.reset();
    group_before_ = unified_group_of(tree_->root());
    auto tables = LockTables::of_process(::getpid());
    ASSERT_TRUE(tables) << tables.error().to_text();
    tables_.emplace(*std::move(tables));
    auto listed = tables_->list();
    ASSERT_TRUE(listed) << listed.error().to_text();
    tables_before_ = *listed;
  }
  void TearDown() override {
    DumpRun::watch_hooks(nullptr);
    source_.reset();
    tree_.reset();
    if (!folder_.empty()) {
      EXPECT_TRUE(fs::is_empty(folder_)) << "images are left in " << folder_;
      fs::remove_all(folder_);
    }
  }
  [[nodiscard]] virtual bool with_shim() const { return GetParam(); }

  ContainerSourceOptions options() {
    ContainerSourceOptions options;
    options.root = tree_->root();
    options.name = "test";
    options.criu.path = environment("MIGRATE_CRIU");
    if (with_shim()) options.criu.shim = MIGRATE_SHIM;
    options.folder = folder_;
    options.link = link_;
    options.tracker = tracker_;
    return options;
  }
  void make_source() {
    auto source = make_container_source(options());
    ASSERT_TRUE(source) << source.error().to_text();
    source_ = *std::move(source);
  }
  /// What the engine does before the switchover.
  void run_rounds() {
    auto description = source_->describe();
    ASSERT_TRUE(description) << description.error().to_text();
    const Status started = source_->tracker().start();
    ASSERT_TRUE(started) << started.error().to_text();
    auto regions = source_->pages().regions();
    ASSERT_TRUE(regions);
    set_ = PageBitmap(*regions);
    const Status collected = source_->tracker().collect(set_);
    ASSERT_TRUE(collected) << collected.error().to_text();
  }
  Status save(Collector& collector) {
    collector.on_memory_final = [&]() -> Status { return source_->tracker().collect(set_); };
    return source_->save_state(collector);
  }
  void expect_all_as_before() {
    EXPECT_TRUE(tree_->counts_on());
    EXPECT_TRUE(connection_->echoes("still here"));
    const auto repaired = count_tcp_repair(tree_->pids());
    ASSERT_TRUE(repaired) << repaired.error().to_text();
    EXPECT_EQ(*repaired, 0U);
    const auto tables = tables_->list();
    ASSERT_TRUE(tables);
    EXPECT_EQ(*tables, tables_before_);
    for (const pid_t pid : tree_->pids()) {
      const auto facts = process_facts(pid);
      ASSERT_TRUE(facts);
      EXPECT_EQ(facts->tracer, 0);
    }
    source_.reset();
    for (const pid_t pid : tree_->pids()) EXPECT_EQ(unified_group_of(pid), group_before_);
    EXPECT_TRUE(tree_->counts_on());
  }

  std::string folder_;
  std::string link_;
  TrackerKind tracker_ = TrackerKind::kProcessWriteProtect;
  std::optional<Connection> connection_;
  std::optional<SmallTree> tree_;
  std::string group_before_;
  std::optional<LockTables> tables_;
  std::set<std::string> tables_before_;
  std::unique_ptr<SourceGuest> source_;
  PageBitmap set_;
};

}  // namespace migrate::containers
