// A real guest that answers on a real tap, and what tests of it send and expect.
#pragma once

#include <cstring>
#include <optional>
#include <vector>

#include "adapters/kvm/vmm/migration_hooks.hpp"
#include "tests/vmm/section_tape.hpp"
#include "tests/vmm/tap_neighbour.hpp"
#include "tests/vmm/vmm_fixture.hpp"

namespace migrate::vmm::test {

inline constexpr int kFrames = 300;

inline Bytes numbered(int number) { return udp4("frame " + std::to_string(number)); }

/// The number of an answer to numbered(); -1 for anything else.
inline int number_of(const std::optional<Bytes>& frame) {
  constexpr std::size_t kPayload = 14 + 20 + 8;
  const std::string_view mark = "frame ";
  if (!frame || frame->size() <= kPayload || frame->compare(kPayload, mark.size(), mark) != 0) {
    return -1;
  }
  return std::stoi(frame->substr(kPayload + mark.size()));
}

inline bool has_number(const CardFrame& frame) {
  const auto* const text = reinterpret_cast<const char*>(frame.frame.data());
  return number_of(Bytes(text, frame.frame.size())) >= 0;
}

class Responder : public VmmTest {
 protected:
  void SetUp() override {
    VmmTest::SetUp();
    if (IsSkipped()) return;
    if (!network_.there()) GTEST_SKIP() << "no network namespaces here";
    here_.emplace("tap-here");
    there_.emplace("tap-there");
  }

  static NetConfig card(const TapNeighbour& tap) {
    NetConfig net;
    net.tap = tap.name();
    net.mac = parse_mac("52:54:00:12:34:56").value();
    net.addresses = {parse_ip(kGuestIp).value(), parse_ip(kGuestIp6).value()};
    return net;
  }
  std::shared_ptr<Vmm> make_responder(const std::string& workload = "responder") const {
    VmmConfig config;
    config.name = "test";
    config.memory_bytes = 16 << 20;
    config.vcpus = 2;
    config.workload = parse_workload(workload).value();
    config.nets = {card(*here_)};
    auto vmm = Vmm::create(config);
    if (!vmm) throw std::runtime_error(vmm.error().to_text());
    here_->wait_until_it_takes_frames();
    return *std::move(vmm);
  }
  ArrivalConfig arrival() const {
    ArrivalConfig host;
    NetConfig net;
    net.tap = there_->name();
    host.nets = {net};
    return host;
  }

  /// Answers numbers `first` to `last` - 1 come, in this order and each once, and nothing else.
  static void expect_answers(const TapNeighbour& tap, int first, int last) {
    for (int number = first; number < last; ++number) {
      ASSERT_EQ(number_of(tap.receive()), number);
    }
  }
  /// Nothing more is on its way: a later frame's answer is the next.
  static void expect_next_is_new(const TapNeighbour& tap) {
    tap.send(numbered(777'777));
    EXPECT_EQ(number_of(tap.receive()), 777'777);
    EXPECT_TRUE(tap.silent());
  }
  static void send_numbers(const TapNeighbour& tap, int first, int last) {
    for (int number = first; number < last; ++number) tap.send(numbered(number));
  }

  /// A source and a target between which a guest goes, without an engine.
  struct Way {
    Way(const std::shared_ptr<Vmm>& guest, ArrivalConfig host)
        : from_hooks(guest), to_hooks(std::move(host)), from(guest) {}
    VmmSourceHooks from_hooks;
    VmmTargetHooks to_hooks;
    std::shared_ptr<Vmm> from;
    std::unique_ptr<SourceGuest> source;
    std::unique_ptr<TargetGuest> target;
  };
  static Status prepare(Way& way) {
    MIGRATE_ASSIGN(way.source,
                   make_kvm_source(way.from->kvm_vm(), way.from_hooks, source_options(*way.from)));
    MIGRATE_ASSIGN(const GuestDescription description, way.source->describe());
    way.target = make_kvm_target(way.from->kvm_vm().kvm_fd, way.to_hooks);
    if (auto prepared = way.target->prepare(description); !prepared) return prepared.error();
    return {};
  }
  static Status carry_over(Way& way) {
    Sections state;
    Recorder recorder(state);
    if (auto saved = way.source->save_state(recorder); !saved) return saved.error();
    const auto& sources = way.from->kvm_vm().slots;
    const auto& targets = way.to_hooks.vmm()->kvm_vm().slots;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      std::memcpy(targets[i].host, sources[i].host, sources[i].bytes);
    }
    Player player(state);
    if (auto loaded = way.target->load_state(player); !loaded) return loaded.error();
    return way.target->acquire();
  }

  OwnNetwork network_;
  std::optional<TapNeighbour> here_;
  std::optional<TapNeighbour> there_;
};

}  // namespace migrate::vmm::test
