#include "adapters/kvm/vmm/demo_fill.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "adapters/kvm/vmm/demo_guest/fill.hpp"
#include "base/fd.hpp"
#include "base/mutex.hpp"
#include "migrate/options.hpp"

namespace migrate::vmm {
namespace {

/// What a run of pages holds, made in a buffer that stays in a core's cache.
struct Run {
  std::uint64_t first = 0;
  std::uint64_t pages = 0;
  std::span<std::uint64_t> words;  ///< Of all its pages.

  [[nodiscard]] std::span<std::uint64_t> page(std::uint64_t i) const {
    return words.subspan(i * demo::kWordsPerPage, demo::kWordsPerPage);
  }
};

/// Makes the content of runs. Called from several threads.
class RunSource {
 public:
  virtual ~RunSource() = default;
  /// False when it is all zero.
  virtual Result<bool> make(const Run& run) = 0;
};

class SeededRuns final : public RunSource {
 public:
  explicit SeededRuns(const demo::ControlBlock& plan) : plan_(plan) {}

  Result<bool> make(const Run& run) override {
    bool any = false;
    for (std::uint64_t i = 0; i < run.pages; ++i)
      any = make_page(run.first + i, run.page(i)) || any;
    return any;
  }

 private:
  bool make_page(std::uint64_t page, std::span<std::uint64_t> words) const {
    const demo::PageKind kind = demo::page_kind(plan_.fill, plan_.seed, page);
    const std::uint64_t base = demo::page_base(plan_.seed, page);
    for (std::uint64_t i = 0; i < words.size(); ++i) words[i] = demo::fill_word(kind, base, i);
    return kind != demo::PageKind::kZero;
  }

  const demo::ControlBlock& plan_;
};

/// A raw image: what lies past its end is zero.
class FileRuns final : public RunSource {
 public:
  FileRuns(Fd file, std::string name, std::uint64_t bytes, demo::PageHash* hashes)
      : file_(std::move(file)), name_(std::move(name)), bytes_(bytes), hashes_(hashes) {}

  static Result<std::unique_ptr<RunSource>> open(const std::string& name, const GuestMemory& memory,
                                                 const demo::ControlBlock& plan);

  Result<bool> make(const Run& run) override {
    std::fill(run.words.begin(), run.words.end(), 0);
    const std::uint64_t offset = run.first * demo::kPage;
    if (offset < bytes_) {
      const auto bytes = std::as_writable_bytes(run.words);
      MIGRATE_TRY(
          read(offset, bytes.first(std::min<std::uint64_t>(bytes.size(), bytes_ - offset))));
    }
    for (std::uint64_t i = 0; i < run.pages; ++i) {
      hashes_[run.first + i] = demo::hash_page(run.page(i).data());
    }
    return std::any_of(run.words.begin(), run.words.end(), [](auto word) { return word != 0; });
  }

 private:
  Status read(std::uint64_t offset, std::span<std::byte> into) const {
    while (!into.empty()) {
      const ssize_t count =
          ::pread(file_.get(), into.data(), into.size(), static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return make_errno_error(ErrorCode::kIo, errno, "cannot read " + name_);
      if (count == 0)
        return make_error(ErrorCode::kIo, name_ + " became shorter while it was read");
      into = into.subspan(static_cast<std::size_t>(count));
      offset += static_cast<std::uint64_t>(count);
    }
    return {};
  }

  const Fd file_;
  const std::string name_;
  const std::uint64_t bytes_;
  demo::PageHash* const hashes_;
};

Result<std::unique_ptr<RunSource>> FileRuns::open(const std::string& name,
                                                  const GuestMemory& memory,
                                                  const demo::ControlBlock& plan) {
  Fd file(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (!file || ::fstat(file.get(), &info) != 0) {
    return make_errno_error(ErrorCode::kInvalidArgument, errno,
                            "cannot open the memory image " + name)
        .advise("check the name after fill=@");
  }
  const auto bytes = static_cast<std::uint64_t>(info.st_size);
  if (!S_ISREG(info.st_mode) || bytes > memory.bytes().size()) {
    return make_error(ErrorCode::kInvalidArgument, "the memory image " + name +
                                                       " is not a regular file of at most " +
                                                       format_size(memory.bytes().size()))
        .advise("give a raw image that fits into the guest's memory");
  }
  auto* const hashes = reinterpret_cast<demo::PageHash*>(memory.bytes().data() + plan.file_hashes);
  return std::unique_ptr<RunSource>(new FileRuns(std::move(file), name, bytes, hashes));
}

/// Hands runs to threads until all are done or one has failed.
class Filler {
 public:
  Filler(const GuestMemory& memory, const demo::ControlBlock& plan, RunSource& source)
      : memory_(memory),
        plan_(plan),
        source_(source),
        next_(plan.data_first / demo::kRunPages),
        end_((plan.pages + demo::kRunPages - 1) / demo::kRunPages) {}

  Status run() {
    // More cores than this wait for memory.
    const unsigned cores = std::clamp(std::thread::hardware_concurrency(), 1u, 16u);
    {
      std::vector<std::jthread> others;
      others.reserve(cores - 1);
      try {
        for (unsigned i = 1; i < cores; ++i) others.emplace_back([this] { take_runs(); });
      } catch (const std::system_error&) {
        // Fewer threads fill it as well.
      }
      take_runs();
    }
    MutexLock lock(mutex_);
    return failed_ ? Status(*failed_) : Status();
  }

 private:
  void take_runs() {
    std::vector<std::uint64_t> words(demo::kRunPages * demo::kWordsPerPage);
    for (std::uint64_t number = next_++; number < end_; number = next_++) {
      if (auto status = fill(number, words); !status) {
        next_ = end_;
        MutexLock lock(mutex_);
        failed_ = std::move(status).error();
        return;
      }
    }
  }

  Status fill(std::uint64_t number, std::span<std::uint64_t> words) {
    const std::uint64_t first = std::max(plan_.data_first, number * demo::kRunPages);
    const std::uint64_t pages = std::min(plan_.pages, (number + 1) * demo::kRunPages) - first;
    const Run run{first, pages, words.first(pages * demo::kWordsPerPage)};
    MIGRATE_ASSIGN(const bool any, source_.make(run));
    const auto bytes = std::as_bytes(run.words);
    if (any) std::memcpy(memory_.bytes().data() + first * demo::kPage, bytes.data(), bytes.size());
    return {};
  }

  const GuestMemory& memory_;
  const demo::ControlBlock& plan_;
  RunSource& source_;
  std::atomic<std::uint64_t> next_;
  const std::uint64_t end_;
  Mutex mutex_;
  std::optional<Error> failed_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace

Status fill_demo_memory(const GuestMemory& memory, const demo::ControlBlock& plan,
                        const std::string& file) {
  if (plan.fill == demo::Fill::kZero) return {};
  std::unique_ptr<RunSource> source = std::make_unique<SeededRuns>(plan);
  if (plan.fill == demo::Fill::kFile) {
    MIGRATE_ASSIGN(source, FileRuns::open(file, memory, plan));
  }
  return Filler(memory, plan, *source).run();
}

}  // namespace migrate::vmm
