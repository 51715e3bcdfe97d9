// Zero pages are told from others, wherever the one byte that is not zero is, by every way to look.
#include "memory/zero_page.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "migrate/memory.hpp"

namespace migrate {
namespace {

class ZeroPage : public ::testing::TestWithParam<ZeroPageCheck (*)()> {};
INSTANTIATE_TEST_SUITE_P(Ways, ZeroPage,
                         ::testing::Values(portable_zero_page_check, avx2_zero_page_check,
                                           [] { return ZeroPageCheck{is_zero_page}; }));

TEST_P(ZeroPage, OneBitAnywhereIsSeenAndNothingBeyondThePageIs) {
  const ZeroPageCheck check = GetParam()();
  if (check == nullptr) GTEST_SKIP() << "not on this processor";
  // At an odd place: staged content need not be aligned.
  constexpr std::size_t kBefore = 40;
  std::vector<std::byte> room(kBefore + kPageSize + 64, std::byte{0xff});
  std::byte* page = room.data() + kBefore;
  std::fill_n(page, kPageSize, std::byte{0});
  EXPECT_TRUE(check(page));
  for (std::size_t i = 0; i < kPageSize; ++i) {
    page[i] = std::byte{1} << (i % 8);
    ASSERT_FALSE(check(page)) << "byte " << i;
    page[i] = std::byte{0};
  }
  EXPECT_TRUE(check(page));
}

}  // namespace
}  // namespace migrate
