#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "base/guarded.hpp"
#include "checkpoint/image_chain.hpp"
#include "checkpoint/image_output.hpp"
#include "checkpoint/image_writer.hpp"
#include "checkpoint/work_share.hpp"
#include "migrate/image.hpp"

namespace migrate {
namespace checkpoint {
namespace {

// 2 MiB: read, hashed and packed while it is in the cache, or nearly so.
constexpr std::uint64_t kWindowPages = 512;

struct Window {
  std::uint16_t region = 0;
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};

std::vector<Window> windows_of(const std::vector<Region>& regions) {
  std::vector<Window> windows;
  for (std::uint16_t region = 0; region < regions.size(); ++region) {
    const std::uint64_t pages = regions[region].range.count;
    for (std::uint64_t first = 0; first < pages; first += kWindowPages) {
      windows.push_back({region, first, std::min(kWindowPages, pages - first)});
    }
  }
  return windows;
}

/// One thread's part of the work.
class Copier {
 public:
  static Result<Copier> create(const std::shared_ptr<const ImageChain>& chain,
                               ImageWriter& writer) {
    Copier copier;
    copier.chain_ = chain;
    MIGRATE_ASSIGN(copier.reader_, ImageReader::create(chain));
    MIGRATE_ASSIGN(copier.lane_, writer.make_lane());
    copier.content_.resize(kWindowPages * kPageSize);
    return copier;
  }

  Status copy(const Window& window) {
    found_.resize(window.count);
    MIGRATE_TRY(chain_->find(window.region, window.first, found_));
    const auto stored = [](const FoundPage& page) { return page.file != nullptr; };
    if (std::none_of(found_.begin(), found_.end(), stored)) return {};
    MIGRATE_TRY(reader_->read(window.region, window.first, window.count, content_.data()));
    for (std::uint64_t i = 0; i < window.count; ++i) {
      if (!stored(found_[i])) continue;
      digest_ += chain_->digest().mix({window.region}, window.first + i, found_[i].hash);
      MIGRATE_TRY(lane_->add(window.region, window.first + i, content_.data() + i * kPageSize));
    }
    return {};
  }
  Status flush() { return lane_->flush(); }
  /// Of what it has copied.
  [[nodiscard]] std::uint64_t digest() const { return digest_; }

 private:
  Copier() = default;
  std::shared_ptr<const ImageChain> chain_;
  std::unique_ptr<ImageReader> reader_;
  std::unique_ptr<ImageWriter::Lane> lane_;
  std::vector<FoundPage> found_;
  std::vector<std::byte> content_;
  std::uint64_t digest_ = 0;
};

Result<ImageWritten> flatten(const std::string& path, const std::string& into,
                             const ImageSearch& search, CompressionChoice compress,
                             unsigned threads) {
  MIGRATE_ASSIGN(const auto chain, ImageChain::open(path, search));
  MIGRATE_ASSIGN(const auto state, chain->state());
  // The same guest at the same instant, with the same hashes, is the same image: what is based on
  // it stays so, also where this takes its place.
  ImageHeader header = chain->top().header();
  header.parent = {};
  ImageDescription description = chain->top().description();
  description.parent_path.clear();
  MIGRATE_ASSIGN(auto output, make_file_output(into));
  MIGRATE_ASSIGN(auto writer, ImageWriter::create(std::move(output), header, description,
                                                  {.compress = compress, .base = nullptr}));
  MIGRATE_TRY(writer->state(state));
  std::atomic<std::uint64_t> digest = 0;
  const std::vector<Window> windows = windows_of(chain->regions());
  MIGRATE_TRY(WorkShare::run(windows.size(), threads, [&](WorkShare& share) -> Status {
    MIGRATE_ASSIGN(Copier copier, Copier::create(chain, *writer));
    while (const auto i = share.take()) {
      if (Status status = copier.copy(windows[*i]); !status) share.fail(*i, status.error());
    }
    digest += copier.digest();
    return copier.flush();
  }));
  if (digest != chain->top().directory().digest) {
    return make_error(ErrorCode::kIntegrity,
                      path + ": the digest of all memory is not the one of its pages")
        .advise("take another copy of it, or an older checkpoint");
  }
  MIGRATE_ASSIGN(const ImageWriter::Written written, writer->finish());
  return ImageWritten{to_text(header.id), written.file_bytes, written.pages.stored};
}

}  // namespace
}  // namespace checkpoint

Result<ImageWritten> flatten_image(const std::string& path, const std::string& into,
                                   const ImageSearch& search, CompressionChoice compress,
                                   unsigned threads) {
  return guarded([&] { return checkpoint::flatten(path, into, search, compress, threads); });
}

}  // namespace migrate
