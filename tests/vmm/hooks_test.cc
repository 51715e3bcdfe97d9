// A guest goes from one Vmm to another through the public adapter, without the engine between.
#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

#include "adapters/kvm/vmm/migration_hooks.hpp"
#include "tests/vmm/section_tape.hpp"
#include "tests/vmm/vmm_fixture.hpp"

namespace migrate::vmm {
namespace {

using ::testing::HasSubstr;

void copy_memory(const Vmm& from, const Vmm& to) {
  const auto& sources = from.kvm_vm().slots;
  const auto& targets = to.kvm_vm().slots;
  ASSERT_EQ(sources.size(), targets.size());
  for (std::size_t i = 0; i < sources.size(); ++i) {
    ASSERT_EQ(sources[i].bytes, targets[i].bytes);
    std::memcpy(targets[i].host, sources[i].host, sources[i].bytes);
  }
}

class Hooks : public VmmTest {
 protected:
  /// Moves the guest of `from`: paused at the source, not started at the target.
  static void move(const std::shared_ptr<Vmm>& from, VmmTargetHooks& to_hooks,
                   std::unique_ptr<TargetGuest>& target) {
    VmmSourceHooks from_hooks(from);
    auto source = make_kvm_source(from->kvm_vm(), from_hooks);
    ASSERT_TRUE(source) << source.error().to_text();
    const auto description = (*source)->describe();
    ASSERT_TRUE(description) << description.error().to_text();
    target = make_kvm_target(from->kvm_vm().kvm_fd, to_hooks);
    const auto prepared = target->prepare(*description);
    ASSERT_TRUE(prepared) << prepared.error().to_text();

    ASSERT_TRUE((*source)->pause());
    Sections state;
    Recorder recorder(state);
    const auto saved = (*source)->save_state(recorder);
    ASSERT_TRUE(saved) << saved.error().to_text();
    copy_memory(*from, *to_hooks.vmm());
    Player player(state);
    const auto loaded = target->load_state(player);
    ASSERT_TRUE(loaded) << loaded.error().to_text();
    ASSERT_TRUE((*source)->release());
  }
};

TEST_F(Hooks, AMovedGuestGoesOnWhereItWas) {
  const std::string_view workloads[] = {
      "writer:rate=20M,set=1M", "writer:rate=20M,set=1M,pattern=zipf+idle",
      "writer:rate=20M,set=1M+counter+reader:rate=20M+verifier:rate=20M"};
  for (const std::uint32_t vcpus : {1u, 2u, 4u}) {
    const std::shared_ptr<Vmm> from = make(workloads[vcpus / 2], 16 << 20, vcpus);
    resume(*from);
    wait_for(*from, [](const GuestStats& now) { return now.pages_written > 300; });
    VmmTargetHooks hooks;
    std::unique_ptr<TargetGuest> target;
    ASSERT_NO_FATAL_FAILURE(move(from, hooks, target));
    EXPECT_EQ(from->state(), VmmState::kLeft);
    const auto to = hooks.vmm();
    const GuestStats left = stats_of(*from);
    const GuestStats arrived = stats_of(*to);
    EXPECT_EQ(arrived.pages_written, left.pages_written);
    EXPECT_EQ(arrived.uptime_ms, left.uptime_ms);
    for (std::size_t i = 0; i < left.vcpus.size(); ++i) {
      EXPECT_EQ(arrived.vcpus[i].work, left.vcpus[i].work);
      // Its CPU time goes on; a thread that parks still uses a little after it was saved.
      EXPECT_GE(arrived.vcpus[i].cpu_ms, left.vcpus[i].cpu_ms - 1);
    }
    EXPECT_EQ(to->console(), from->console());
    EXPECT_EQ(to->config().workload, from->config().workload);

    ASSERT_TRUE(target->start(RunState::kRunning));
    const GuestStats later = wait_for(*to, [&](const GuestStats& now) {
      return now.verify_passes > arrived.verify_passes + 1 &&
             now.pages_written > arrived.pages_written + 300;
    });
    EXPECT_EQ(later.verify_errors, 0u) << vcpus << " vCPUs";
    EXPECT_GT(later.uptime_ms, left.uptime_ms);
  }
}

/// As after a switchover that was given up: the guest has gone on at the source since.
TEST_F(Hooks, ALaterStateMayBeLoadedOverAnEarlierOne) {
  const std::shared_ptr<Vmm> from = make("writer:rate=20M,set=1M+verifier:rate=20M", 16 << 20, 2);
  resume(*from);
  wait_for(*from, [](const GuestStats& now) { return now.pages_written > 300; });
  VmmSourceHooks from_hooks(from);
  auto source = make_kvm_source(from->kvm_vm(), from_hooks);
  ASSERT_TRUE(source) << source.error().to_text();
  const auto description = (*source)->describe();
  ASSERT_TRUE(description);
  VmmTargetHooks to_hooks;
  const auto target = make_kvm_target(from->kvm_vm().kvm_fd, to_hooks);
  ASSERT_TRUE(target->prepare(*description));
  GuestStats left;
  for (int attempt = 1; attempt <= 3; ++attempt) {
    ASSERT_TRUE((*source)->pause());
    Sections state;
    Recorder recorder(state);
    ASSERT_TRUE((*source)->save_state(recorder));
    copy_memory(*from, *to_hooks.vmm());
    Player player(state);
    const auto loaded = target->load_state(player);
    ASSERT_TRUE(loaded) << loaded.error().to_text();
    ASSERT_TRUE(target->acquire());
    left = stats_of(*from);
    if (attempt == 3) break;
    ASSERT_TRUE(target->yield());
    ASSERT_TRUE((*source)->resume());
    wait_for(*from,
             [&](const GuestStats& now) { return now.pages_written > left.pages_written + 300; });
  }
  ASSERT_TRUE((*source)->release());
  ASSERT_TRUE(target->start(RunState::kRunning));
  const auto to = to_hooks.vmm();
  const GuestStats arrived = stats_of(*to);
  EXPECT_GE(arrived.pages_written, left.pages_written);
  const GuestStats later = wait_for(*to, [&](const GuestStats& now) {
    return now.verify_passes > arrived.verify_passes + 1 &&
           now.pages_written > arrived.pages_written + 300;
  });
  EXPECT_EQ(later.verify_errors, 0u);
}

TEST_F(Hooks, AGuestThatArrivesPausedStandsStill) {
  const std::shared_ptr<Vmm> from = make("counter");
  resume(*from);
  wait_for(*from, [](const GuestStats& now) { return now.vcpus[0].work > 0; });
  ArrivalConfig here;
  here.name = "other";
  VmmTargetHooks hooks(here);
  std::unique_ptr<TargetGuest> target;
  ASSERT_NO_FATAL_FAILURE(move(from, hooks, target));
  ASSERT_TRUE(target->start(RunState::kPaused));
  const auto to = hooks.vmm();
  EXPECT_EQ(to->config().name, "other");
  EXPECT_EQ(to->state(), VmmState::kPaused);
  EXPECT_EQ(stats_of(*to).vcpus[0].work, stats_of(*from).vcpus[0].work);
  resume(*to);
  wait_for(*to, [&](const GuestStats& now) {
    return now.vcpus[0].work > stats_of(*from).vcpus[0].work;
  });
}

TEST_F(Hooks, ADiscardedGuestIsGoneAndTheSourceGoesOn) {
  const std::shared_ptr<Vmm> from = make("counter");
  resume(*from);
  VmmSourceHooks from_hooks(from);
  auto source = make_kvm_source(from->kvm_vm(), from_hooks);
  ASSERT_TRUE(source);
  const auto description = (*source)->describe();
  ASSERT_TRUE(description) << description.error().to_text();
  EXPECT_EQ(from->state(), VmmState::kRunning);
  VmmTargetHooks hooks;
  EXPECT_EQ(hooks.vmm(), nullptr);
  const auto target = make_kvm_target(from->kvm_vm().kvm_fd, hooks);
  ASSERT_TRUE(target->prepare(*description));
  EXPECT_EQ(hooks.vmm()->stats().error().code, ErrorCode::kBusy) << "nothing has arrived";
  target->discard();
  EXPECT_EQ(hooks.vmm(), nullptr);
}

TEST(MachineProperty, SurvivesTheWay) {
  VmmConfig config;
  config.name = "web";
  config.memory_bytes = 64 << 20;
  config.vcpus = 2;
  config.workload = parse_workload("writer:rate=1M,set=4M,fill=zero,seed=3+verifier").value();
  GuestDescription description;
  description.name = "web";
  description.properties = encode_machine(config);
  const auto decoded = decode_machine(description);
  ASSERT_TRUE(decoded) << decoded.error().to_text();
  EXPECT_EQ(decoded->name, "web");
  EXPECT_EQ(decoded->memory_bytes, config.memory_bytes);
  EXPECT_EQ(decoded->vcpus, config.vcpus);
  EXPECT_EQ(decoded->workload, config.workload);
}

TEST(MachineProperty, ABrokenPeersBytesAreRefused) {
  GuestDescription description;
  EXPECT_EQ(decode_machine(description).error().code, ErrorCode::kIncompatible);
  VmmConfig config;
  config.workload = parse_workload("writer:rate=1M,set=4M").value();
  const auto good = encode_machine(config).front();
  description.properties = {good};
  for (std::size_t cut = 0; cut < good.body.size(); ++cut) {
    description.properties = {good};
    description.properties[0].body.resize(cut);
    const auto decoded = decode_machine(description);
    ASSERT_FALSE(decoded) << cut;
    EXPECT_THAT(decoded.error().message, HasSubstr("at byte"));
  }
  // Each byte may be anything: never more than an error, and memory and vCPUs stay within bounds.
  for (std::size_t at = 0; at < good.body.size(); ++at) {
    for (const unsigned value : {0u, 1u, 0x7fu, 0xffu}) {
      description.properties = {good};
      description.properties[0].body[at] = static_cast<std::byte>(value);
      const auto decoded = decode_machine(description);
      if (!decoded) {
        EXPECT_EQ(decoded.error().code, ErrorCode::kProtocol) << decoded.error().to_text();
        continue;
      }
      EXPECT_LE(decoded->memory_bytes, kMemoryMax);
      EXPECT_LE(decoded->vcpus, kVcpusMax);
    }
  }
  description.properties = {good};
  description.properties[0].body.push_back(std::byte{0});
  EXPECT_EQ(decode_machine(description).error().code, ErrorCode::kProtocol);
  description.properties = {good};
  description.properties[0].info.version = 2;
  EXPECT_EQ(decode_machine(description).error().code, ErrorCode::kIncompatible);
}

VmmConfig config_with_card() {
  VmmConfig config;
  config.name = "web";
  config.workload = parse_workload("responder").value();
  NetConfig net;
  net.tap = "tap0";
  net.mac = parse_mac("52:54:00:12:34:56").value();
  net.addresses = {parse_ip("192.0.2.7").value(), parse_ip("2001:db8::7").value()};
  config.nets = {net};
  return config;
}

TEST(MachineProperty, CardsAndTheirAddressesSurviveTheWay) {
  VmmConfig config = config_with_card();
  GuestDescription description;
  description.properties = encode_machine(config);
  ASSERT_EQ(description.properties.size(), 2u);
  EXPECT_TRUE(description.properties[1].info.mandatory);
  const auto decoded = decode_machine(description);
  ASSERT_TRUE(decoded) << decoded.error().to_text();
  ASSERT_EQ(decoded->nets.size(), 1u);
  EXPECT_EQ(decoded->nets[0].mac, config.nets[0].mac);
  EXPECT_EQ(decoded->nets[0].addresses, config.nets[0].addresses);
  EXPECT_EQ(decoded->nets[0].tap, "") << "a tap is its host's";

  // One without cards is described as ever, so that targets that know none take it.
  config.workload = {};
  config.nets.clear();
  EXPECT_EQ(encode_machine(config).size(), 1u);

  // Of a Linux, the addresses are only of use to others.
  config.linux_guest.emplace();
  config.nets = config_with_card().nets;
  description.properties = encode_machine(config);
  ASSERT_EQ(description.properties.size(), 2u);
  EXPECT_FALSE(description.properties[1].info.mandatory);
  const auto linux_guest = decode_machine(description);
  ASSERT_TRUE(linux_guest) << linux_guest.error().to_text();
  EXPECT_EQ(linux_guest->nets[0].addresses, config.nets[0].addresses);
  config.nets[0].addresses.clear();
  EXPECT_EQ(encode_machine(config).size(), 1u);
}

TEST(MachineProperty, ABrokenPeersCardsAreRefused) {
  const auto good = encode_machine(config_with_card());
  GuestDescription description;
  description.properties = {good[0]};
  EXPECT_EQ(decode_machine(description).error().code, ErrorCode::kProtocol) << "without its card";
  for (std::size_t cut = 0; cut < good[1].body.size(); ++cut) {
    description.properties = good;
    description.properties[1].body.resize(cut);
    const auto decoded = decode_machine(description);
    ASSERT_FALSE(decoded) << cut;
    EXPECT_EQ(decoded.error().code, ErrorCode::kProtocol) << decoded.error().to_text();
  }
  for (std::size_t at = 0; at < good[1].body.size(); ++at) {
    for (const unsigned value : {0u, 1u, 0x7fu, 0xffu}) {
      description.properties = good;
      description.properties[1].body[at] = static_cast<std::byte>(value);
      const auto decoded = decode_machine(description);
      if (!decoded) {
        EXPECT_EQ(decoded.error().code, ErrorCode::kProtocol) << decoded.error().to_text();
        continue;
      }
      EXPECT_EQ(decoded->nets.size(), 1u);
      EXPECT_LE(decoded->nets[0].addresses.size(), kAddressesMax);
    }
  }
  description.properties = good;
  description.properties[1].body.push_back(std::byte{0});
  EXPECT_EQ(decode_machine(description).error().code, ErrorCode::kProtocol);
  description.properties = good;
  description.properties[1].info.version = 2;
  EXPECT_EQ(decode_machine(description).error().code, ErrorCode::kProtocol);
}

TEST_F(Hooks, DeviceStateOfAnotherGuestIsRefused) {
  const auto two = make("idle", 16 << 20, 2);
  Sections sections;
  Recorder recorder(sections);
  ASSERT_TRUE(two->save_devices(recorder));
  const auto load = [](Vmm& vmm, const Sections& state) {
    Player player(state);
    const auto section = player.next();
    return vmm.load_device(**section, player);
  };
  EXPECT_TRUE(load(*two, sections));
  const auto one = make("idle", 16 << 20, 1);
  EXPECT_EQ(load(*one, sections).error().code, ErrorCode::kProtocol);
  for (std::size_t cut = 0; cut < sections[0].body.size(); ++cut) {
    Sections broken = sections;
    broken[0].body.resize(cut);
    EXPECT_FALSE(load(*two, broken)) << cut;
  }
  Sections unknown = sections;
  unknown[0].info.name = "vmm.disk";
  EXPECT_EQ(load(*two, unknown).error().code, ErrorCode::kIncompatible);
  unknown[0].info.mandatory = false;
  EXPECT_TRUE(load(*two, unknown));
}

}  // namespace
}  // namespace migrate::vmm
