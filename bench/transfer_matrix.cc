#include "bench/transfer_matrix.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>

#include "base/fd.hpp"
#include "bench/machine_limits.hpp"
#include "migrate/options.hpp"

namespace migrate::bench {
namespace {

// What takes milliseconds (zeros) is measured more often: up to this many times as often, until all
// its runs together took this long.
constexpr unsigned kTurnsMax = 4;
constexpr double kEnoughMs = 1000;

LoopbackSetup setup_of(const MatrixSetup& matrix, const Link& link, const std::string& content,
                       const std::string& compress) {
  LoopbackSetup setup;
  setup.memory_bytes = matrix.memory_bytes;
  setup.guest = matrix.writing ? "writer:rate=200M,set=256M,seed=1,fill=" + content
                               : "idle:seed=1,fill=" + content;
  setup.vcpus = 1;
  setup.paused = !matrix.writing;
  setup.compare = !matrix.writing;
  setup.touched = true;
  // And what sockets and the other side take meanwhile.
  setup.warm_bytes = matrix.memory_bytes + matrix.memory_bytes / 4;
  setup.link = &link;
  // A guest that stands has nothing to find its rate for.
  if (setup.paused) setup.warm_up = std::chrono::milliseconds(20);
  setup.options.lanes = matrix.lanes;
  setup.options.strategy = matrix.strategy;
  must(set_option(setup.options, "compress", compress));
  return setup;
}

void add(Row& row, const LoopbackRun& run) {
  const Report& report = run.source;
  row.total_ms.add(report.total_ms - report.phases_ms.verify);
  row.once_ms.add(report.rounds.empty() ? report.total_ms - report.phases_ms.setup
                                        : report.rounds.front().ms);
  row.wire_bytes.add(static_cast<double>(report.bytes.wire));
  row.cpu_s.add(run.cpu_s);
  row.compressed_pages.add(static_cast<double>(report.pages.compressed));
  if (report.downtime_ms) row.downtime_ms.add(*report.downtime_ms);
}

/// A writer's memory is nobody's to compare from outside.
void check_writer(LoopbackSetup setup) {
  setup.options.verify = VerifyMode::kFull;
  const LoopbackRun run = migrate_over_loopback(setup);
  if (run.source.integrity.full != "equal") give_up("memory arrived changed");
}

/// Returns how long the migration took, in milliseconds.
double measure_once(const MatrixSetup& matrix, Row& row, const Memory* room) {
  const LoopbackSetup setup = setup_of(matrix, *row.over, row.content, row.compress);
  const auto guest = make_guest(setup);
  std::vector<double> pump_ms;
  for (PumpSamples& pump : row.pumps) {
    const PumpRun run = run_pump(*row.over, matrix.lanes, pump.work, memory_of(*guest),
                                 {room->page(0), static_cast<std::size_t>(room->bytes())});
    pump.ms.add(run.ms);
    pump.cpu_s.add(run.cpu_s);
    pump_ms.push_back(run.ms);
  }
  const LoopbackRun run = move_guest(setup, guest);
  add(row, run);
  for (std::size_t i = 0; i < pump_ms.size(); ++i) {
    row.pumps[i].speed.add(pump_ms[i] / run.source.total_ms);
  }
  return run.source.total_ms;
}

Row make_row(const MatrixSetup& matrix, const Link& link, const std::string& content,
             const std::string& compress) {
  Row row;
  row.over = &link;
  row.content = content;
  row.compress = compress;
  row.link = link.name();
  row.writing = matrix.writing;
  row.link_bytes_per_s = link.bytes_per_s();
  row.memory_bytes = matrix.memory_bytes;
  for (const PumpWork work : matrix.pumps) row.pumps.push_back({work, {}, {}, {}});
  return row;
}

}  // namespace

std::vector<Row> run_matrix(const MatrixSetup& setup) {
  std::vector<Row> rows;
  for (const Link* link : setup.links) {
    for (const std::string& content : setup.contents) {
      for (const std::string& compress : setup.compress) {
        rows.push_back(make_row(setup, *link, content, compress));
        if (setup.writing) check_writer(setup_of(setup, *link, content, compress));
      }
    }
  }
  std::optional<Memory> room;
  if (!setup.pumps.empty()) room.emplace(setup.memory_bytes, 0);
  std::vector<double> spent_ms(rows.size());
  for (unsigned turn = 0; turn < setup.repeats * kTurnsMax; ++turn) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (turn >= setup.repeats && spent_ms[i] >= kEnoughMs) continue;
      spent_ms[i] += measure_once(setup, rows[i], room ? &*room : nullptr);
    }
  }
  return rows;
}

Row run_zeros(std::uint64_t bytes, unsigned lanes, unsigned repeats) {
  const auto loopback = make_loopback_link();
  MatrixSetup matrix;
  matrix.memory_bytes = bytes;
  matrix.lanes = lanes;
  Row row = make_row(matrix, *loopback, "zero", "none");
  LoopbackSetup setup = setup_of(matrix, *loopback, row.content, row.compress);
  // Its target takes none.
  setup.warm_bytes = 0;
  for (unsigned i = 0; i < repeats; ++i) {
    const auto guest = make_guest(setup);
    const double scan_ms = scan_on_all_cores(memory_of(*guest));
    const LoopbackRun run = move_guest(setup, guest);
    add(row, run);
    row.scan_speed.add(scan_ms / run.source.total_ms);
  }
  return row;
}

void write_image(const std::string& file, const std::string& content, std::uint64_t bytes) {
  const auto loopback = make_loopback_link();
  MatrixSetup matrix;
  matrix.memory_bytes = bytes;
  const auto guest = make_guest(setup_of(matrix, *loopback, content, "none"));
  const Fd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) give_up("cannot write " + file + ": " + std::strerror(errno));
  std::span<const std::byte> left = memory_of(*guest);
  while (!left.empty()) {
    const ssize_t count =
        ::write(fd.get(), left.data(), std::min<std::size_t>(left.size(), 1 << 24));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const std::string why = std::strerror(errno);
      ::unlink(file.c_str());
      give_up("cannot write " + file + ": " + why);
    }
    left = left.subspan(static_cast<std::size_t>(count));
  }
}

const Row& row_of(const std::vector<Row>& rows, const Link& link, std::string_view content,
                  std::string_view compress) {
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const Row& row) {
    return row.link == link.name() && row.content == content && row.compress == compress;
  });
  if (found == rows.end()) give_up("a goal needs a row that was not measured");
  return *found;
}

}  // namespace migrate::bench
