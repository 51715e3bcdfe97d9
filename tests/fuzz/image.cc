// A checkpoint image: as a file, whole and by pages, and as a stream. Bit 0 of the first byte says
// that its hashes are made right first, or little behind them would ever be reached. Whatever both
// ways take is the same memory.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "checkpoint/image_chain.hpp"
#include "migrate/image.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace migrate::checkpoint {
namespace {

using Place = std::pair<std::uint16_t, std::uint64_t>;
using Content = std::array<std::byte, kPageSize>;
using Memory = std::map<Place, Content>;

// Of each region: an image may speak of more pages than there is memory.
constexpr std::uint64_t kPagesMax = 64;

void require(bool condition) {
  if (!condition) std::abort();
}

/// Blocks with their hashes, and the directory with those of the index.
void seal_again(std::span<std::byte> image) {
  if (image.size() < kBlockAlign) return;
  ImageHeader header;
  std::memcpy(header.secret.first.bytes.data(), image.data() + 104, 96);
  std::memcpy(header.secret.second.bytes.data(), image.data() + 200, 96);
  const wire::Hasher hasher = header.hasher();
  std::map<std::uint64_t, std::uint64_t> hashes;
  for (std::uint64_t at = 0; image.size() - at >= kBlockHeadBytes;) {
    const auto block = image.subspan(at);
    const auto head = get_head(block.first<kBlockHeadBytes>(), at, 0);
    if (!head || head->length > block.size() || head->needed() != head->length) return;
    if (head->type == BlockType::kDirectory) {
      for (std::uint64_t i = kBlockHeadBytes + 56; i + 16 <= kBlockHeadBytes + head->payload;
           i += 16) {
        std::uint64_t where = 0;
        std::memcpy(&where, block.data() + i, sizeof(where));
        if (const auto index = hashes.find(where); index != hashes.end()) {
          std::memcpy(block.data() + i + 8, &index->second, 8);
        }
      }
    }
    seal_block(*head, hasher, block.first(head->length));
    hashes[at] = get_head(block.first<kBlockHeadBytes>(), at, 0)->hash;
    at += head->length;
  }
}

Result<Memory> read_pages(const std::string& path) {
  MIGRATE_ASSIGN(const auto chain, ImageChain::open(path));
  MIGRATE_TRY(chain->state());
  MIGRATE_ASSIGN(const auto reader, ImageReader::create(chain));
  Memory memory;
  std::vector<std::byte> window(kPagesMax * kPageSize);
  for (std::uint16_t region = 0; region < chain->regions().size(); ++region) {
    const std::uint64_t count = std::min(kPagesMax, chain->regions()[region].range.count);
    std::vector<FoundPage> found(count);
    MIGRATE_TRY(chain->find(region, 0, found));
    MIGRATE_TRY(reader->read(region, 0, count, window.data()));
    for (std::uint64_t page = 0; page < count; ++page) {
      const std::byte* const content = window.data() + page * kPageSize;
      if (found[page].file == nullptr) continue;
      std::copy_n(content, kPageSize, memory[{region, page}].begin());
      MIGRATE_TRY(reader->read_around(
          region, page, 8, [&](std::uint64_t number, const std::byte* again) -> Status {
            require(number != page || std::memcmp(again, content, kPageSize) == 0);
            return {};
          }));
    }
  }
  return memory;
}

Result<Memory> read_stream(int fd) {
  Memory memory;
  MIGRATE_ASSIGN(const auto reader, ImageStreamReader::create(fd));
  MIGRATE_TRY(reader->read_all(
      {.write = [&](std::uint16_t region, std::uint64_t page, const std::byte* content) -> Status {
         std::copy_n(content, kPageSize, memory[{region, page}].begin());
         return {};
       },
       .read = [&](std::uint16_t region, std::uint64_t page, std::byte* into) -> Status {
         const Content& content = memory.at({region, page});
         std::copy(content.begin(), content.end(), into);
         return {};
       },
       .zero = [&](std::uint16_t region, std::uint64_t page) -> Status {
         memory.erase({region, page});
         return {};
       }}));
  return memory;
}

void read_image(std::span<const std::byte> image) {
  const Fd fd(::memfd_create("image", MFD_CLOEXEC));
  require(fd.valid());
  require(::write(fd.get(), image.data(), image.size()) == static_cast<ssize_t>(image.size()));
  require(::lseek(fd.get(), 0, SEEK_SET) == 0);
  const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
  const auto pages = read_pages(path);
  const auto verified = verify_image(path, {}, 1);
  const auto streamed = read_stream(fd.get());
  if (verified) require(inspect_image(path).has_value() && pages.has_value());
  if (!pages || !streamed) return;
  for (const auto& [place, content] : *pages) require(streamed->at(place) == content);
  for (const auto& [place, content] : *streamed) {
    if (place.second < kPagesMax) require(pages->contains(place));
  }
}

}  // namespace
}  // namespace migrate::checkpoint

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto bytes = migrate::fuzz::input(data, size).subspan(1);
  std::vector<std::byte> image(bytes.begin(), bytes.end());
  if ((data[0] & 1) != 0) migrate::checkpoint::seal_again(image);
  migrate::checkpoint::read_image(image);
  return 0;
}
