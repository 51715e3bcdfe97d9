#include "adapters/kvm/vmm/linux/acpi.hpp"

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "adapters/kvm/vmm/devices/power_ports.hpp"
#include "adapters/kvm/vmm/devices/serial_16550.hpp"
#include "adapters/kvm/vmm/devices/virtio_mmio.hpp"
#include "adapters/kvm/vmm/linux/aml.hpp"
#include "adapters/kvm/vmm/linux/memory_map.hpp"

namespace migrate::vmm {
namespace {

using aml::Bytes;

constexpr std::string_view kOem = "MIGRAT";
constexpr std::string_view kOemTable = "MIGRATE ";
constexpr std::uint32_t kTableRevision = 1;
constexpr std::size_t kChecksumOffset = 9;
constexpr std::size_t kTableAlignment = 16;

constexpr std::uint32_t kLocalApic = 0xfee0'0000;
constexpr std::uint32_t kIoApic = 0xfec0'0000;

template <typename T>
void append(Bytes& table, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    table.push_back(static_cast<std::byte>(static_cast<std::uint64_t>(value) >> 8 * i));
  }
}
void append(Bytes& table, std::string_view text) {
  for (const char character : text) table.push_back(static_cast<std::byte>(character));
}
template <typename T>
void put(Bytes& table, std::size_t offset, T value) {
  std::memcpy(table.data() + offset, &value, sizeof value);
}

/// The byte that makes the sum of all zero.
std::uint8_t checksum(std::span<const std::byte> bytes) {
  unsigned sum = 0;
  for (const std::byte byte : bytes) sum += std::to_integer<unsigned>(byte);
  return static_cast<std::uint8_t>(0x100 - (sum & 0xff));
}

Bytes begin_table(std::string_view signature, std::uint8_t revision) {
  Bytes table;
  append(table, signature);
  append(table, std::uint32_t{0});  // Length, by finish().
  append(table, revision);
  append(table, std::uint8_t{0});  // Checksum, by finish().
  append(table, kOem);
  append(table, kOemTable);
  append(table, kTableRevision);
  append(table, kOem.substr(0, 4));
  append(table, kTableRevision);
  return table;
}

Bytes finish(Bytes table) {
  put(table, 4, static_cast<std::uint32_t>(table.size()));
  put(table, kChecksumOffset, checksum(table));
  return table;
}

Bytes virtio_device(std::uint32_t number) {
  const auto address =
      static_cast<std::uint32_t>(kVirtioAddress.value + number * VirtioMmio::kBytes);
  const std::string name = std::string("VR0") + static_cast<char>('0' + number);
  return aml::device(
      name, {aml::name("_HID", aml::text("LNRO0005")), aml::name("_UID", aml::integer(number)),
             aml::name("_CCA", aml::integer(1)),
             aml::name("_CRS", aml::resources({aml::memory32(address, VirtioMmio::kBytes),
                                               aml::interrupt(kVirtioInterrupt + number,
                                                              aml::Trigger::kLevel)}))});
}

Bytes serial_port() {
  return aml::device(
      "COM1",
      {aml::name("_HID", aml::eisa_id("PNP0501")), aml::name("_UID", aml::integer(1)),
       aml::name("_CRS",
                 aml::resources({aml::ports(Serial16550::kPort, Serial16550::kRegisters),
                                 aml::interrupt(Serial16550::kInterrupt, aml::Trigger::kEdge)}))});
}

Bytes panic_port() {
  return aml::device("PEVT", {aml::name("_HID", aml::text("QEMU0001")),
                              aml::name("_CRS", aml::resources({aml::ports(kPanicPort, 1)}))});
}

/// As QEMU's: a kernel finds it by what it is compatible with (_CID: by Microsoft's first name for
/// it, and by the one that ACPI permits), and the id by ADDR, low half first.
Bytes generation_id() {
  constexpr std::uint64_t kAddress = kGenerationAddress.value;
  return aml::device(
      "VGEN",
      {aml::name("_HID", aml::text("QEMUVGID")),
       aml::name("_CID", aml::package({aml::text("VM_Gen_Counter"), aml::text("VMGENCTR")})),
       aml::name("_DDN", aml::text("VM_Gen_Counter")),
       aml::name("ADDR",
                 aml::package({aml::integer(static_cast<std::uint32_t>(kAddress)),
                               aml::integer(static_cast<std::uint32_t>(kAddress >> 32))}))});
}

/// A Generic Event Device: without ACPI hardware, how an interrupt comes to be a notification.
Bytes events() {
  constexpr std::uint32_t kHasChanged = 0x80;
  return aml::device(
      "GED0",
      {aml::name("_HID", aml::text("ACPI0013")), aml::name("_UID", aml::integer(0)),
       aml::name("_CRS",
                 aml::resources({aml::interrupt(kGenerationInterrupt, aml::Trigger::kEdge)})),
       aml::method(
           "_EVT", 1,
           {aml::if_argument_is(0, kGenerationInterrupt, {aml::notify("VGEN", kHasChanged)})})});
}

Bytes make_dsdt(const AcpiMachine& machine) {
  std::vector<Bytes> devices = {serial_port(), panic_port(), generation_id(), events()};
  for (std::uint32_t i = 0; i < machine.virtio_devices; ++i) devices.push_back(virtio_device(i));
  const Bytes off = aml::package(
      {aml::integer(PowerPorts::kSleepOff), aml::integer(0), aml::integer(0), aml::integer(0)});
  Bytes table = begin_table("DSDT", 2);
  const Bytes terms = aml::join({aml::name("_S5", off), aml::scope("_SB", devices)});
  table.insert(table.end(), terms.begin(), terms.end());
  return finish(std::move(table));
}

/// A register of one byte among the ports, as a Generic Address Structure.
Bytes port_register(std::uint16_t port) {
  Bytes bytes;
  for (const unsigned field : {1u /* ports */, 8u /* bits */, 0u, 1u /* access by bytes */}) {
    append(bytes, static_cast<std::uint8_t>(field));
  }
  append(bytes, std::uint64_t{port});
  return bytes;
}

/// Most of it describes hardware that is not there, by zeroes. Section 5.2.9 has the offsets.
Bytes make_fadt(std::uint64_t dsdt) {
  constexpr std::size_t kBytes = 276;
  constexpr std::uint16_t kNoVga = 1 << 2;
  constexpr std::uint16_t kNoRtc = 1 << 5;
  constexpr std::uint32_t kWbinvd = 1 << 0;
  constexpr std::uint32_t kNoPowerButton = 1 << 4;
  constexpr std::uint32_t kNoSleepButton = 1 << 5;
  constexpr std::uint32_t kResetRegister = 1 << 10;
  constexpr std::uint32_t kHardwareReduced = 1 << 20;
  Bytes table = begin_table("FACP", 6);
  table.resize(kBytes);
  const auto put_register = [&table](std::size_t offset, std::uint16_t port) {
    const Bytes bytes = port_register(port);
    std::copy(bytes.begin(), bytes.end(), table.begin() + static_cast<long>(offset));
  };
  put(table, 40, static_cast<std::uint32_t>(dsdt));
  put(table, 109, std::uint16_t{kNoVga | kNoRtc});
  put(table, 112, kWbinvd | kNoPowerButton | kNoSleepButton | kResetRegister | kHardwareReduced);
  put_register(116, kPowerPort + PowerPorts::kReset);
  put(table, 128, PowerPorts::kResetValue);
  put(table, 131, std::uint8_t{5});  // Of version 6.5.
  put(table, 140, dsdt);
  put_register(244, kPowerPort + PowerPorts::kSleepControl);
  put_register(256, kPowerPort + PowerPorts::kSleepStatus);
  return finish(std::move(table));
}

void append_entry(Bytes& table, std::uint8_t type, const Bytes& body) {
  append(table, type);
  append(table, static_cast<std::uint8_t>(body.size() + 2));
  table.insert(table.end(), body.begin(), body.end());
}

Bytes make_madt(std::uint32_t vcpus) {
  Bytes table = begin_table("APIC", 5);
  append(table, kLocalApic);
  append(table, std::uint32_t{0});  // No 8259s for the guest.
  for (std::uint32_t id = 0; id < vcpus; ++id) {
    Bytes local;
    append(local, static_cast<std::uint8_t>(id));  // Processor
    append(local, static_cast<std::uint8_t>(id));  // APIC
    append(local, std::uint32_t{1});               // Enabled
    append_entry(table, 0, local);
  }
  Bytes io;
  append(io, std::uint8_t{0});  // Its id
  append(io, std::uint8_t{0});
  append(io, kIoApic);
  append(io, std::uint32_t{0});  // First interrupt
  append_entry(table, 1, io);
  Bytes serial;  // ISA interrupt 4 is input 4: edges, active high.
  append(serial, std::uint8_t{0});
  append(serial, static_cast<std::uint8_t>(Serial16550::kInterrupt));
  append(serial, std::uint32_t{Serial16550::kInterrupt});
  append(serial, std::uint16_t{0});
  append_entry(table, 2, serial);
  Bytes nmi;  // Of all processors, at LINT1.
  append(nmi, std::uint8_t{0xff});
  append(nmi, std::uint16_t{0});
  append(nmi, std::uint8_t{1});
  append_entry(table, 4, nmi);
  return finish(std::move(table));
}

Bytes make_xsdt(std::span<const std::uint64_t> tables) {
  Bytes table = begin_table("XSDT", 1);
  for (const std::uint64_t address : tables) append(table, address);
  return finish(std::move(table));
}

Bytes make_rsdp(std::uint64_t xsdt) {
  constexpr std::size_t kFirstPart = 20;  // What the first checksum is of.
  Bytes root;
  append(root, std::string_view("RSD PTR "));
  append(root, std::uint8_t{0});
  append(root, kOem);
  append(root, std::uint8_t{2});
  append(root, std::uint32_t{0});  // No RSDT
  append(root, std::uint32_t{36});
  append(root, xsdt);
  append(root, std::uint32_t{0});  // Second checksum, three reserved.
  put(root, 8, checksum(std::span(root).first(kFirstPart)));
  put(root, 32, checksum(root));
  return root;
}

/// Puts tables one after the other and says where.
class Placer {
 public:
  explicit Placer(std::size_t first) : bytes_(first) {}
  std::uint64_t add(const Bytes& table) {
    bytes_.resize((bytes_.size() + kTableAlignment - 1) / kTableAlignment * kTableAlignment);
    const std::uint64_t address = kAcpiAddress.value + bytes_.size();
    bytes_.insert(bytes_.end(), table.begin(), table.end());
    return address;
  }
  [[nodiscard]] Bytes& bytes() { return bytes_; }

 private:
  Bytes bytes_;
};

}  // namespace

std::vector<std::byte> make_acpi_tables(const AcpiMachine& machine) {
  // An id of 255 is everybody's.
  MIGRATE_CHECK(machine.vcpus > 0 && machine.vcpus < 255);
  MIGRATE_CHECK(machine.virtio_devices <= kVirtioDevicesMax);
  Placer placer(make_rsdp(0).size());
  const std::uint64_t dsdt = placer.add(make_dsdt(machine));
  const std::uint64_t tables[] = {placer.add(make_fadt(dsdt)),
                                  placer.add(make_madt(machine.vcpus))};
  const Bytes root = make_rsdp(placer.add(make_xsdt(tables)));
  std::copy(root.begin(), root.end(), placer.bytes().begin());
  MIGRATE_CHECK(placer.bytes().size() <= kGenerationAddress.value - kAcpiAddress.value);
  return std::move(placer.bytes());
}

}  // namespace migrate::vmm
