#include "tests/dirtylog/held_file.hpp"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

namespace migrate::testing {
namespace {

constexpr std::uint64_t kFileNode = 2;
constexpr std::size_t kPage = 4096;
constexpr auto kPatience = std::chrono::seconds(30);

fuse_attr attributes_of(std::uint64_t node) {
  fuse_attr attributes{};
  attributes.ino = node;
  attributes.size = 1 << 20;
  attributes.mode = node == kFileNode ? S_IFREG | 0644 : S_IFDIR | 0755;
  attributes.nlink = 1;
  return attributes;
}

}  // namespace

HeldFile::HeldFile() : device_(::open("/dev/fuse", O_RDWR | O_CLOEXEC)) {
  if (!device_) {
    why_not_ = std::string("/dev/fuse does not open: ") + std::strerror(errno);
    return;
  }
  const Fd context(::fsopen("fuse", FSOPEN_CLOEXEC));
  const std::string device = std::to_string(device_.get());
  const auto set = [&](const char* key, const char* value) {
    return ::fsconfig(context.get(), FSCONFIG_SET_STRING, key, value, 0) == 0;
  };
  const bool made = context && set("fd", device.c_str()) && set("rootmode", "40000") &&
                    set("user_id", "0") && set("group_id", "0") &&
                    ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0;
  if (made) mount_ = Fd(::fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
  if (!mount_) {
    why_not_ = std::string("no FUSE file system can be made: ") + std::strerror(errno);
    return;
  }
  server_ = std::thread([this] { serve(); });
  file_ = Fd(::openat(mount_.get(), "file", O_RDONLY | O_DIRECT | O_CLOEXEC));
  if (!file_) why_not_ = std::string("the FUSE file does not open: ") + std::strerror(errno);
}

HeldFile::~HeldFile() {
  file_.reset();
  mount_.reset();  // The last reference: the device says so to the server, which ends.
  if (server_.joinable()) server_.join();
}

bool HeldFile::wait_for_read() {
  return pinned_.get_future().wait_for(kPatience) == std::future_status::ready;
}

void HeldFile::answer() { answered_.set_value(); }

void HeldFile::reply(std::uint64_t unique, int error, const void* body, std::size_t bytes) {
  fuse_out_header header{};
  header.len = static_cast<std::uint32_t>(sizeof(header) + bytes);
  header.error = -error;
  header.unique = unique;
  const std::array<iovec, 2> parts{iovec{&header, sizeof(header)},
                                   iovec{const_cast<void*>(body), bytes}};
  (void)!::writev(device_.get(), parts.data(), bytes == 0 ? 1 : 2);
}

void HeldFile::serve() {
  std::vector<std::byte> request(FUSE_MIN_READ_BUFFER + (1 << 20));
  while (true) {
    const ssize_t got = ::read(device_.get(), request.data(), request.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < static_cast<ssize_t>(sizeof(fuse_in_header))) return;
    fuse_in_header in;
    std::memcpy(&in, request.data(), sizeof(in));
    switch (in.opcode) {
      case FUSE_INIT: {
        fuse_init_out out{};
        out.major = FUSE_KERNEL_VERSION;
        out.minor = FUSE_KERNEL_MINOR_VERSION;
        out.max_write = 1 << 17;
        reply(in.unique, 0, &out, sizeof(out));
        break;
      }
      case FUSE_LOOKUP: {
        fuse_entry_out out{};
        out.nodeid = kFileNode;
        out.attr = attributes_of(kFileNode);
        reply(in.unique, 0, &out, sizeof(out));
        break;
      }
      case FUSE_GETATTR: {
        fuse_attr_out out{};
        out.attr = attributes_of(in.nodeid);
        reply(in.unique, 0, &out, sizeof(out));
        break;
      }
      case FUSE_OPEN: {
        fuse_open_out out{};
        out.open_flags = FOPEN_DIRECT_IO;
        reply(in.unique, 0, &out, sizeof(out));
        break;
      }
      case FUSE_READ: {
        pinned_.set_value();
        answered_.get_future().wait_for(kPatience);
        const std::vector<std::byte> content(kPage, kFill);
        reply(in.unique, 0, content.data(), content.size());
        break;
      }
      case FUSE_FLUSH:
      case FUSE_RELEASE:
        reply(in.unique, 0, nullptr, 0);
        break;
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
      case FUSE_INTERRUPT:
        break;
      default:
        reply(in.unique, ENOSYS, nullptr, 0);
    }
  }
}

}  // namespace migrate::testing
