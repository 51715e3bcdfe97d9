#include "host_checks.hpp"

#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>

#include "base/fd.hpp"
#include "base/huge_pages.hpp"
#include "migrate/options.hpp"
#include "migrate/tracker_choice.hpp"
#include "progress_line.hpp"
#include "report_json.hpp"
#include "runtime_dir.hpp"

namespace migrate::tool {
namespace {

struct Capability {
  const char* name;
  int number;
  bool needed;
  const char* use;
};

// Without the first three no guest of this command runs; the others make migrations faster or more
// exact where they are there.
constexpr std::array kCapabilities = {
    Capability{"kvm-user-memory", KVM_CAP_USER_MEMORY, true, "guest memory"},
    Capability{"kvm-immediate-exit", KVM_CAP_IMMEDIATE_EXIT, true, "pausing a guest"},
    Capability{"kvm-irqchip", KVM_CAP_IRQCHIP, true, "the guest's interrupt controllers"},
    Capability{"kvm-xsave2", KVM_CAP_XSAVE2, false, "processor state beyond 4 KiB"},
    Capability{"kvm-adjust-clock", KVM_CAP_ADJUST_CLOCK, false, "the guest's clock"},
    Capability{"kvm-tsc-control", KVM_CAP_TSC_CONTROL, false,
               "guests from hosts with another TSC frequency"},
};

std::string errno_text(int number) { return std::strerror(number); }

HostCheck check_kvm(const Fd& kvm, int open_errno) {
  HostCheck check{"kvm", CheckResult::kMissing, {}, {}};
  if (!kvm) {
    check.detail = "/dev/kvm: " + errno_text(open_errno);
    check.remedy = open_errno == ENOENT
                       ? "enable virtualization in the firmware and load kvm_intel or kvm_amd"
                       : "join the group kvm, or run as root";
    return check;
  }
  const int version = ioctl(kvm.get(), KVM_GET_API_VERSION, 0);
  check.detail = "/dev/kvm, API version " + std::to_string(version);
  if (version == KVM_API_VERSION) {
    check.result = CheckResult::kOk;
  } else {
    check.remedy = "a kernel with KVM API version " + std::to_string(KVM_API_VERSION);
  }
  return check;
}

HostCheck check_capability(const Fd& kvm, const Capability& capability) {
  const int value = ioctl(kvm.get(), KVM_CHECK_EXTENSION, capability.number);
  HostCheck check{capability.name, CheckResult::kOk, {}, {}};
  if (value > 0) {
    check.detail = std::string(capability.use) + " (" + std::to_string(value) + ")";
    return check;
  }
  check.result = capability.needed ? CheckResult::kMissing : CheckResult::kLimited;
  check.detail = std::string("not offered; for ") + capability.use;
  check.remedy =
      capability.needed ? "another kernel or another host" : "a newer kernel or hardware";
  return check;
}

/// How writes of guests can be tracked here, and which way is taken where nobody chooses.
void check_trackers(int kvm, std::vector<HostCheck>& checks) {
  const auto offers = probe_trackers(kvm);
  for (const TrackerOffer& offer : offers) {
    checks.push_back({"tracker-" + std::string(to_string(offer.kind)),
                      offer.available ? CheckResult::kOk : CheckResult::kLimited, offer.detail,
                      offer.available ? std::string() : offer.remedy});
  }
  const auto best = [&](GuestKind kind) {
    return std::string(to_string(best_tracker(kind, false, offers)));
  };
  checks.push_back({"tracker-auto",
                    CheckResult::kOk,
                    best(GuestKind::kVm) + " for virtual machines, " + best(GuestKind::kContainer) +
                        " for processes",
                    {}});
}

HostCheck check_memory() {
  struct sysinfo info {};
  sysinfo(&info);
  const auto unit = static_cast<double>(info.mem_unit);
  return {"memory",
          CheckResult::kOk,
          human_bytes(static_cast<double>(info.freeram + info.bufferram) * unit) + " free of " +
              human_bytes(static_cast<double>(info.totalram) * unit),
          {}};
}

/// For --huge-pages; guests run without them.
HostCheck check_huge_page_pool() {
  HostCheck check{"huge-pages", CheckResult::kLimited, {}, {}};
  const auto add = [&](std::uint64_t page_bytes) {
    const auto pool = read_huge_page_pool(page_bytes);
    if (!pool) return;
    if (pool->unclaimed() > 0) check.result = CheckResult::kOk;
    if (!check.detail.empty()) check.detail += ", ";
    check.detail += format_size(page_bytes) + ": " + std::to_string(pool->unclaimed()) +
                    " free of " + std::to_string(pool->total);
  };
  add(kHugePage2MiB);
  add(kHugePage1GiB);
  if (check.detail.empty()) check.detail = "none in this kernel";
  if (check.result != CheckResult::kOk) {
    check.remedy = "for --huge-pages only: echo N > " + huge_page_setting(kHugePage2MiB);
  }
  return check;
}

HostCheck check_runtime_dir() {
  HostCheck check{"runtime-dir", CheckResult::kMissing, {}, {}};
  const auto folder = RuntimeDir::open();
  if (!folder) {
    check.detail = folder.error().message;
    check.remedy = folder.error().remedy;
    return check;
  }
  check.detail = folder->path().string();
  struct statfs file_system {};
  const bool on_tmpfs = statfs(folder->path().c_str(), &file_system) == 0 &&
                        (file_system.f_type == TMPFS_MAGIC || file_system.f_type == RAMFS_MAGIC);
  check.result = on_tmpfs ? CheckResult::kOk : CheckResult::kLimited;
  if (!on_tmpfs) {
    check.detail += " (not on a tmpfs)";
    check.remedy =
        "keep it on a tmpfs such as /run: a disk flush may fall into the downtime, and "
        "the journal should not outlive a reboot";
  }
  return check;
}

/// Whether a program is on the PATH.
bool has_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/sbin:/usr/bin:/sbin:/bin";
  while (!rest.empty()) {
    const auto colon = rest.find(':');
    const std::string candidate = std::string(rest.substr(0, colon)) + "/" + name;
    if (access(candidate.c_str(), X_OK) == 0) return true;
    if (colon == std::string_view::npos) break;
    rest.remove_prefix(colon + 1);
  }
  return false;
}

HostCheck check_namespaces() {
  HostCheck check{"network-namespaces", CheckResult::kOk, "ip and tc, as root", {}};
  if (has_program("ip") && has_program("tc") && geteuid() == 0) return check;
  check.result = CheckResult::kLimited;
  check.detail = "for the demo only: needs ip and tc (iproute2), and root";
  check.remedy = "install iproute2 and run the demo as root";
  return check;
}

}  // namespace

std::vector<HostCheck> check_host() {
  const HostFacts facts = host_facts();
  std::vector<HostCheck> checks;
  checks.push_back({"kernel", CheckResult::kOk, facts.kernel, {}});
  checks.push_back(
      {"cpu",
       CheckResult::kOk,
       facts.cpu + ", " + std::to_string(std::thread::hardware_concurrency()) + " cores",
       {}});
  checks.push_back(check_memory());
  checks.push_back(check_huge_page_pool());
  const Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  checks.push_back(check_kvm(kvm, errno));
  if (kvm) {
    for (const Capability& capability : kCapabilities) {
      checks.push_back(check_capability(kvm, capability));
    }
  }
  check_trackers(kvm.get(), checks);
  checks.push_back(check_runtime_dir());
  checks.push_back(check_namespaces());
  return checks;
}

}  // namespace migrate::tool
