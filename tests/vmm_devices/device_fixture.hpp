// What tests of devices stand on: guest memory of two slots with a hole between, an interrupt line
// to look at, and a place for saved sections.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adapters/kvm/vmm/devices/guest_ram.hpp"
#include "adapters/kvm/vmm/devices/io_device.hpp"

namespace migrate::vmm::test {

class FakeLine final : public InterruptLine {
 public:
  void set(bool high) noexcept override {
    if (high && !high_.exchange(true)) rises_.fetch_add(1);
    if (!high) high_.store(false);
  }
  [[nodiscard]] bool high() const { return high_.load(); }
  [[nodiscard]] int rises() const { return rises_.load(); }

 private:
  std::atomic<bool> high_{false};
  std::atomic<int> rises_{0};
};

/// Pages 0..63 and 256..319, and what is marked of them.
class TestRam {
 public:
  static constexpr std::uint64_t kSlotPages = 64;
  static constexpr std::uint64_t kSlotBytes = kSlotPages * kPageSize;
  static constexpr std::uint64_t kHigh = 256 * kPageSize;

  TestRam() : memory_(2 * kSlotPages) {
    for (std::uint32_t i = 0; i < 2; ++i) {
      KvmMemorySlot slot;
      slot.slot = i;
      slot.guest_address = GuestAddr{i * kHigh};
      slot.bytes = kSlotBytes;
      slot.host = memory_[i * kSlotPages].bytes;
      slots_.push_back(slot);
      regions_.push_back(region_of(slot));
    }
    writes_ = make_software_bitmap(regions_);
    ram_ = std::make_unique<GuestRam>(slots_, writes_);
  }

  [[nodiscard]] const GuestRam& ram() const { return *ram_; }
  [[nodiscard]] std::vector<KvmMemorySlot>& slots() { return slots_; }
  [[nodiscard]] const std::shared_ptr<SoftwareBitmap>& writes() const { return writes_; }

  /// As the guest does it: nothing is marked.
  template <typename T>
  void poke(std::uint64_t address, T value) {
    std::memcpy(host(address, sizeof value), &value, sizeof value);
  }
  void poke_text(std::uint64_t address, std::string_view text) {
    std::memcpy(host(address, text.size()), text.data(), text.size());
  }
  template <typename T>
  [[nodiscard]] T peek(std::uint64_t address) const {
    T value;
    std::memcpy(&value, host(address, sizeof value), sizeof value);
    return value;
  }
  [[nodiscard]] std::string peek_text(std::uint64_t address, std::size_t bytes) const {
    return {reinterpret_cast<const char*>(host(address, bytes)), bytes};
  }

  /// The pages marked since this was asked last.
  [[nodiscard]] std::vector<std::uint64_t> take_marked() {
    PageBitmap marked(regions_);
    EXPECT_TRUE(writes_->collect(marked));
    std::vector<std::uint64_t> pages;
    marked.for_each_run([&pages](const RegionId&, PageRange run) {
      for (std::uint64_t i = 0; i < run.count; ++i) pages.push_back(run.first.number + i);
    });
    return pages;
  }

  /// The page of an address.
  static std::uint64_t page(std::uint64_t address) { return address / kPageSize; }

 private:
  struct alignas(kPageSize) Page {
    std::byte bytes[kPageSize] = {};
  };
  [[nodiscard]] std::byte* host(std::uint64_t address, std::uint64_t bytes) const {
    const auto memory = ram_->span(GuestAddr{address}, bytes, false);
    MIGRATE_CHECK(memory.has_value());
    return memory->data();
  }

  std::vector<Page> memory_;
  std::vector<KvmMemorySlot> slots_;
  std::vector<Region> regions_;
  std::shared_ptr<SoftwareBitmap> writes_;
  std::unique_ptr<GuestRam> ram_;
};

/// Keeps the sections a device writes, and gives them back.
class SectionStore final : public StateWriter {
 public:
  Status begin(const SectionInfo& section) override {
    sections_.emplace_back(section, std::vector<std::byte>());
    return {};
  }
  Status append(std::span<const std::byte> bytes) override {
    auto& body = sections_.back().second;
    body.insert(body.end(), bytes.begin(), bytes.end());
    return {};
  }
  Status end() override { return {}; }
  Status memory_final() override { return {}; }

  using Section = std::pair<SectionInfo, std::vector<std::byte>>;
  [[nodiscard]] std::vector<Section>& sections() { return sections_; }

 private:
  std::vector<Section> sections_;
};

class BytesReader final : public StateReader {
 public:
  explicit BytesReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  Result<std::optional<SectionInfo>> next() override { return std::optional<SectionInfo>(); }
  [[nodiscard]] std::uint64_t remaining() const override { return bytes_.size(); }
  Status read(std::span<std::byte> into) override {
    if (into.size() > bytes_.size()) return make_error(ErrorCode::kProtocol, "too short");
    std::copy_n(bytes_.begin(), into.size(), into.begin());
    bytes_ = bytes_.subspan(into.size());
    return {};
  }

 private:
  std::span<const std::byte> bytes_;
};

[[nodiscard]] inline SectionStore::Section saved(MovableDevice& device) {
  SectionStore store;
  EXPECT_TRUE(device.save(store));
  EXPECT_EQ(store.sections().size(), 1u);
  EXPECT_EQ(store.sections().front().first.name, device.section_name());
  return store.sections().front();
}

[[nodiscard]] inline Status load(MovableDevice& device, const SectionStore::Section& section) {
  BytesReader reader(section.second);
  return device.load(section.first, reader);
}

/// Registers of one byte.
inline std::uint8_t in8(IoDevice& device, std::uint64_t offset) {
  std::byte value{};
  device.read(offset, std::span(&value, 1));
  return std::to_integer<std::uint8_t>(value);
}
inline void out8(IoDevice& device, std::uint64_t offset, unsigned value) {
  const auto byte = static_cast<std::byte>(value);
  device.write(offset, std::span(&byte, 1));
}
/// Registers of four bytes.
inline std::uint32_t in32(IoDevice& device, std::uint64_t offset) {
  std::uint32_t value = 0;
  device.read(offset, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}
inline void out32(IoDevice& device, std::uint64_t offset, std::uint32_t value) {
  device.write(offset, std::as_bytes(std::span(&value, 1)));
}

}  // namespace migrate::vmm::test
