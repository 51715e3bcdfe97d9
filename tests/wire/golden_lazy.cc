// Golden streams of guests whose memory follows them.
#include <functional>
#include <utility>

#include "tests/wire/golden_streams.hpp"
#include "tests/wire/stream_maker.hpp"

namespace migrate::wire::testing {
namespace {

Region memory(std::uint64_t count) { return {{0, 0, 0}, {GuestPage{0}, count}, Backing::kMemfd}; }

/// One round; then pages 2, 3 and 6 are to follow.
StreamMaker announced(std::uint32_t granule = 1, bool installed = false) {
  StreamMaker maker({memory(8)}, 1);
  maker.allow_postcopy();
  maker.open();
  maker.pages(1, 0, {{0, 4, 1}, {4, 4, std::nullopt}});
  maker.end_round(false);
  maker.lazy(granule, installed);
  return maker;
}

/// And page 0, which the guest has written since.
StreamMaker offered(bool installed = false) {
  StreamMaker maker = announced(1, installed);
  maker.list({2, 3, 6});
  maker.agree();
  maker.state(40);
  maker.list({0});
  maker.offer(1);
  return maker;
}

StreamMaker started(bool installed = false) {
  StreamMaker maker = offered(installed);
  maker.ready(1);
  maker.send(Commit{1});
  maker.reply(Started{1, 45});
  return maker;
}

void wants(StreamMaker& maker, std::uint64_t page) {
  maker.reply(Demand{{{RegionHandle{0}, page, 1}}}, maker.urgent());
}

/// A page comes twice, by a demand and a push.
StreamMaker hybrid() {
  StreamMaker maker = started(true);
  wants(maker, 3);
  maker.pages(maker.urgent(), 0, {{3, 1, 2}});
  maker.pages(1, 0, {{0, 1, 5}, {2, 1, 5}, {6, 1, std::nullopt}});
  maker.reply(Installed{RegionHandle{0}, 0, {0b1001}});
  maker.reply(Installed{RegionHandle{0}, 0, {0b1000100}});
  maker.complete(4);
  maker.send(Released{1});
  return maker;
}

/// No round at all; what state is loaded over is wanted before READY, in whole units.
StreamMaker postcopy() {
  StreamMaker maker({memory(8)}, 2);
  maker.allow_postcopy();
  maker.open();
  maker.lazy(4);
  maker.list({0, 1, 2, 3});
  maker.agree();
  maker.state(40);
  maker.list({4, 5, 6, 7});
  const std::uint64_t digest = maker.digest();
  maker.offer(1);
  maker.reply(Demand{{{RegionHandle{0}, 4, 4}}}, maker.urgent());
  maker.pages(maker.urgent(), 0, {{4, 3, 1}, {7, 1, std::nullopt}});
  Ready ready;
  ready.attempt = 1;
  ready.lease_ns = 10'000'000'000;
  ready.digest = digest;
  maker.reply(ready);
  maker.send(Commit{1});
  maker.reply(Started{1, 45});
  maker.pages(2, 0, {{0, 4, 3}});
  maker.complete(8);
  maker.send(Released{1});
  return maker;
}

/// The link is lost; of what was sent page 2 has not come. Then once more, when all has.
StreamMaker recovered() {
  StreamMaker maker = started();
  maker.pages(1, 0, {{0, 1, 5}, {2, 1, 5}});
  maker.come_back();
  maker.list({2, 3, 6}, true);
  maker.rejoin_lazily();
  wants(maker, 2);
  maker.pages(maker.urgent(), 0, {{2, 1, 5}});
  maker.pages(1, 0, {{3, 1, 2}, {6, 1, std::nullopt}});
  maker.complete(4);
  maker.come_back();
  maker.list({}, true);
  maker.rejoin_lazily();
  maker.complete(4);
  maker.send(Released{1});
  return maker;
}

// ---- Invalid ones.

StreamMaker released_before_complete() {
  StreamMaker maker = started();
  maker.pages(1, 0, {{0, 1, 5}});
  maker.send(Released{1});
  return maker;
}

StreamMaker complete_too_early() {
  StreamMaker maker = started();
  maker.pages(1, 0, {{0, 1, 5}, {2, 2, 5}});
  maker.complete(3);
  return maker;
}

StreamMaker complete_digest_mismatch() {
  StreamMaker maker = started();
  maker.pages(1, 0, {{0, 1, 5}, {2, 2, 5}, {6, 1, 5}});
  maker.spoil_digest();
  maker.complete(4);
  return maker;
}

StreamMaker page_that_does_not_follow() {
  StreamMaker maker = started();
  maker.pages(1, 0, {{1, 1, 5}});
  return maker;
}

StreamMaker page_changed() {
  StreamMaker maker = started();
  maker.pages(1, 0, {{2, 1, 5}});
  maker.pages(maker.urgent(), 0, {{2, 1, 6}});
  return maker;
}

StreamMaker demand_before_offer() {
  StreamMaker maker = announced();
  maker.list({2, 3, 6});
  maker.agree();
  wants(maker, 2);
  return maker;
}

StreamMaker demand_on_a_bulk_lane() {
  StreamMaker maker = started();
  maker.reply(Demand{{{RegionHandle{0}, 2, 1}}}, 1);
  return maker;
}

StreamMaker unit_in_part() {
  StreamMaker maker = announced(4);
  maker.list({2, 3});
  return maker;
}

StreamMaker barrier_after_lazy() {
  StreamMaker maker = announced();
  maker.end_round_on_lane(1, true);
  return maker;
}

StreamMaker offer_without_second_list() {
  StreamMaker maker = announced();
  maker.list({2, 3, 6});
  maker.agree();
  maker.state(40);
  maker.offer(1);
  return maker;
}

StreamMaker installed_unasked() {
  StreamMaker maker = started();
  maker.pages(1, 0, {{2, 1, 5}});
  maker.reply(Installed{RegionHandle{0}, 0, {0b100}});
  return maker;
}

StreamMaker has_what_was_not_sent() {
  StreamMaker maker = started();
  maker.come_back();
  maker.list({2, 3}, true);
  return maker;
}

StreamMaker lazy_without_the_feature() {
  StreamMaker maker({memory(8)}, 1);
  maker.open();
  maker.send(Lazy{0, 1000, false}, 1);
  return maker;
}

}  // namespace

void add_lazy_streams(std::vector<GoldenFile>& files) {
  const std::pair<const char*, std::function<StreamMaker()>> streams[] = {
      {"valid/hybrid", hybrid},
      {"valid/postcopy", postcopy},
      {"valid/recovered", recovered},
      {"invalid/lazy.released_before_complete", released_before_complete},
      {"invalid/lazy.complete_too_early", complete_too_early},
      {"invalid/digest.complete_digest_mismatch", complete_digest_mismatch},
      {"invalid/lazy.page_that_does_not_follow", page_that_does_not_follow},
      {"invalid/lazy.page_changed", page_changed},
      {"invalid/lazy.demand_before_offer", demand_before_offer},
      {"invalid/direction.demand_on_a_bulk_lane", demand_on_a_bulk_lane},
      {"invalid/lazy.unit_in_part", unit_in_part},
      {"invalid/lazy.barrier_after_lazy", barrier_after_lazy},
      {"invalid/handover.offer_without_second_list", offer_without_second_list},
      {"invalid/lazy.installed_unasked", installed_unasked},
      {"invalid/lazy.has_what_was_not_sent", has_what_was_not_sent},
      {"invalid/lazy.lazy_without_the_feature", lazy_without_the_feature},
  };
  for (const auto& [name, make] : streams) {
    files.push_back({std::string(name) + ".capture", make().capture()});
  }
}

}  // namespace migrate::wire::testing
