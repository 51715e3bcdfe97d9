// What the readers and writers of all state share: bounded reads, and no unknown part passed over.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "migrate/guest.hpp"

namespace migrate {
namespace {

class OneSection final : public StateReader {
 public:
  explicit OneSection(std::uint64_t claimed, std::size_t there)
      : claimed_(claimed), there_(there) {}
  Result<std::optional<SectionInfo>> next() override { return std::optional<SectionInfo>(); }
  std::uint64_t remaining() const override { return claimed_; }
  Status read(std::span<std::byte> into) override {
    if (into.size() > there_) return make_error(ErrorCode::kProtocol, "the section ends early");
    std::memset(into.data(), 7, into.size());
    return {};
  }

 private:
  std::uint64_t claimed_;
  std::size_t there_;
};

class Recorder final : public StateWriter {
 public:
  Status begin(const SectionInfo& section) override { return note("begin " + section.name); }
  Status append(std::span<const std::byte> bytes) override {
    return note("append " + std::to_string(bytes.size()));
  }
  Status end() override { return note("end"); }
  Status memory_final() override { return note("final"); }
  std::vector<std::string> calls;
  std::size_t fail_at = 99;

 private:
  Status note(std::string call) {
    calls.push_back(std::move(call));
    if (calls.size() == fail_at) return make_error(ErrorCode::kLinkLost, "gone");
    return {};
  }
};

TEST(StateReader, AClaimedLengthIsCheckedBeforeAnyMemoryIsTaken) {
  OneSection huge(~0ull, 0);
  const auto bytes = huge.read_all(1 << 20);
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code, ErrorCode::kProtocol);
  EXPECT_THAT(bytes.error().message, testing::HasSubstr("1048576"));
}

TEST(StateReader, ReadsAWholeSectionOrFails) {
  OneSection good(16, 16);
  const auto bytes = good.read_all(16);
  ASSERT_TRUE(bytes);
  EXPECT_EQ(*bytes, std::vector<std::byte>(16, std::byte{7}));
  OneSection cut(16, 15);
  EXPECT_FALSE(cut.read_all(16));
}

TEST(StateReader, OnlyOptionalUnknownSectionsAreSkipped) {
  EXPECT_TRUE(StateReader::skip_unknown({"hints", 1, false}));
  const Status status = StateReader::skip_unknown({"gpu", 3, true});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIncompatible);
  EXPECT_THAT(status.error().message, testing::HasSubstr("gpu, version 3"));
  EXPECT_FALSE(status.error().remedy.empty());
}

TEST(StateWriter, AWholeSectionIsBeginAppendEndAndStopsAtTheFirstError) {
  const std::vector<std::byte> body(5);
  Recorder good;
  EXPECT_TRUE(good.section({"vcpu.0"}, body));
  EXPECT_THAT(good.calls, testing::ElementsAre("begin vcpu.0", "append 5", "end"));
  Recorder bad;
  bad.fail_at = 2;
  EXPECT_FALSE(bad.section({"vcpu.0"}, body));
  EXPECT_EQ(bad.calls.size(), 2u);
}

}  // namespace
}  // namespace migrate
