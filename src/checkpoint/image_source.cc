// An image as the guest of a migration.
#include <array>
#include <chrono>
#include <cstring>

#include "checkpoint/image_chain.hpp"
#include "checkpoint/reader_pool.hpp"
#include "migrate/image_guest.hpp"
#include "migrate/trackers.hpp"

namespace migrate {
namespace {

using checkpoint::FoundPage;
using checkpoint::ImageChain;
using checkpoint::ReaderPool;

/// Pages looked up at a time.
constexpr std::uint64_t kWindow = 512;

class ImageSource final : public SourceGuest, private PageSource {
 public:
  explicit ImageSource(std::shared_ptr<const ImageChain> chain)
      : pool_(std::move(chain)),
        tracker_(make_software_bitmap(pool_.chain().regions())),
        state_(described().run_state) {}

  Result<GuestDescription> describe() override { return described().guest; }
  PageSource& pages() override { return *this; }
  /// Nobody writes.
  DirtyTracker& tracker() override { return *tracker_; }
  RunState run_state() override { return state_; }
  Result<PauseResult> pause() override {
    const PauseResult result{state_, std::chrono::steady_clock::now()};
    state_ = RunState::kPaused;
    return result;
  }
  std::optional<SwitchoverCost> expected_cost() override { return std::nullopt; }
  Status resume() override {
    state_ = described().run_state;
    return {};
  }
  Status save_state(StateWriter& writer) override {
    MIGRATE_TRY(writer.memory_final());
    MIGRATE_ASSIGN(const auto sections, pool_.chain().state());
    for (const auto& section : sections) MIGRATE_TRY(writer.section(section.info, section.body));
    return {};
  }
  Status throttle(std::uint32_t, double) override {
    return make_error(ErrorCode::kUnsupported, "an image does not run");
  }
  Status relinquish() override { return {}; }
  void committing() override {}
  Status reclaim() override { return {}; }
  Status release() override { return {}; }
  Status first_pages(PageBitmap&) override { return {}; }
  Status release_pages(const RegionId&, PageRange) override { return {}; }
  PacketSource* waiting_packets() override { return nullptr; }

 private:
  [[nodiscard]] const checkpoint::ImageDescription& described() const {
    return pool_.chain().top().description();
  }
  [[nodiscard]] std::uint16_t index_of(const RegionId& region) const {
    const auto& regions = pool_.chain().regions();
    std::uint16_t index = 0;
    while (index < regions.size() && regions[index].id != region) ++index;
    MIGRATE_CHECK(index < regions.size());
    return index;
  }

  // PageSource
  Result<std::vector<Region>> regions() override { return pool_.chain().regions(); }
  Result<ReadOutcome> read(const RegionId& region, PageRange range,
                           std::span<std::byte> into) override {
    MIGRATE_CHECK(into.size() == range.bytes());
    const std::uint16_t index = index_of(region);
    MIGRATE_ASSIGN(auto reader, pool_.take());
    // What reads as zero is left as it was.
    std::memset(into.data(), 0, into.size());
    const GuestPage first = pool_.chain().regions()[index].range.first;
    MIGRATE_TRY(reader->read(index, range.first - first, range.count, into.data()));
    return ReadOutcome::kRead;
  }
  std::span<const std::byte> mapped(const RegionId&) override { return {}; }
  Status holes(const RegionId& region, PageBitmap& holes) override {
    const std::uint16_t index = index_of(region);
    const PageRange range = pool_.chain().regions()[index].range;
    std::array<FoundPage, kWindow> found;
    for (std::uint64_t at = 0; at < range.count; at += kWindow) {
      const std::uint64_t count = std::min(kWindow, range.count - at);
      MIGRATE_TRY(pool_.chain().find(index, at, std::span(found).first(count)));
      for (std::uint64_t i = 0; i < count; ++i) {
        if (found[i].file == nullptr) holes.set(region, range.first + (at + i));
      }
    }
    return {};
  }

  ReaderPool pool_;
  const std::shared_ptr<SoftwareBitmap> tracker_;
  RunState state_;
};

}  // namespace

Result<std::unique_ptr<SourceGuest>> make_image_source(const std::string& path,
                                                       const ImageSearch& search) {
  MIGRATE_ASSIGN(auto chain, ImageChain::open(path, search));
  return std::unique_ptr<SourceGuest>(std::make_unique<ImageSource>(std::move(chain)));
}

}  // namespace migrate
