// Pieces of ACPI Machine Language (ACPI 6.5, chapter 20), enough to describe a few devices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace migrate::vmm::aml {

using Bytes = std::vector<std::byte>;

/// One after the other.
[[nodiscard]] Bytes join(const std::vector<Bytes>& parts);

/// A name of 1 to 4 of A-Z, 0-9 and _, filled up with _.
[[nodiscard]] Bytes name_segment(std::string_view name);
/// The shortest form.
[[nodiscard]] Bytes integer(std::uint32_t value);
[[nodiscard]] Bytes text(std::string_view text);
/// "PNP0501" in its packed form.
[[nodiscard]] Bytes eisa_id(std::string_view id);
[[nodiscard]] Bytes package(const std::vector<Bytes>& elements);

/// Name(NAME, VALUE)
[[nodiscard]] Bytes name(std::string_view name, const Bytes& value);
/// Scope(\NAME) { ... }
[[nodiscard]] Bytes scope(std::string_view name, const std::vector<Bytes>& terms);
/// Device(NAME) { ... }
[[nodiscard]] Bytes device(std::string_view name, const std::vector<Bytes>& terms);

/// Method(NAME, ARGUMENTS, Serialized) { ... }
[[nodiscard]] Bytes method(std::string_view name, unsigned arguments,
                           const std::vector<Bytes>& terms);
/// If (ArgN == VALUE) { ... }
[[nodiscard]] Bytes if_argument_is(unsigned argument, std::uint32_t value,
                                   const std::vector<Bytes>& terms);
/// Notify(NAME, VALUE)
[[nodiscard]] Bytes notify(std::string_view name, std::uint32_t value);

// Resources of a device (ACPI 6.5, section 6.4).
[[nodiscard]] Bytes memory32(std::uint32_t address, std::uint32_t bytes);
[[nodiscard]] Bytes ports(std::uint16_t first, std::uint8_t count);
enum class Trigger : std::uint8_t { kLevel = 0, kEdge = 1 };
/// An interrupt of its own, active high.
[[nodiscard]] Bytes interrupt(std::uint32_t number, Trigger trigger);
/// Buffer of resources, ended.
[[nodiscard]] Bytes resources(const std::vector<Bytes>& descriptors);

}  // namespace migrate::vmm::aml
