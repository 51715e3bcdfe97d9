#include "bench/transfer_goals.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>

#include "migrate/options.hpp"

namespace migrate::bench {
namespace {

const std::vector<std::string> kContents = {"mixed", "zero", "text", "random"};

MatrixSetup matrix_of(const GoalSetup& setup, std::vector<const Link*> links) {
  MatrixSetup matrix;
  matrix.links = std::move(links);
  matrix.memory_bytes = setup.memory_bytes;
  matrix.lanes = setup.lanes;
  matrix.repeats = setup.repeats;
  matrix.strategy = setup.strategy;
  return matrix;
}

template <typename... Values>
std::string text(const char* format, Values... values) {
  char line[256];
  std::snprintf(line, sizeof line, format, values...);
  return line;
}

/// Bytes a second that one core encrypts as TLS does by default: AES-128-GCM, records of 16 KiB.
double aes_bytes_per_s() {
  std::vector<unsigned char> record(16 << 10, 1);
  std::vector<unsigned char> sealed(record.size() + 16);
  const std::array<unsigned char, 16> key{};
  const std::array<unsigned char, 12> nonce{};
  EVP_CIPHER_CTX* const context = EVP_CIPHER_CTX_new();
  if (context == nullptr) give_up("no memory for a cipher");
  const Figure figure = measure("AES-128-GCM", record.size() * 16384, 3, [&] {
    for (int i = 0; i < 16384; ++i) {
      int count = 0;
      if (EVP_EncryptInit_ex(context, i == 0 ? EVP_aes_128_gcm() : nullptr, nullptr,
                             i == 0 ? key.data() : nullptr, nonce.data()) != 1 ||
          EVP_EncryptUpdate(context, sealed.data(), &count, record.data(),
                            static_cast<int>(record.size())) != 1 ||
          EVP_EncryptFinal_ex(context, sealed.data() + count, &count) != 1) {
        give_up("this OpenSSL has no AES-128-GCM");
      }
    }
  });
  EVP_CIPHER_CTX_free(context);
  return figure.gb_per_s_median * 1e9;
}

/// What a guest sent of its pages from the third round on, when all that it writes has been sent
/// twice: bytes, and the bytes of the same pages whole.
struct Resent {
  double bytes = 0;
  double whole = 0;
  double after_first_round = 0;
  std::uint64_t deltas = 0;
};

Resent resend(const GoalSetup& setup, std::uint64_t cache_bytes) {
  LoopbackSetup loopback;
  loopback.memory_bytes = 256ull << 20;
  loopback.vcpus = 1;
  // A writer's stamp is 64 bytes at the head of a page and its last word; the number in it stays.
  loopback.guest = "writer:rate=100M,set=16M,seed=1,fill=random";
  loopback.options.lanes = setup.lanes;
  // Raw means whole pages: deltas are for the others. Random pages are not packed.
  loopback.options.compress = {CompressionChoice::Mode::kAuto, 1};
  loopback.options.bandwidth_bytes_per_s = 125'000'000;
  loopback.options.max_downtime = std::chrono::milliseconds(5);
  loopback.options.delta_cache_bytes = cache_bytes;
  const Report report = migrate_over_loopback(loopback).source;
  Resent resent;
  resent.deltas = report.pages.delta;
  std::uint64_t pages = 0;
  for (const RoundReport& round : report.rounds) {
    if (round.round >= 1) resent.after_first_round += static_cast<double>(round.bytes);
    if (round.round < 2) continue;
    resent.bytes += static_cast<double>(round.bytes);
    pages += round.pages;
  }
  // Those that were left to a later round, in whichever round, were not sent.
  pages -= std::min(pages, report.pages.redirtied);
  resent.whole = static_cast<double>(pages * kPageSize);
  return resent;
}

}  // namespace

Findings judge_raw(const GoalSetup& setup) {
  const auto loopback = make_loopback_link();
  MatrixSetup matrix = matrix_of(setup, {loopback.get()});
  matrix.compress = {"none"};
  matrix.pumps = {PumpWork::kMoved, PumpWork::kScanned, PumpWork::kHashed};
  Findings findings;
  findings.rows = run_matrix(matrix);
  for (const Row& row : findings.rows) {
    // All-zero memory has a goal of its own.
    if (row.content != "zero") {
      findings.verdicts.push_back({"raw, paused, " + row.content + ": speed over the pump's",
                                   row.pumps.back().speed.median(), 0.9, false});
    }
    const double scan = row.pumps[1].ms.median();
    const double hashed = row.pumps[2].ms.median();
    findings.notes.push_back(
        text("hashing, %s: the pump takes %.0f ms with it and %.0f without (%.2f x), and %.2f s of "
             "processor time instead of %.2f",
             row.content.c_str(), hashed, scan, hashed / scan, row.pumps[2].cpu_s.median(),
             row.pumps[1].cpu_s.median()));
  }
  return findings;
}

Findings judge_zeros(const GoalSetup& setup) {
  Findings findings;
  findings.rows.push_back(run_zeros(8ull << 30, setup.lanes, std::min(setup.repeats, 3u)));
  findings.verdicts.push_back({"8 GiB of zeros: speed over a zero scan's on all cores",
                               findings.rows[0].scan_speed.median(), 0.8, false});
  return findings;
}

Findings judge_packing(const GoalSetup& setup) {
  const auto loopback = make_loopback_link();
  Findings findings;
  MatrixSetup matrix = matrix_of(setup, {loopback.get()});
  matrix.repeats = std::min(setup.repeats, 3u);
  findings.rows = run_matrix(matrix);
  for (const std::string& content : kContents) {
    const double as_is = row_of(findings.rows, *loopback, content, "none").total_ms.median();
    const double chosen = row_of(findings.rows, *loopback, content, "auto").total_ms.median();
    findings.notes.push_back(
        text("auto, loopback, %s: %.3f x the time as it is", content.c_str(), chosen / as_is));
  }
  return findings;
}

Findings judge_links(const GoalSetup& setup) {
  const auto slow = make_shaped_link(125e6);
  const auto fast = make_shaped_link(1250e6);
  MatrixSetup matrix = matrix_of(setup, {slow.get(), fast.get()});
  // A minute and a half a turn is enough.
  matrix.memory_bytes = std::min<std::uint64_t>(setup.memory_bytes, 1ull << 30);
  matrix.repeats = std::min(setup.repeats, 3u);
  Findings findings;
  findings.rows = run_matrix(matrix);
  for (const Link* link : matrix.links) {
    for (const std::string& content : kContents) {
      const double best =
          std::min(row_of(findings.rows, *link, content, "none").total_ms.median(),
                   row_of(findings.rows, *link, content, "zstd:1").total_ms.median());
      const double chosen = row_of(findings.rows, *link, content, "auto").total_ms.median();
      findings.verdicts.push_back(
          {link->name() + ", " + content + ": auto's time over the better of raw and zstd:1",
           chosen / best, 1.03, true});
    }
  }
  findings.verdicts.push_back({slow->name() + ", mixed, auto: guest bytes over the link's",
                               row_of(findings.rows, *slow, "mixed", "auto").multiple_of_link(),
                               2.3, false});
  return findings;
}

Findings judge_tls(const GoalSetup& setup) {
  const auto loopback = make_loopback_link();
  const auto tls = make_tls_link(*loopback);
  MatrixSetup matrix = matrix_of(setup, {loopback.get(), tls.get()});
  matrix.contents = {"mixed"};
  matrix.compress = {"none"};
  Findings findings;
  findings.rows = run_matrix(matrix);
  const double aes = aes_bytes_per_s();
  const Row& raw = row_of(findings.rows, *loopback, "mixed", "none");
  const Row& sealed = row_of(findings.rows, *tls, "mixed", "none");
  // One core a side: both work on the same bytes at the same time, so they count once.
  const double limit_ms = raw.total_ms.median() + sealed.wire_bytes.median() / aes * 1e3;
  findings.verdicts.push_back({"TLS, mixed: speed over the raw path and one core's AES-GCM a side",
                               limit_ms / sealed.total_ms.median(), 0.85, false});
  findings.notes.push_back(text("AES-128-GCM on one core: %.2f GB/s", aes / 1e9));
  return findings;
}

Findings judge_writer(const GoalSetup& setup) {
  const auto loopback = make_loopback_link();
  MatrixSetup matrix = matrix_of(setup, {loopback.get()});
  matrix.memory_bytes = std::min<std::uint64_t>(setup.memory_bytes, 1ull << 30);
  matrix.repeats = std::min(setup.repeats, 3u);
  matrix.writing = true;
  Findings findings;
  findings.rows = run_matrix(matrix);
  return findings;
}

Findings judge_delta(const GoalSetup& setup) {
  Samples share, ratio, deltas;
  for (unsigned i = 0; i < std::min(setup.repeats, 3u); ++i) {
    const Resent with = resend(setup, OutgoingOptions().delta_cache_bytes);
    const Resent without = resend(setup, 0);
    if (with.whole == 0) give_up("the writer was gone before a page was sent three times");
    share.add(with.bytes / with.whole);
    ratio.add(with.after_first_round / std::max(1.0, without.after_first_round));
    deltas.add(static_cast<double>(with.deltas));
  }
  Findings findings;
  findings.verdicts.push_back(
      {"64 bytes changed a page: bytes sent over the pages'", share.median(), 0.1, true});
  findings.notes.push_back(
      text("deltas: %.0f pages a migration; all rounds but the first send %.2f x what they do "
           "without a delta cache",
           deltas.median(), ratio.median()));
  return findings;
}

}  // namespace migrate::bench
