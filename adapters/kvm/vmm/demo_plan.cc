#include "adapters/kvm/vmm/demo_plan.hpp"

#include <algorithm>

#include "adapters/kvm/vmm/demo_guest/card_memory.hpp"
#include "adapters/kvm/vmm/demo_guest/fill.hpp"
#include "migrate/options.hpp"

namespace migrate::vmm {
namespace {

using demo::ControlBlock;
using demo::VcpuPlan;

Error refused(std::string message, std::string remedy) {
  return make_error(ErrorCode::kInvalidArgument, std::move(message)).advise(std::move(remedy));
}

/// Each responder drives a card of its own: the first one the first.
Status check_cards(const VmmConfig& config) {
  const auto responders = static_cast<std::size_t>(
      std::count_if(config.workload.vcpus.begin(), config.workload.vcpus.end(),
                    [](const VcpuWork& work) { return work.kind == WorkKind::kResponder; }));
  if (responders > config.nets.size()) {
    return refused(std::to_string(responders) + " of its vCPUs are responders, and the guest has " +
                       std::to_string(config.nets.size()) + " network cards",
                   "give --net tap=IF,ip=A for each of them");
  }
  if (responders < config.nets.size()) {
    return refused("the guest has " + std::to_string(config.nets.size()) + " network cards, and " +
                       std::to_string(responders) + " of its vCPUs are responders",
                   "leave out --net, or give --guest responder for each of them, joined with +");
  }
  if (config.nets.size() > demo::kCardsMax) {
    return refused(
        "a demo guest cannot have " + std::to_string(config.nets.size()) + " network cards",
        "give at most " + std::to_string(demo::kCardsMax));
  }
  for (std::size_t i = 0; i < config.nets.size(); ++i) {
    const std::size_t addresses = config.nets[i].addresses.size();
    if (addresses > 0 && addresses <= demo::kCardAddressesMax) continue;
    return refused(
        "network card " + std::to_string(i + 1) + " of the guest has " + std::to_string(addresses) +
            " addresses to answer to",
        "give it 1 to " + std::to_string(demo::kCardAddressesMax) + ": --net tap=IF,ip=192.0.2.7");
  }
  return {};
}

Status check_shape(const VmmConfig& config) {
  if (config.memory_bytes < kMemoryMin || config.memory_bytes > kMemoryMax ||
      config.memory_bytes % kMemoryStep != 0) {
    return refused("a demo guest cannot have " + format_size(config.memory_bytes) + " of memory",
                   "give a multiple of " + format_size(kMemoryStep) + " from " +
                       format_size(kMemoryMin) + " to " + format_size(kMemoryMax));
  }
  if (config.vcpus == 0 || config.vcpus > kVcpusMax) {
    return refused("a demo guest cannot have " + std::to_string(config.vcpus) + " vCPUs",
                   "give 1 to " + std::to_string(kVcpusMax));
  }
  if (config.workload.vcpus.size() > config.vcpus) {
    return refused(std::to_string(config.workload.vcpus.size()) + " workloads for " +
                       std::to_string(config.vcpus) + " vCPUs",
                   "give at most one a vCPU, or more vCPUs");
  }
  return check_cards(config);
}

/// `net` is complete, or its address is not yet wanted.
demo::CardPlan plan_card(const NetConfig& net, std::uint32_t vcpu) {
  demo::CardPlan card;
  card.present = 1;
  card.vcpu = vcpu;
  if (net.mac) std::copy(net.mac->bytes.begin(), net.mac->bytes.end(), card.mac);
  for (std::size_t i = 0; i < net.addresses.size(); ++i) {
    const IpAddress& address = net.addresses[i];
    card.addresses[i].version = static_cast<std::uint8_t>(address.family);
    std::copy(address.bytes.begin(), address.bytes.end(), card.addresses[i].bytes);
  }
  return card;
}

std::uint64_t set_bytes(const VcpuWork& work, std::uint64_t memory_bytes) {
  if (work.set_bytes != 0) return work.set_bytes;
  // Memory is at least 8 MiB in steps of 2: an eighth is whole pages.
  return std::min(kDefaultSetBytes, memory_bytes / 8);
}

/// Lays out tables, then sets, then shares, each after the other.
class Planner {
 public:
  Planner(const VmmConfig& config, std::uint32_t tsc_khz) : config_(config) {
    block_.vcpus = config.vcpus;
    block_.tsc_khz = tsc_khz;
    block_.seed = config.workload.seed;
    block_.fill = config.workload.fill;
    block_.pages = config.memory_bytes / kPageSize;
  }

  Result<ControlBlock> plan() {
    take_work();
    place_tables();
    next_page_ = block_.data_first;
    MIGRATE_TRY(place_sets(WorkKind::kWriter));
    block_.writers_end = next_page_;
    MIGRATE_TRY(place_sets(WorkKind::kReader));
    share_out();
    return block_;
  }

 private:
  void take_work() {
    for (std::size_t i = 0; i < config_.workload.vcpus.size(); ++i) {
      const VcpuWork& work = config_.workload.vcpus[i];
      VcpuPlan& plan = block_.plans[i];
      plan.kind = work.kind;
      plan.pattern = work.pattern;
      plan.rate_bytes_per_s = work.rate_bytes_per_s;
      if (work.kind == WorkKind::kWriter || work.kind == WorkKind::kReader) {
        plan.set_pages = set_bytes(work, config_.memory_bytes) / kPageSize;
      }
    }
  }

  /// First, so that they lie in low memory however large the rest is.
  std::uint64_t place_cards(std::uint64_t address) {
    std::size_t number = 0;
    for (std::uint32_t vcpu = 0; vcpu < config_.vcpus; ++vcpu) {
      if (block_.plans[vcpu].kind != WorkKind::kResponder) continue;
      block_.cards[number] = plan_card(config_.nets[number], vcpu);
      block_.cards[number].registers = demo::kCardRegisters + number * demo::kCardRegisterBytes;
      block_.cards[number].memory = address;
      address += sizeof(demo::CardMemory);
      ++number;
    }
    return address;
  }

  void place_tables() {
    std::uint64_t address = place_cards(demo::kTables);
    if (block_.fill == Fill::kFile) {
      block_.file_hashes = address;
      address += block_.pages * sizeof(demo::PageHash);
    }
    for (VcpuPlan& plan : block_.plans) {
      // Each on pages of its own: a writer dirties its own table only. A set larger than memory is
      // refused when sets are placed, and must not overflow here.
      if (plan.kind != WorkKind::kWriter) continue;
      address = (address + kPageSize - 1) / kPageSize * kPageSize;
      plan.generations = address;
      address += std::min(plan.set_pages, block_.pages) * sizeof(std::uint32_t);
    }
    block_.data_first = (address + kPageSize - 1) / kPageSize;
  }

  Status place_sets(WorkKind kind) {
    for (VcpuPlan& plan : block_.plans) {
      if (plan.kind != kind) continue;
      const std::uint64_t left = block_.pages - std::min(next_page_, block_.pages);
      if (plan.set_pages > left) {
        return refused(
            "a set of " + format_size(plan.set_pages * kPageSize) +
                " does not fit into the guest's memory: " + format_size(left * kPageSize) + " of " +
                format_size(config_.memory_bytes) + " are left for it",
            "give smaller sets, or more memory");
      }
      plan.set_first = next_page_;
      next_page_ += plan.set_pages;
    }
    return {};
  }

  /// The pages no one writes are checked by all vCPUs together. A verifier checks everything, and
  /// leaves nothing out because others look there too.
  void share_out() {
    const std::uint64_t first = block_.writers_end;
    const std::uint64_t pages = block_.pages - first;
    for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
      VcpuPlan& plan = block_.plans[i];
      if (plan.kind == WorkKind::kVerifier) {
        plan.share_first = block_.data_first;
        plan.share_pages = block_.pages - block_.data_first;
        continue;
      }
      plan.share_first = first + pages * i / config_.vcpus;
      plan.share_pages = first + pages * (i + 1) / config_.vcpus - plan.share_first;
    }
  }

  const VmmConfig& config_;
  ControlBlock block_;
  std::uint64_t next_page_ = 0;
};

}  // namespace

Result<demo::ControlBlock> plan_demo_guest(const VmmConfig& config, std::uint32_t tsc_khz) {
  MIGRATE_TRY(check_shape(config));
  return Planner(config, tsc_khz).plan();
}

}  // namespace migrate::vmm
