#include "adapters/kvm/vmm/linux/load_linux.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "adapters/kvm/vmm/devices/guest_ram.hpp"
#include "adapters/kvm/vmm/linux/boot_cpu.hpp"
#include "adapters/kvm/vmm/linux/boot_params.hpp"
#include "adapters/kvm/vmm/linux/bzimage.hpp"
#include "adapters/kvm/vmm/linux/memory_map.hpp"
#include "base/fd.hpp"

namespace migrate::vmm {
namespace {

/// A file to be read at places of it.
class BootFile {
 public:
  static Result<BootFile> open(const std::string& what, const std::string& path) {
    Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat file {};
    if (!fd || ::fstat(fd.get(), &file) != 0) {
      const int error = errno;
      const auto code = error == ENOENT   ? ErrorCode::kNotFound
                        : error == EACCES ? ErrorCode::kPermission
                                          : ErrorCode::kIo;
      return make_errno_error(code, error, "cannot open the " + what + " " + path)
          .advise("check the path and its permissions");
    }
    if (!S_ISREG(file.st_mode)) {
      return make_error(ErrorCode::kInvalidArgument, "the " + what + " " + path + " is no file");
    }
    return BootFile(std::move(fd), what + " " + path, static_cast<std::uint64_t>(file.st_size));
  }

  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  Status read(std::uint64_t offset, std::span<std::byte> into) const {
    while (!into.empty()) {
      const ssize_t done = ::pread(fd_.get(), into.data(), into.size(), static_cast<off_t>(offset));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) {
        return make_errno_error(ErrorCode::kIo, done < 0 ? errno : 0,
                                "cannot read the " + name_ + (done == 0 ? ": it ends early" : ""));
      }
      offset += static_cast<std::uint64_t>(done);
      into = into.subspan(static_cast<std::size_t>(done));
    }
    return {};
  }

 private:
  BootFile(Fd fd, std::string name, std::uint64_t bytes)
      : fd_(std::move(fd)), name_(std::move(name)), bytes_(bytes) {}
  Fd fd_;
  std::string name_;
  std::uint64_t bytes_;
};

Result<BzImage> parse(const BootFile& kernel) {
  std::vector<std::byte> head(std::min<std::uint64_t>(kernel.bytes(), kBzImageHeadBytes));
  MIGRATE_TRY(kernel.read(0, head));
  return parse_bzimage(head, kernel.bytes());
}

Status read_into(const GuestRam& ram, const BootFile& file, std::uint64_t offset, GuestAddr address,
                 std::uint64_t bytes) {
  const auto memory = ram.span(address, bytes, true);
  MIGRATE_CHECK(memory.has_value());  // plan_linux() has seen to it.
  Status read = file.read(offset, *memory);
  ram.written(address, bytes);
  return read;
}

void put(const GuestRam& ram, GuestAddr address, std::span<const std::byte> bytes) {
  MIGRATE_CHECK(ram.write(address, bytes));
}

Status check_command_line(const BzImage& image, const std::string& line) {
  const std::uint64_t max = std::min(image.command_line_max, kCommandLineRoom - 1);
  if (line.size() > max) {
    return make_error(ErrorCode::kInvalidArgument,
                      "the command line has " + std::to_string(line.size()) +
                          " characters, and this kernel takes " + std::to_string(max))
        .advise("give a shorter one (--append)");
  }
  if (line.find('\0') != std::string::npos) {
    return make_error(ErrorCode::kInvalidArgument, "the command line has a zero in it");
  }
  return {};
}

}  // namespace

Result<std::uint64_t> load_linux(std::span<const KvmMemorySlot> slots, const LinuxFiles& files,
                                 const AcpiMachine& machine,
                                 std::shared_ptr<SoftwareBitmap> writes) {
  const GuestRam ram(slots, std::move(writes));
  MIGRATE_ASSIGN(const BootFile kernel, BootFile::open("kernel", files.kernel));
  MIGRATE_ASSIGN(const BzImage image, parse(kernel));
  MIGRATE_TRY(check_command_line(image, files.command_line));
  std::optional<BootFile> initrd;
  if (!files.initrd.empty()) {
    MIGRATE_ASSIGN(initrd, BootFile::open("initrd", files.initrd));
  }
  MIGRATE_ASSIGN(const LinuxPlan plan, plan_linux(image, initrd ? initrd->bytes() : 0, slots));
  MIGRATE_TRY(read_into(ram, kernel, image.payload_offset, GuestAddr{plan.kernel_address},
                        image.payload_bytes));
  if (plan.initrd_bytes > 0) {
    MIGRATE_TRY(read_into(ram, *initrd, 0, GuestAddr{plan.initrd_address}, plan.initrd_bytes));
  }
  // The memory is zero, so the line ends.
  put(ram, kCommandLineAddress, std::as_bytes(std::span(files.command_line)));
  put(ram, kBootParamsAddress, make_boot_params(image, plan, e820_map(slots), kAcpiAddress));
  put(ram, kAcpiAddress, make_acpi_tables(machine));
  put(ram, kResetVector, reset_vector_code());
  put(ram, kPageTablesAddress, boot_page_tables());
  put(ram, kGdtAddress, boot_gdt());
  return plan.kernel_address;
}

}  // namespace migrate::vmm
