// What single parts of a migration cost, by Google Benchmark: page sets, the work on each page, the
// digest, the heads of page batches, and the journal.
#include <benchmark/benchmark.h>

#include <array>
#include <string>
#include <vector>

#include "bench/runtime_folder.hpp"
#include "memory/zero_page.hpp"
#include "migrate/memory.hpp"
#include "session/journal.hpp"
#include "wire/digest.hpp"
#include "wire/pages.hpp"

namespace migrate {
namespace {

// 1 GiB of guest, the size that the goals are set for.
constexpr std::uint64_t kGuestPages = 262144;

wire::Hasher session_hasher() { return wire::Hasher(wire::SessionRandom{}, wire::SessionRandom{}); }

/// Runs of `run` pages, `step` pages from one's first to the next one's.
PageBitmap runs_of(std::uint64_t run, std::uint64_t step, std::uint64_t pages) {
  PageBitmap set(std::vector<Region>{{RegionId{0, 0, 0}, {GuestPage{0}, pages}, Backing::kMemfd}});
  for (std::uint64_t page = 0; page + run <= pages; page += step) {
    set.set(RegionId{0, 0, 0}, PageRange{GuestPage{page}, run});
  }
  return set;
}

/// Bytes of one bitmap, though a union reads two.
void count_bitmap_bytes(benchmark::State& state, const PageBitmap& set) {
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(set.capacity() / 8));
}

/// Sets of 1 and 8 GiB of guest: bitmaps of 32 and 256 KiB, which stay in the cache.
void bitmap_sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(kGuestPages)->Arg(8 * kGuestPages);
}

void bitmap_merge(benchmark::State& state) {
  const auto pages = static_cast<std::uint64_t>(state.range(0));
  PageBitmap set = runs_of(1, 7, pages);
  const PageBitmap other = runs_of(1, 5, pages);
  for (auto _ : state) {
    set.merge(other);
    benchmark::ClobberMemory();
  }
  count_bitmap_bytes(state, set);
}
BENCHMARK(bitmap_merge)->Apply(bitmap_sizes);

void bitmap_count(benchmark::State& state) {
  const PageBitmap set = runs_of(1, 7, static_cast<std::uint64_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(set.count());
  count_bitmap_bytes(state, set);
}
BENCHMARK(bitmap_count)->Apply(bitmap_sizes);

void bitmap_empty(benchmark::State& state) {
  const PageBitmap set(runs_of(0, 64, static_cast<std::uint64_t>(state.range(0))));
  for (auto _ : state) benchmark::DoNotOptimize(set.empty());
  count_bitmap_bytes(state, set);
}
BENCHMARK(bitmap_empty)->Apply(bitmap_sizes);

/// Going through all runs. It costs by the word where there are few of them, else by the run.
void bitmap_runs(benchmark::State& state) {
  const PageBitmap set = runs_of(static_cast<std::uint64_t>(state.range(0)),
                                 static_cast<std::uint64_t>(state.range(1)), 8 * kGuestPages);
  std::uint64_t pages = 0;
  for (auto _ : state) {
    set.for_each_run([&](const RegionId&, PageRange run) { pages += run.count; });
  }
  benchmark::DoNotOptimize(pages);
  count_bitmap_bytes(state, set);
}
BENCHMARK(bitmap_runs)
    ->ArgNames({"run", "step"})
    ->Args({0, 64})
    ->Args({64, 64})
    ->Args({1, 2})
    ->Args({1, 64})
    ->Args({1, 1024})
    ->Args({1, 4096})
    ->Args({1, 16384})
    ->Args({512, 1024})
    ->Args({8192, 16384});

void zero_check(benchmark::State& state) {
  alignas(64) std::array<std::byte, kPageSize> page{};
  if (state.range(0) != 0) page[static_cast<std::size_t>(state.range(0)) - 1] = std::byte{1};
  for (auto _ : state) benchmark::DoNotOptimize(is_zero_page(page.data()));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kPageSize));
}
// Zero throughout; not zero at its first byte; only at its last.
BENCHMARK(zero_check)->Arg(0)->Arg(1)->Arg(kPageSize);

void page_hash(benchmark::State& state) {
  const wire::PageDigest digest(session_hasher());
  alignas(64) std::array<std::byte, kPageSize> page{};
  for (auto _ : state) benchmark::DoNotOptimize(digest.hash(page));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kPageSize));
}
BENCHMARK(page_hash);

void digest_change(benchmark::State& state) {
  const wire::PageDigest digest(session_hasher());
  std::uint64_t sum = 0;
  std::uint64_t page = 0;
  for (auto _ : state) {
    sum += digest.change(wire::RegionHandle{0}, page, sum, sum + 1);
    ++page;
  }
  benchmark::DoNotOptimize(sum);
}
BENCHMARK(digest_change);

void batch_head(benchmark::State& state) {
  const wire::Hasher hasher = session_hasher();
  wire::PagesEncoder encoder;
  std::uint64_t sequence = 0;
  for (auto _ : state) {
    encoder.begin(wire::RegionHandle{0}, 0);
    for (std::uint64_t page = 0; page < 256; ++page) encoder.add_raw(2 * page, page);
    benchmark::DoNotOptimize(encoder.finish(sequence++, hasher));
  }
  state.SetItemsProcessed(state.iterations() * 256);
}
BENCHMARK(batch_head);

void journal_record(benchmark::State& state) {
  const bench::RuntimeFolder folder;
  auto journal = session::Journal::create(folder.path(), wire::SessionId{}, session::BootId{});
  std::uint32_t attempt = 0;
  for (auto _ : state) {
    if (!journal || !journal->record(session::RecordState::kReceiving, ++attempt, {})) {
      state.SkipWithError("the journal could not be written");
      break;
    }
  }
}
BENCHMARK(journal_record)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace migrate

BENCHMARK_MAIN();
