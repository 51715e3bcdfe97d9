// Names of process trees, as the runtimes' own state files give them; and the words of --accept and
// --rsync.
#include "tools/migrate/container_names.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "tools/migrate/container_options.hpp"
#include "tools/migrate/synced_folders.hpp"

namespace migrate::tool {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ContainerNames : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "container-names-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folders_.root = name;
  }
  void TearDown() override { fs::remove_all(folders_.root); }

  void write(const std::string& path, const std::string& text) {
    const fs::path file = folders_.root / path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  RuntimeFolders folders_;
};

TEST_F(ContainerNames, APidNamesItsTree) {
  const auto found = find_container("pid:4711", folders_);
  ASSERT_TRUE(found) << found.error().to_text();
  EXPECT_EQ(found->root, 4711);
  EXPECT_EQ(found->name, "pid-4711");
}

TEST_F(ContainerNames, WhatNamesNoTreeIsRefused) {
  for (const char* text : {"pid:", "pid:0", "pid:-3", "pid:12x", "pid: 12", "vm:web", "4711",
                           "pid:99999999999999999999"}) {
    const auto found = find_container(text, folders_);
    ASSERT_FALSE(found) << text;
    EXPECT_EQ(found.error().code, ErrorCode::kInvalidArgument) << text;
    EXPECT_THAT(found.error().remedy, HasSubstr("pid:PID")) << text;
  }
}

TEST_F(ContainerNames, RuncsCrunsAndPodmansNamesAreFound) {
  write("run/runc/web/state.json", R"({"id": "web", "init_process_pid": 17})");
  write("run/crun/cache/status", R"({"pid": 18, "bundle": "/b"})");
  write("var/lib/containers/storage/overlay-containers/containers.json",
        R"([{"id": "0a", "names": ["other"]}, {"id": "0123abcd", "names": ["shop"]}])");
  write("run/crun/0123abcd/status", R"({"pid": 19})");
  const auto web = find_container("container:web", folders_);
  ASSERT_TRUE(web) << web.error().to_text();
  EXPECT_EQ(web->root, 17);
  EXPECT_EQ(web->runtime, "runc");
  const auto cache = find_container("container:cache", folders_);
  ASSERT_TRUE(cache);
  EXPECT_EQ(cache->root, 18);
  EXPECT_EQ(cache->runtime, "crun");
  const auto shop = find_container("container:shop", folders_);
  ASSERT_TRUE(shop);
  EXPECT_EQ(shop->root, 19);
  EXPECT_EQ(shop->name, "shop");
  EXPECT_EQ(shop->runtime, "podman");
}

TEST_F(ContainerNames, BrokenStateAndForeignPathsAreNoContainers) {
  write("run/runc/torn/state.json", R"({"id": "torn", "init_pro)");
  write("run/runc/odd/state.json", R"({"init_process_pid": "17"})");
  write("run/runc/list/state.json", "[1, 2]");
  write("var/lib/containers/storage/overlay-containers/containers.json",
        R"([7, {"names": 3}, {"id": 5, "names": ["none"]}])");
  for (const char* name : {"torn", "odd", "list", "none"}) {
    const auto found = find_container(std::string("container:") + name, folders_);
    ASSERT_FALSE(found) << name;
    EXPECT_EQ(found.error().code, ErrorCode::kNotFound) << name;
  }
  write("state.json", R"({"init_process_pid": 1})");
  EXPECT_FALSE(find_container("container:../..", folders_));
  EXPECT_FALSE(find_container("container:a/b", folders_));
}

TEST(Accept, KindsAreReadAndWritten) {
  AcceptChoice choice;
  for (const char* text : {"vm", "container", "vm,container"}) {
    ASSERT_TRUE(parse_accept(text, choice)) << text;
    EXPECT_EQ(to_text(choice), text);
  }
  ASSERT_TRUE(parse_accept("container,vm", choice));
  EXPECT_EQ(to_text(choice), "vm,container");
  for (const char* text : {"", "vm,", ",vm", "vms", "container vm"}) {
    const Status parsed = parse_accept(text, choice);
    ASSERT_FALSE(parsed) << text;
    EXPECT_THAT(parsed.error().remedy, HasSubstr("accepted: ")) << text;
  }
}

TEST(SyncedFolders, AreFromAndTo) {
  const auto folder = parse_synced_folder("/srv/web//=host-b:/srv/web");
  ASSERT_TRUE(folder);
  EXPECT_EQ(folder->from, "/srv/web");
  EXPECT_EQ(folder->to, "host-b:/srv/web");
  for (const char* text : {"", "=", "/srv", "/srv=", "=/srv"}) {
    EXPECT_FALSE(parse_synced_folder(text)) << text;
  }
}

}  // namespace
}  // namespace migrate::tool
