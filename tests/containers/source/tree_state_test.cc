#include "adapters/containers/tree_state.hpp"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace migrate::containers {
namespace {

TreeDescription some_tree() {
  TreeDescription tree;
  tree.criu_version = "4.2.1";
  tree.machine = "x86_64";
  tree.pid_namespace = true;
  tree.network_namespace = true;
  tree.pids = {1, 7, 4'000'000};
  return tree;
}

GuestDescription with(GuestDescription::Property property) {
  GuestDescription description;
  description.properties.push_back(std::move(property));
  return description;
}

TEST(TreeState, DescriptionComesBackAsItWas) {
  const TreeDescription tree = some_tree();
  const auto parsed = parse_tree(with(to_property(tree)));
  ASSERT_TRUE(parsed) << parsed.error().to_text();
  EXPECT_EQ(parsed->criu_version, tree.criu_version);
  EXPECT_EQ(parsed->machine, tree.machine);
  EXPECT_TRUE(parsed->pid_namespace);
  EXPECT_FALSE(parsed->mount_namespace);
  EXPECT_TRUE(parsed->network_namespace);
  EXPECT_FALSE(parsed->tcp);
  EXPECT_EQ(parsed->pids, tree.pids);
}

TEST(TreeState, DescriptionCutShortAnywhereIsRefused) {
  const GuestDescription::Property whole = to_property(some_tree());
  for (std::size_t length = 0; length < whole.body.size(); ++length) {
    GuestDescription::Property cut = whole;
    cut.body.resize(length);
    EXPECT_FALSE(parse_tree(with(cut))) << length;
  }
  GuestDescription::Property longer = whole;
  longer.body.push_back(std::byte{0});
  EXPECT_FALSE(parse_tree(with(longer)));
  EXPECT_FALSE(parse_tree(GuestDescription()));
}

TEST(TreeState, DescriptionOfAnotherVersionIsIncompatible) {
  GuestDescription::Property property = to_property(some_tree());
  property.info.version = 2;
  const auto parsed = parse_tree(with(property));
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().code, ErrorCode::kIncompatible);
}

TEST(TreeState, HostileCountsSizeNothing) {
  GuestDescription::Property property = to_property(some_tree());
  // The count stands before the three numbers.
  for (std::size_t i = 0; i < 4; ++i)
    property.body[property.body.size() - 16 + i] = std::byte{0xff};
  EXPECT_FALSE(parse_tree(with(property)));
  const std::vector<std::byte> spaces{std::byte{0xff}, std::byte{0xff}, std::byte{0xff},
                                      std::byte{0xff}, std::byte{1}};
  EXPECT_FALSE(parse_spaces(spaces));
}

TEST(TreeState, SpacesComeBackAsTheyWere) {
  const std::vector<SpaceOwner> owners{{0, 1}, {5, 17}, {2, 300}};
  const auto parsed = parse_spaces(encode_spaces(owners));
  ASSERT_TRUE(parsed) << parsed.error().to_text();
  EXPECT_EQ(*parsed, owners);
  EXPECT_TRUE(parse_spaces(encode_spaces({})));
}

TEST(TreeState, SpacesOfTwoOwnersAreRefused) {
  EXPECT_FALSE(parse_spaces(encode_spaces(std::vector<SpaceOwner>{{1, 5}, {1, 6}})));
  EXPECT_FALSE(parse_spaces(encode_spaces(std::vector<SpaceOwner>{{1, 5}, {2, 5}})));
  EXPECT_FALSE(parse_spaces(encode_spaces(std::vector<SpaceOwner>{{1, 0}})));
  EXPECT_FALSE(parse_spaces(encode_spaces(std::vector<SpaceOwner>{{1, -4}})));
}

TEST(TreeState, AnyBytesAreReadWithoutHarm) {
  std::mt19937 random(20261122);
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> bytes(random() % 64);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() % 5 == 0 ? random() : 0);
    (void)parse_spaces(bytes);
    GuestDescription::Property property = to_property(some_tree());
    if (random() % 2 == 0) {
      property.body = bytes;
    } else {
      property.body[random() % property.body.size()] = static_cast<std::byte>(random());
    }
    const auto parsed = parse_tree(with(property));
    EXPECT_TRUE(!parsed || parsed->pids.size() <= 3);
  }
}

TEST(TreeState, NamesThatLeaveTheFolderAreRefused) {
  for (const char* bad :
       {"criu.", "criu.../x", "criu..hidden", "criu.a/b", "criu.A.img", "other.img", "criu.a b", "",
        "criu.0123456789012345678901234567890123456789012345678"}) {
    EXPECT_FALSE(image_file(bad)) << bad;
  }
  for (const char* good : {"core-1.img", "mm-12.img", "tmpfs-dev-71.tar.gz.img", "pages-1.img",
                           "ip6tables-9.img", "fs-1.img", "tty-info.img", "pstree.img"}) {
    const auto section = image_section(good);
    ASSERT_TRUE(section) << good;
    const auto file = image_file(*section);
    ASSERT_TRUE(file) << good;
    EXPECT_EQ(*file, good);
  }
  EXPECT_FALSE(image_section("../etc/passwd"));
}

}  // namespace
}  // namespace migrate::containers
