// A generation id on its way, and as text.
#include "adapters/kvm/vmm/generation.hpp"

#include <gmock/gmock.h>

#include "tests/vmm/section_tape.hpp"

namespace migrate::vmm {
namespace {

using ::testing::HasSubstr;

GenerationId counted() {
  GenerationId id;
  for (std::size_t i = 0; i < id.bytes.size(); ++i) id.bytes[i] = static_cast<std::byte>(0x10 + i);
  return id;
}

GuestDescription::Property written(const Generation& generation) {
  Sections sections;
  Recorder recorder(sections);
  EXPECT_TRUE(write_generation_section(recorder, generation));
  return sections.at(0);
}

Result<std::optional<Generation>> read(const GuestDescription::Property& property) {
  const Sections sections = {property};
  Player player(sections);
  const auto info = player.next();
  return read_generation_section(**info, player);
}

TEST(GenerationId, EachIsAnother) {
  const auto one = make_generation_id();
  const auto two = make_generation_id();
  ASSERT_TRUE(one && two);
  EXPECT_NE(*one, *two);
}

TEST(GenerationId, TextIsAGuid) {
  EXPECT_EQ(to_text(counted()), "13121110-1514-1716-1819-1a1b1c1d1e1f");
}

TEST(GenerationSection, ItMovesWithItsPlaceOrWithoutOne) {
  for (const auto& address : {std::optional(GuestAddr{0xfe000}), std::optional<GuestAddr>()}) {
    const auto back = read(written({counted(), address}));
    ASSERT_TRUE(back && *back);
    EXPECT_EQ((*back)->id, counted());
    EXPECT_EQ((*back)->address, address);
  }
}

/// A target that does not know it goes on without; so does this one with a later version of it.
TEST(GenerationSection, ItMayBeSkipped) {
  auto property = written({counted(), GuestAddr{0xfe000}});
  EXPECT_FALSE(property.info.mandatory);
  EXPECT_TRUE(StateReader::skip_unknown(property.info));
  property.info.version = 2;
  const auto later = read(property);
  ASSERT_TRUE(later) << later.error().to_text();
  EXPECT_FALSE(*later);
  property.info.mandatory = true;
  EXPECT_FALSE(read(property));
}

TEST(GenerationSection, BrokenOnesAreRefused) {
  const auto good = written({counted(), GuestAddr{0xfe000}});
  for (std::size_t bytes = 0; bytes < good.body.size() + 50; ++bytes) {
    auto bad = good;
    bad.body.resize(bytes);
    const auto back = read(bad);
    if (bytes == good.body.size()) {
      EXPECT_TRUE(back);
      continue;
    }
    ASSERT_FALSE(back) << bytes;
    EXPECT_EQ(back.error().code, ErrorCode::kProtocol);
  }
  auto crooked = good;
  crooked.body[16] |= std::byte{4};
  EXPECT_THAT(read(crooked).error().message, HasSubstr("impossible address"));
}

}  // namespace
}  // namespace migrate::vmm
