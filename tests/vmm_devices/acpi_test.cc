#include "adapters/kvm/vmm/linux/acpi.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>

#include "adapters/kvm/vmm/linux/aml.hpp"
#include "adapters/kvm/vmm/linux/memory_map.hpp"

namespace migrate::vmm::test {
namespace {

using aml::Bytes;
using ::testing::HasSubstr;

Bytes bytes(std::initializer_list<unsigned> values) {
  Bytes all;
  for (const unsigned value : values) all.push_back(static_cast<std::byte>(value));
  return all;
}

template <typename T>
T field(std::span<const std::byte> from, std::size_t offset) {
  T value{};
  EXPECT_LE(offset + sizeof value, from.size());
  if (offset + sizeof value <= from.size()) {
    std::memcpy(&value, from.data() + offset, sizeof value);
  }
  return value;
}

unsigned sum(std::span<const std::byte> from) {
  unsigned all = 0;
  for (const std::byte byte : from) all += std::to_integer<unsigned>(byte);
  return all & 0xff;
}

std::string text(std::span<const std::byte> from) {
  return {reinterpret_cast<const char*>(from.data()), from.size()};
}

/// Finds tables by the addresses they give, as a kernel does.
class Tables {
 public:
  explicit Tables(const AcpiMachine& machine) : all_(make_acpi_tables(machine)) {
    const auto root = std::span(all_).first(36);
    EXPECT_EQ(text(root.first(8)), "RSD PTR ");
    EXPECT_EQ(sum(root.first(20)), 0u);
    EXPECT_EQ(sum(root), 0u);
    const auto xsdt = at(field<std::uint64_t>(root, 24), "XSDT");
    for (std::size_t offset = 36; offset < xsdt.size(); offset += 8) {
      const auto address = field<std::uint64_t>(xsdt, offset);
      const std::string signature = text(std::span(all_).subspan(address - kAcpiAddress.value, 4));
      tables_[signature] = at(address, signature);
    }
    const auto fadt = tables_["FACP"];
    EXPECT_EQ(field<std::uint32_t>(fadt, 40), field<std::uint64_t>(fadt, 140));
    tables_["DSDT"] = at(field<std::uint64_t>(fadt, 140), "DSDT");
  }
  std::span<const std::byte> operator[](const std::string& signature) { return tables_[signature]; }

 private:
  std::span<const std::byte> at(std::uint64_t address, const std::string& signature) {
    EXPECT_EQ(address % 16, 0u);
    const auto table = std::span(all_).subspan(address - kAcpiAddress.value);
    const auto length = field<std::uint32_t>(table, 4);
    EXPECT_LE(length, table.size());
    EXPECT_EQ(text(table.first(4)), signature);
    EXPECT_EQ(sum(table.first(length)), 0u) << signature;
    return table.first(length);
  }
  std::vector<std::byte> all_;
  std::map<std::string, std::span<const std::byte>> tables_;
};

TEST(Acpi, TheFixedTableSaysHowToSwitchOffAndToReset) {
  Tables tables({2, 3});
  const auto fadt = tables["FACP"];
  ASSERT_EQ(fadt.size(), 276u);
  const auto flags = field<std::uint32_t>(fadt, 112);
  EXPECT_NE(flags & 1u << 20, 0u) << "no ACPI hardware";
  EXPECT_NE(flags & 1u << 10, 0u) << "a reset register";
  const auto is_port = [&](std::size_t offset, std::uint64_t port) {
    EXPECT_EQ(field<std::uint32_t>(fadt, offset), 0x01000801u) << offset;
    EXPECT_EQ(field<std::uint64_t>(fadt, offset + 4), port) << offset;
  };
  is_port(116, 0x602);
  EXPECT_EQ(field<std::uint8_t>(fadt, 128), 1);
  is_port(244, 0x600);
  is_port(256, 0x601);
}

TEST(Acpi, EachProcessorAndTheIoApicAreListed) {
  Tables tables({3, 0});
  const auto madt = tables["APIC"];
  EXPECT_EQ(field<std::uint32_t>(madt, 36), 0xfee00000u);
  std::vector<Bytes> entries;
  for (std::size_t offset = 44; offset < madt.size();) {
    const auto length = field<std::uint8_t>(madt, offset + 1);
    ASSERT_GE(length, 2);
    entries.emplace_back(madt.begin() + static_cast<long>(offset),
                         madt.begin() + static_cast<long>(offset + length));
    offset += length;
  }
  ASSERT_EQ(entries.size(), 6u);
  EXPECT_EQ(entries[0], bytes({0, 8, 0, 0, 1, 0, 0, 0}));
  EXPECT_EQ(entries[2], bytes({0, 8, 2, 2, 1, 0, 0, 0}));
  EXPECT_EQ(entries[3], bytes({1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0}));
  EXPECT_EQ(entries[4], bytes({2, 10, 0, 4, 4, 0, 0, 0, 0, 0}));
  EXPECT_EQ(entries[5], bytes({4, 6, 0xff, 0, 0, 1}));
}

TEST(Acpi, TheNamespaceIsTheseBytes) {
  Tables tables({1, 1});
  // Name(_S5, Package(4){5, 0, 0, 0}), Scope(\_SB){Device(COM1){...}, Device(PEVT){...},
  // Device(VGEN){...}, Device(GED0){...}, Device(VR00){...}}; checked with iasl -d.
  const Bytes com1 = bytes({
      0x5b, 0x82, 0x31, 'C',  'O',  'M',  '1',                     //
      0x08, '_',  'H',  'I',  'D',  0x0c, 0x41, 0xd0, 0x05, 0x01,  // PNP0501
      0x08, '_',  'U',  'I',  'D',  0x01,                          //
      0x08, '_',  'C',  'R',  'S',  0x11, 0x16, 0x0a, 0x13,        //
      0x47, 0x01, 0xf8, 0x03, 0xf8, 0x03, 0x01, 0x08,              // 8 ports
      0x89, 0x06, 0x00, 0x03, 0x01, 0x04, 0x00, 0x00, 0x00,        // edges of 4
      0x79, 0x00,
  });
  const Bytes pevt = bytes({
      0x5b, 0x82, 0x27, 'P',  'E',  'V',  'T',  //
      0x08, '_',  'H',  'I',  'D',  0x0d, 'Q',  'E',  'M',  'U',  '0',  '0',
      '0',  '1',  0x00, 0x08, '_',  'C',  'R',  'S',  0x11, 0x0d, 0x0a, 0x0a,  //
      0x47, 0x01, 0x05, 0x05, 0x05, 0x05, 0x01, 0x01,                          // 1 port
      0x79, 0x00,
  });
  const Bytes vgen = bytes({
      0x5b, 0x82, 0x4a, 0x05, 'V', 'G',  'E',  'N',                                          //
      0x08, '_',  'H',  'I',  'D', 0x0d, 'Q',  'E',  'M',  'U',  'V',  'G',  'I',  'D',  0,  //
      0x08, '_',  'C',  'I',  'D', 0x12, 0x1c, 0x02,                                         //
      0x0d, 'V',  'M',  '_',  'G', 'e',  'n',  '_',  'C',  'o',  'u',  'n',  't',  'e',  'r', 0,
      0x0d, 'V',  'M',  'G',  'E', 'N',  'C',  'T',  'R',  0,  //
      0x08, '_',  'D',  'D',  'N',                             //
      0x0d, 'V',  'M',  '_',  'G', 'e',  'n',  '_',  'C',  'o',  'u',  'n',  't',  'e',  'r', 0,
      0x08, 'A',  'D',  'D',  'R', 0x12, 0x08, 0x02, 0x0c, 0x00, 0xe0, 0x0f, 0x00, 0x00,  // 0xfe000
  });
  const Bytes ged0 = bytes({
      0x5b, 0x82, 0x43, 0x04, 'G',  'E',  'D',  '0',                                       //
      0x08, '_',  'H',  'I',  'D',  0x0d, 'A',  'C',  'P',  'I',  '0',  '0', '1', '3', 0,  //
      0x08, '_',  'U',  'I',  'D',  0x00,                                                  //
      0x08, '_',  'C',  'R',  'S',  0x11, 0x0e, 0x0a, 0x0b,                                //
      0x89, 0x06, 0x00, 0x03, 0x01, 0x09, 0x00, 0x00, 0x00, 0x79, 0x00,  // edges of 9
      0x14, 0x13, '_',  'E',  'V',  'T',  0x09,                          // one argument, serialized
      0xa0, 0x0c, 0x93, 0x68, 0x0a, 0x09,                                // If (Arg0 == 9)
      0x86, 'V',  'G',  'E',  'N',  0x0a, 0x80,                          // Notify (VGEN, 0x80)
  });
  const Bytes vr00 = bytes({
      0x5b, 0x82, 0x41, 0x04, 'V',  'R',  '0',  '0',  //
      0x08, '_',  'H',  'I',  'D',  0x0d, 'L',  'N',  'R',  'O',  '0',  '0',
      '0',  '5',  0x00, 0x08, '_',  'U',  'I',  'D',  0x00,                    //
      0x08, '_',  'C',  'C',  'A',  0x01,                                      //
      0x08, '_',  'C',  'R',  'S',  0x11, 0x1a, 0x0a, 0x17,                    //
      0x86, 0x09, 0x00, 0x01, 0x00, 0x00, 0x00, 0xd0, 0x00, 0x10, 0x00, 0x00,  // a page
      0x89, 0x06, 0x00, 0x01, 0x01, 0x10, 0x00, 0x00, 0x00,                    // level of 16
      0x79, 0x00,
  });
  const Bytes off = bytes({0x08, '_', 'S', '5', '_', 0x12, 0x07, 0x04, 0x0a, 0x05, 0, 0, 0});
  const std::size_t inside =
      5 + com1.size() + pevt.size() + vgen.size() + ged0.size() + vr00.size();
  const auto length = static_cast<unsigned>(inside + 2);
  const Bytes scope = bytes({0x10, 0x40 | (length & 0xf), length >> 4, '\\', '_', 'S', 'B', '_'});
  const auto dsdt = tables["DSDT"].subspan(36);
  EXPECT_EQ(Bytes(dsdt.begin(), dsdt.end()), aml::join({off, scope, com1, pevt, vgen, ged0, vr00}));
}

TEST(Acpi, AllDevicesAndProcessorsHaveRoom) {
  Tables tables({64, kVirtioDevicesMax});
  EXPECT_THAT(text(tables["DSDT"]), HasSubstr("VR07"));
  EXPECT_EQ(tables["APIC"].size(), 44u + 64 * 8 + 12 + 10 + 6);
}

TEST(Aml, NumbersAreAsShortAsTheyCanBe) {
  EXPECT_EQ(aml::integer(0), bytes({0}));
  EXPECT_EQ(aml::integer(1), bytes({1}));
  EXPECT_EQ(aml::integer(0xff), bytes({0x0a, 0xff}));
  EXPECT_EQ(aml::integer(0x1234), bytes({0x0b, 0x34, 0x12}));
  EXPECT_EQ(aml::integer(0x12345678), bytes({0x0c, 0x78, 0x56, 0x34, 0x12}));
  EXPECT_EQ(aml::name_segment("_S5"), bytes({'_', 'S', '5', '_'}));
}

/// Lengths count themselves, in one to three bytes here.
TEST(Aml, LengthsAreRightAtTheirBorders) {
  for (const std::size_t content : {1u, 57u, 58u, 59u, 4087u, 4088u, 4089u, 70'000u}) {
    const Bytes scope = aml::scope("_SB", {Bytes(content, std::byte{0xa3})});
    const auto first = std::to_integer<unsigned>(scope[1]);
    const unsigned more = first >> 6;
    std::size_t length = more == 0 ? first & 0x3f : first & 0xf;
    for (unsigned i = 0; i < more; ++i) {
      length |= std::to_integer<std::size_t>(scope[2 + i]) << (4 + 8 * i);
    }
    EXPECT_EQ(length, scope.size() - 1) << content;
    EXPECT_EQ(scope.size(), 1 + 1 + more + 5 + content);
    constexpr std::size_t kLeast[] = {0, 64, 4096};
    ASSERT_LT(more, std::size(kLeast));
    EXPECT_GE(length, kLeast[more]) << "less would have done";
  }
}

}  // namespace
}  // namespace migrate::vmm::test
