// How much longer than --downtime-hard a guest stands whose target hangs: a real guest, whose
// target hangs in one part of the switchover after another, and then takes it.
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "bench/loopback_migration.hpp"
#include "bench/measuring.hpp"
#include "migrate/options.hpp"

namespace migrate::bench {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr const char* kUsage =
    "usage: hard_limit [--limit TIME] [--attempts N] [--memory SIZE]\n"
    "  --limit     of the downtime [20ms]\n"
    "  --attempts  that are given up, for each place where the target hangs [50]\n"
    "  --memory    of the guest [256M]\n";

// With pauses of 0 and 100 ms between them; more in one migration would be waiting.
constexpr int kAttemptsAMigration = 2;
// How long a target hangs beyond the limit.
constexpr milliseconds kHangs{30};

enum class Place { kLoad, kLoaded };

/// Hangs in the first attempts.
class HangingTarget final : public TargetGuest {
 public:
  HangingTarget(std::unique_ptr<TargetGuest> guest, Place place, microseconds hangs)
      : guest_(std::move(guest)), place_(place), hangs_(hangs) {}

  Status prepare(const GuestDescription& description) override {
    return guest_->prepare(description);
  }
  PageSink& pages() override { return guest_->pages(); }
  Status load_state(StateReader& reader) override {
    const bool hang = loads_++ < kAttemptsAMigration;
    if (hang && place_ == Place::kLoad) std::this_thread::sleep_for(hangs_);
    Status loaded = guest_->load_state(reader);
    if (hang && place_ == Place::kLoaded) std::this_thread::sleep_for(hangs_);
    return loaded;
  }
  Result<std::chrono::nanoseconds> rehearse_load() override { return guest_->rehearse_load(); }
  Status acquire() override { return guest_->acquire(); }
  Status yield() override { return guest_->yield(); }
  Status start(RunState state) override { return guest_->start(state); }
  void discard() override { guest_->discard(); }
  std::vector<FaultSource> fault_sources() override { return guest_->fault_sources(); }
  std::vector<int> vcpu_threads() override { return guest_->vcpu_threads(); }
  PacketSink* packet_sink() override { return guest_->packet_sink(); }

 private:
  const std::unique_ptr<TargetGuest> guest_;
  const Place place_;
  const microseconds hangs_;
  int loads_ = 0;
};

struct Settings {
  LoopbackSetup setup;
  microseconds limit{20'000};
  unsigned attempts = 50;
};

void measure(const Settings& settings, Place place, const char* name) {
  Samples over, cost;
  double most = 0;
  unsigned natural = 0;
  LoopbackSetup setup = settings.setup;
  setup.options.downtime_hard = settings.limit;
  setup.options.max_attempts = 100;
  setup.wrap_target = [&](std::unique_ptr<TargetGuest> guest) -> std::unique_ptr<TargetGuest> {
    return std::make_unique<HangingTarget>(std::move(guest), place, settings.limit + kHangs);
  };
  const double limit_ms = std::chrono::duration<double, std::milli>(settings.limit).count();
  while (over.count() < settings.attempts) {
    const LoopbackRun run = migrate_over_loopback(setup);
    for (const FailedAttempt& attempt : run.source.failed_attempts) {
      over.add(attempt.stood_ms - limit_ms);
      most = std::max(most, attempt.stood_ms - limit_ms);
      cost.add(attempt.cost_ms);
    }
    if (run.source.failed_attempts.size() > kAttemptsAMigration) ++natural;
  }
  std::printf("%-22s %5zu %9.3f %9.3f %9.3f %9.1f %8u\n", name, over.count(), over.median(),
              over.percentile(99), most, cost.median(), natural);
}

Settings read_settings(int argc, char** argv) {
  Settings settings;
  settings.setup.memory_bytes = 256 << 20;
  settings.setup.guest = "writer:rate=50M,set=16M+verifier:rate=50M";
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--limit") {
      settings.limit = must(parse_duration(value));
    } else if (name == "--attempts") {
      settings.attempts = static_cast<unsigned>(must(parse_size(value)));
    } else if (name == "--memory") {
      settings.setup.memory_bytes = must(parse_size(value));
    } else {
      std::fputs(kUsage, stderr);
      std::exit(2);
    }
  }
  return settings;
}

}  // namespace
}  // namespace migrate::bench

int main(int argc, char** argv) {
  using namespace migrate::bench;
  const Settings settings = read_settings(argc, argv);
  std::printf("limit %s: how long the guest stood beyond it, ms\n",
              migrate::format_duration(settings.limit).c_str());
  std::printf("%-22s %5s %9s %9s %9s %9s %8s\n", "the target hangs", "tries", "median", "p99",
              "most", "cost", "unasked");
  measure(settings, Place::kLoad, "before loading");
  measure(settings, Place::kLoaded, "after loading");
  return 0;
}
