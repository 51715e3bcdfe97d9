#include "adapters/containers/source/smaps_reader.hpp"

#include <utility>

#include "adapters/containers/source/process_tree.hpp"
#include "base/guarded.hpp"
#include "base/log.hpp"
#include "base/start_thread.hpp"

namespace migrate::containers {

SmapsReader::SmapsReader(HiddenAreas& into, const SmapsKeeper& known, std::vector<pid_t> processes)
    : into_(into), known_(known), processes_(std::move(processes)) {
  Status begun = into_.await_smaps();
  if (begun) begun = start_thread(thread_, "tree-smaps", [this] { run(); });
  if (begun) return;
  into_.end_smaps();
  log_line(LogLevel::kDebug, begun.error().to_text());
}

SmapsReader::~SmapsReader() {
  if (thread_.joinable()) thread_.join();
}

void SmapsReader::run() {
  const Status read = guarded([&]() -> Status {
    for (const pid_t pid : processes_) {
      auto text = known_.text_that_holds(pid);
      if (!text) text = read_proc(proc_path(pid, "smaps"));
      // Of a zombie there is none.
      if (text && !text->empty()) MIGRATE_TRY(into_.add_smaps(pid, *text));
    }
    return {};
  });
  into_.end_smaps();
  if (!read) log_line(LogLevel::kDebug, read.error().to_text());
}

}  // namespace migrate::containers
