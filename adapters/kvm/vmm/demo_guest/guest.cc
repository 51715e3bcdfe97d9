// The demo guest: one loop a kind of work. Each round moves the clock on, works, and checks a slice
// of memory; what is left of its time it waits in the VMM.
//
// Runs at CPL 3 on bare (virtual) metal, without interrupts, exceptions or a runtime: a fault ends
// the guest, which the VMM reports with its registers.
#include "adapters/kvm/vmm/demo_guest/check.hpp"
#include "adapters/kvm/vmm/demo_guest/pace.hpp"
#include "adapters/kvm/vmm/demo_guest/responder.hpp"

namespace migrate::vmm::demo {
namespace {

// Pages checked each round by a vCPU that has no time to spare.
constexpr std::uint64_t kBusySlicePages = 4;
// Spare time spent on checking before a wait of at least 1 ms: one twentieth.
constexpr std::uint64_t kSpareSliceUs = 50;
// An idle vCPU wakes a hundred times a second and checks for one hundredth of its time: about
// 20 MB/s and 1 % of a core.
constexpr std::uint32_t kIdleWaitUs = 10'000;
constexpr std::uint64_t kIdleSliceUs = 100;
// About 50 us of increments.
constexpr std::uint64_t kCounterRound = 1u << 14;

void print(const char* text) {
  for (; *text != '\0'; ++text) port_out_byte(kPortMessage, static_cast<std::uint8_t>(*text));
}

void print_number(std::uint64_t value) {
  char digits[21];
  char* at = digits + sizeof digits - 1;
  *at = '\0';
  do {
    *--at = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  print(at);
}

/// Uniform numbers, one stream a vCPU.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(mix(seed)) {}
  std::uint64_t next() { return mix(state_ += kGolden); }
  /// In [0, bound): the high half of the product, without a division.
  std::uint64_t below(std::uint64_t bound) {
    std::uint64_t high = 0;
    std::uint64_t low = next();
    asm("mulq %2" : "+a"(low), "=d"(high) : "r"(bound) : "cc");
    return high;
  }

 private:
  std::uint64_t state_;
};

/// Which page of its set a writer takes next, from 0.
class Choice {
 public:
  Choice(const VcpuPlan& plan, std::uint64_t seed)
      : pattern_(plan.pattern), pages_(plan.set_pages), random_(seed) {
    while (pages_ >> octaves_ != 0) ++octaves_;
  }

  std::uint64_t next() {
    switch (pattern_) {
      case Pattern::kSweep:
        return swept_++ % pages_;
      case Pattern::kZipf:
        return scatter(zipf_rank());
      case Pattern::kUniform:
      case Pattern::kBurst:
        break;
    }
    return random_.below(pages_);
  }

 private:
  /// Each octave of ranks equally likely: the likelihood of rank r falls as 1/r, in steps.
  std::uint64_t zipf_rank() {
    for (;;) {
      const std::uint64_t first = std::uint64_t{1} << random_.below(octaves_);
      const std::uint64_t rank = first + random_.below(first) - 1;
      if (rank < pages_) return rank;
    }
  }
  /// Hot pages lie apart: a prime above any set's size permutes the ranks.
  [[nodiscard]] std::uint64_t scatter(std::uint64_t rank) const {
    return rank * 2'654'435'761u % pages_;
  }

  const Pattern pattern_;
  const std::uint64_t pages_;
  Random random_;
  std::uint64_t octaves_ = 0;
  std::uint64_t swept_ = 0;
};

/// Rewrites a page of the set, having checked that it is as it was left.
void write_page(VcpuState& vcpu, std::uint64_t place) {
  const std::uint64_t page = vcpu.plan.set_first + place;
  volatile std::uint32_t& generation = generations(vcpu.plan)[place];
  check_stamp(vcpu, page, generation);
  // 0 means never written, so a generation that wraps goes on at 1.
  const std::uint32_t next = generation == 0xffff'ffffu ? 1 : generation + 1;
  write_stamp(page_words(page), make_stamp(control().seed, page, next));
  generation = next;
  vcpu.counters.pages_written = vcpu.counters.pages_written + 1;
}

/// A loop of paced work: `work(n)` does n pages.
template <typename Work>
[[noreturn]] void run_paced(VcpuState& vcpu, Walk& walk, Work work) {
  Pace pace(vcpu.plan);
  const bool unbound = vcpu.plan.rate_bytes_per_s == 0;
  for (;;) {
    const std::uint64_t pages = pace.due(vcpu, vcpu.tick());
    for (std::uint64_t i = 0; i < pages; ++i) work();
    vcpu.counters.work = vcpu.counters.work + pages;
    if (unbound && pages != 0) {
      walk.check(kBusySlicePages);
      continue;
    }
    walk.check_for(VcpuState::ticks(kSpareSliceUs));
    port_out(kPortWait, pace.wait_us());
  }
}

[[noreturn]] void run_writer(VcpuState& vcpu, std::uint64_t id) {
  Walk walk(vcpu);
  Choice choice(vcpu.plan, control().seed + id);
  run_paced(vcpu, walk, [&] { write_page(vcpu, choice.next()); });
}

[[noreturn]] void run_reader(VcpuState& vcpu) {
  Walk walk(vcpu);
  std::uint64_t place = 0;
  run_paced(vcpu, walk, [&] {
    check_page(vcpu, vcpu.plan.set_first + place);
    if (++place == vcpu.plan.set_pages) place = 0;
  });
}

/// Its share is all data pages.
[[noreturn]] void run_verifier(VcpuState& vcpu) {
  Walk walk(vcpu);
  run_paced(vcpu, walk, [&] { walk.check(1); });
}

[[noreturn]] void run_counter(VcpuState& vcpu) {
  Walk walk(vcpu);
  for (;;) {
    vcpu.tick();
    for (std::uint64_t i = 0; i < kCounterRound; ++i) vcpu.counters.work = vcpu.counters.work + 1;
    walk.check(kBusySlicePages);
  }
}

[[noreturn]] void run_idle(VcpuState& vcpu) {
  Walk walk(vcpu);
  for (;;) {
    vcpu.tick();
    walk.check_for(VcpuState::ticks(kIdleSliceUs));
    vcpu.counters.work = vcpu.counters.work + 1;
    port_out(kPortWait, kIdleWaitUs);
  }
}

void greet() {
  print("demo guest: ");
  print_number(control().vcpus);
  print(" vCPUs, ");
  print_number(control().pages * kPage >> 20);
  print(" MiB\n");
}

}  // namespace

/// Where each vCPU begins, on its own stack, with its number in the first argument's register.
extern "C" [[noreturn, gnu::section(".text.entry")]] void demo_guest_entry(std::uint64_t id) {
  if (id == 0) greet();
  VcpuState vcpu(id);
  switch (vcpu.plan.kind) {
    case WorkKind::kCounter:
      run_counter(vcpu);
    case WorkKind::kWriter:
      run_writer(vcpu, id);
    case WorkKind::kReader:
      run_reader(vcpu);
    case WorkKind::kVerifier:
      run_verifier(vcpu);
    case WorkKind::kResponder:
      run_responder(vcpu, id);
    case WorkKind::kIdle:
      break;
  }
  run_idle(vcpu);
}

// Compilers may call these for loops and copies, freestanding or not.
extern "C" void* memset(void* to, int value, std::size_t count) {
  void* at = to;
  asm volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(value) : "memory");
  return to;
}
extern "C" void* memcpy(void* to, const void* from, std::size_t count) {
  void* at = to;
  asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(count) : : "memory");
  return to;
}

}  // namespace migrate::vmm::demo
