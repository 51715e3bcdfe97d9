#include "session/host_identity.hpp"

#include <sys/random.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

namespace migrate::session {
namespace {

int hex_value(int digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

}  // namespace

BootId this_boot() {
  BootId boot{};
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      std::fopen("/proc/sys/kernel/random/boot_id", "re"),
      [](std::FILE* f) { return f == nullptr ? 0 : std::fclose(f); });
  if (file == nullptr) return boot;
  std::size_t nibble = 0;
  for (int c = std::fgetc(file.get()); c != EOF && nibble < 2 * boot.bytes.size();
       c = std::fgetc(file.get())) {
    const int value = hex_value(c);
    if (value < 0) continue;
    boot.bytes[nibble / 2] |= static_cast<std::byte>(nibble % 2 == 0 ? value << 4 : value);
    ++nibble;
  }
  return boot;
}

std::string host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0) return "unknown";
  return name;
}

std::string kernel_name() {
  utsname name{};
  if (uname(&name) != 0) return "unknown";
  return std::string(name.release) + " " + name.machine;
}

void fill_random(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = getrandom(bytes.data(), bytes.size(), 0);
    MIGRATE_CHECK(got > 0);
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
}

}  // namespace migrate::session
