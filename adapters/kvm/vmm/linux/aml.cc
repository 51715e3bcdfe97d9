#include "adapters/kvm/vmm/linux/aml.hpp"

#include <string>

#include "migrate/result.hpp"

namespace migrate::vmm::aml {
namespace {

constexpr unsigned kZero = 0x00;
constexpr unsigned kOne = 0x01;
constexpr unsigned kName = 0x08;
constexpr unsigned kByte = 0x0a;
constexpr unsigned kWord = 0x0b;
constexpr unsigned kDoubleWord = 0x0c;
constexpr unsigned kString = 0x0d;
constexpr unsigned kScope = 0x10;
constexpr unsigned kBuffer = 0x11;
constexpr unsigned kPackage = 0x12;
constexpr unsigned kMethod = 0x14;
constexpr unsigned kExtended = 0x5b;
constexpr unsigned kDevice = 0x82;
constexpr unsigned kRoot = 0x5c;
constexpr unsigned kArgument = 0x68;  // Of Arg0; Arg6 is 0x6e.
constexpr unsigned kNotify = 0x86;
constexpr unsigned kEqual = 0x93;
constexpr unsigned kIf = 0xa0;

Bytes of(std::initializer_list<unsigned> values) {
  Bytes bytes;
  for (const unsigned value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

template <typename T>
Bytes number(T value) {
  Bytes bytes;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    bytes.push_back(static_cast<std::byte>(value >> 8 * i));
  return bytes;
}

/// PkgLength: the bytes of `content` and its own, in one to four bytes.
Bytes with_length(const Bytes& content) {
  const std::size_t bytes = content.size();
  if (bytes + 1 < 1u << 6) return join({of({static_cast<unsigned>(bytes + 1)}), content});
  std::size_t more = 1;
  while (bytes + 1 + more >= std::size_t{1} << (4 + 8 * more)) ++more;
  MIGRATE_CHECK(more <= 3);
  const auto total = static_cast<unsigned>(bytes + 1 + more);
  Bytes length = of({static_cast<unsigned>(more << 6) | (total & 0xf)});
  for (std::size_t i = 0; i < more; ++i) {
    length.push_back(static_cast<std::byte>(total >> (4 + 8 * i)));
  }
  return join({length, content});
}

}  // namespace

Bytes join(const std::vector<Bytes>& parts) {
  Bytes all;
  for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

Bytes name_segment(std::string_view name) {
  MIGRATE_CHECK(!name.empty() && name.size() <= 4);
  Bytes bytes;
  for (const char character : name) bytes.push_back(static_cast<std::byte>(character));
  bytes.resize(4, std::byte{'_'});
  return bytes;
}

Bytes integer(std::uint32_t value) {
  if (value == 0) return of({kZero});
  if (value == 1) return of({kOne});
  if (value <= 0xff) return of({kByte, value});
  if (value <= 0xffff) return join({of({kWord}), number(static_cast<std::uint16_t>(value))});
  return join({of({kDoubleWord}), number(value)});
}

Bytes text(std::string_view text) {
  Bytes bytes = of({kString});
  for (const char character : text) bytes.push_back(static_cast<std::byte>(character));
  bytes.push_back(std::byte{0});
  return bytes;
}

/// Three letters of five bits each, then four hexadecimal digits; the bytes in that order.
Bytes eisa_id(std::string_view id) {
  MIGRATE_CHECK(id.size() == 7);
  std::uint32_t packed = 0;
  for (const char letter : id.substr(0, 3)) packed = packed << 5 | ((letter - 'A' + 1) & 0x1f);
  const auto digits = std::stoul(std::string(id.substr(3)), nullptr, 16);
  packed = packed << 16 | static_cast<std::uint32_t>(digits);
  return join({of({kDoubleWord}), number(__builtin_bswap32(packed))});
}

Bytes package(const std::vector<Bytes>& elements) {
  Bytes content = of({static_cast<unsigned>(elements.size())});
  const Bytes all = join(elements);
  content.insert(content.end(), all.begin(), all.end());
  return join({of({kPackage}), with_length(content)});
}

Bytes name(std::string_view name, const Bytes& value) {
  return join({of({kName}), name_segment(name), value});
}

Bytes scope(std::string_view name, const std::vector<Bytes>& terms) {
  return join({of({kScope}), with_length(join({of({kRoot}), name_segment(name), join(terms)}))});
}

Bytes device(std::string_view name, const std::vector<Bytes>& terms) {
  return join({of({kExtended, kDevice}), with_length(join({name_segment(name), join(terms)}))});
}

Bytes method(std::string_view name, unsigned arguments, const std::vector<Bytes>& terms) {
  MIGRATE_CHECK(arguments <= 7);
  constexpr unsigned kSerialized = 1u << 3;
  const Bytes content = join({name_segment(name), of({arguments | kSerialized}), join(terms)});
  return join({of({kMethod}), with_length(content)});
}

Bytes if_argument_is(unsigned argument, std::uint32_t value, const std::vector<Bytes>& terms) {
  MIGRATE_CHECK(argument < 7);
  const Bytes condition = join({of({kEqual, kArgument + argument}), integer(value)});
  return join({of({kIf}), with_length(join({condition, join(terms)}))});
}

Bytes notify(std::string_view name, std::uint32_t value) {
  return join({of({kNotify}), name_segment(name), integer(value)});
}

Bytes memory32(std::uint32_t address, std::uint32_t bytes) {
  return join({of({0x86, 0x09, 0x00, 0x01 /* writable */}), number(address), number(bytes)});
}

Bytes ports(std::uint16_t first, std::uint8_t count) {
  return join({of({0x47, 0x01 /* all 16 bits decoded */}), number(first), number(first),
               of({0x01 /* alignment */, count})});
}

Bytes interrupt(std::uint32_t number_of, Trigger trigger) {
  const unsigned consumer = 1;
  const unsigned edge = static_cast<unsigned>(trigger) << 1;
  return join({of({0x89, 0x06, 0x00, consumer | edge, 0x01 /* one of them */}), number(number_of)});
}

Bytes resources(const std::vector<Bytes>& descriptors) {
  // A checksum of 0 in the end tag stands for none.
  const Bytes all = join({join(descriptors), of({0x79, 0x00})});
  return join(
      {of({kBuffer}), with_length(join({integer(static_cast<std::uint32_t>(all.size())), all}))});
}

}  // namespace migrate::vmm::aml
