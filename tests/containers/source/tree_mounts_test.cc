#include "adapters/containers/source/tree_mounts.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "adapters/containers/mount_list.hpp"
#include "adapters/containers/target/target_mounts.hpp"
#include "adapters/containers/tree_state.hpp"

namespace migrate::containers {
namespace {

using Words = std::vector<std::string>;
using Mounts = std::vector<ExternalMount>;

/// As of a container of crun's, with a volume, a file from outside, and what runtimes mount.
constexpr const char* kContainer =
    "197 102 0:27 /bundle/rootfs / rw,relatime - tmpfs tmpfs rw\n"
    "198 197 0:47 / /proc rw,relatime - proc proc rw\n"
    "199 197 0:48 / /dev rw,nosuid - tmpfs tmpfs rw,mode=755\n"
    "202 199 0:45 / /dev/mqueue rw - mqueue mqueue rw\n"
    "203 197 0:51 / /sys ro - sysfs sysfs rw\n"
    "204 203 0:38 /box /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"
    "205 198 0:41 /crun/.empty-directory /proc/acpi ro - tmpfs tmpfs rw\n"
    "206 198 0:6 /null /proc/keys ro - devtmpfs devtmpfs rw\n"
    "209 198 0:47 /bus /proc/bus ro - proc proc rw\n"
    "210 197 0:27 /bundle/rootfs/srv /mnt rw - tmpfs tmpfs rw\n"
    "211 197 8:1 / /data\\040of\\040it rw shared:1 - ext4 /dev/sda1 rw\n"
    "212 197 0:27 /elsewhere/hosts /etc/hosts ro - tmpfs tmpfs rw\n"
    "213 199 0:48 /null /proc/timer_list ro - tmpfs tmpfs rw\n"
    "no mount\n";

std::string look(const std::string& point) {
  if (point == "/proc/acpi") return std::string(kNothingKey);
  return point == "/proc/keys" ? std::string(kDeviceKey) + "null" : std::string();
}

TEST(TreeMounts, OnlyWhatComesFromOutsideIsExternal) {
  const Mounts found = external_mounts(parse_mount_list(kContainer), Words(), look);
  const Mounts wanted = {{"/sys/fs/cgroup", "tree-cgroup"},
                         {"/proc/acpi", "tree-nothing"},
                         {"/proc/keys", "tree-device:null"},
                         {"/data of it", "/data of it"},
                         {"/etc/hosts", "/etc/hosts"}};
  EXPECT_EQ(found, wanted);
}

TEST(TreeMounts, WhatWasNamedKeepsItsName) {
  const Words named = {"mnt[/etc/hosts]:hosts", "file[1:2]:x"};
  const Mounts found = external_mounts(parse_mount_list(kContainer), named, look);
  EXPECT_EQ(found.front(), (ExternalMount{"/etc/hosts", "hosts"}));
  EXPECT_EQ(found.size(), 5U);
}

TEST(TreeMounts, WhereCriuFindsThemOnlyWhatItDoesNotFindIsAdded) {
  const Words named = {"mnt[]:s"};
  const Mounts found = external_mounts(parse_mount_list(kContainer), named, look);
  EXPECT_EQ(found.size(), 3U);
  EXPECT_EQ(words_to_leave(found, named), named);
}

TEST(TreeMounts, AHierarchyOfVersion1IsKnownByItsControllers) {
  const auto mounts = parse_mount_list(
      "1 0 0:30 /box /a rw - cgroup cgroup rw,xattr,cpuacct,cpu\n"
      "2 0 0:37 /box /b rw - cgroup cgroup rw,name=systemd,release_agent=/x\n");
  ASSERT_EQ(mounts.size(), 2U);
  EXPECT_EQ(cgroup_hierarchy(mounts[0]), "cpu,cpuacct");
  EXPECT_EQ(cgroup_hierarchy(mounts[1]), "name=systemd");
}

TEST(TreeMounts, TheTargetAsksForWhatNobodyHasNamedThere) {
  const Mounts mounts = {{"/etc/hosts", "hosts"}, {"/data", "/data"}, {"/c", "tree-cgroup"}};
  EXPECT_EQ(unnamed_mounts(mounts, Words{"mnt[hosts]:/srv/hosts"}), (Mounts{{"/data", "/data"}}));
  EXPECT_TRUE(unnamed_mounts(mounts, Words{"mnt[hosts]:/h", "mnt[/data]:/d"}).empty());
  EXPECT_EQ(words_to_leave(mounts, Words()), (Words{"mnt[/etc/hosts]:hosts"}));
}

TEST(TreeMounts, TheTargetProvidesItsOwnCgroupsAndDevices) {
  CgroupPlaces here;
  here.mounts =
      parse_mount_list("1 0 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n");
  here.groups = "4:cpuacct,cpu:/host/recv\n3:memory:/\n0::/unified\n";
  const Mounts mounts = {{"/g", "tree-cgroup"},        {"/c", "tree-cgroup:cpu,cpuacct"},
                         {"/m", "tree-cgroup:memory"}, {"/k", "tree-device:zero"},
                         {"/n", "tree-nothing"},       {"/h", "hosts"}};
  const Words wanted = {"mnt[tree-cgroup]:/group",
                        "mnt[tree-cgroup:cpu,cpuacct]:/sys/fs/cgroup/cpu/host/recv",
                        "mnt[tree-cgroup:memory]:/empty", "mnt[tree-device:zero]:/dev/zero",
                        "mnt[tree-nothing]:/empty"};
  EXPECT_EQ(provided_words(mounts, here, "/group", "/empty"), wanted);
}

TEST(TreeMounts, ADeviceThatIsNoneOfTheKnownOnesIsNoPath) {
  const Mounts mounts = {{"/x", "tree-device:../etc/shadow"}};
  EXPECT_EQ(provided_words(mounts, {}, "/group", "/empty"),
            (Words{"mnt[tree-device:../etc/shadow]:/dev/null"}));
}

GuestDescription some_description(const Mounts& mounts, const std::vector<std::uint32_t>& outputs) {
  TreeDescription tree;
  tree.criu_version = "4.2.1";
  tree.machine = "x86_64";
  tree.pids = {1};
  GuestDescription description;
  description.properties = {to_property(tree), to_property(mounts), to_property(outputs)};
  return description;
}

TEST(TreeMounts, MountsAndOutputsTravel) {
  const Mounts mounts = {{"/etc/hosts", "hosts"}, {"/data of it", "/data of it"}};
  const auto parsed = parse_tree(some_description(mounts, {4711, 4'000'000'000}));
  ASSERT_TRUE(parsed) << parsed.error().to_text();
  EXPECT_EQ(parsed->mounts, mounts);
  EXPECT_EQ(parsed->outputs, (std::vector<std::uint32_t>{4711, 4'000'000'000}));
}

TEST(TreeMounts, HostileDescriptionsAreRefused) {
  const GuestDescription whole = some_description({{"/etc/hosts", "hosts"}}, {4711});
  for (const std::size_t property : {1U, 2U}) {
    for (std::size_t length = 0; length < whole.properties[property].body.size(); ++length) {
      GuestDescription cut = whole;
      cut.properties[property].body.resize(length);
      EXPECT_FALSE(parse_tree(cut)) << property << " " << length;
    }
    GuestDescription longer = whole;
    longer.properties[property].body.push_back(std::byte{0});
    EXPECT_FALSE(parse_tree(longer));
    GuestDescription newer = whole;
    newer.properties[property].info.version = 2;
    EXPECT_FALSE(parse_tree(newer));
  }
  EXPECT_FALSE(parse_tree(some_description({{"relative", "key"}}, {})));
  EXPECT_FALSE(parse_tree(some_description({{"/a\nb", "key"}}, {})));
  EXPECT_FALSE(parse_tree(some_description({{"/a", ""}}, {})));
}

}  // namespace
}  // namespace migrate::containers
