#include "tests/checkpoint/writer_bed.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <string_view>
#include <thread>

namespace migrate::checkpoint {
namespace {

void fill_text(std::span<std::byte> page, std::uint64_t seed) {
  constexpr std::string_view kWords[] = {"page ", "guest ", "of ", "the ", "memory ", "image "};
  std::mt19937_64 random(seed);
  for (std::size_t i = 0; i < page.size();) {
    for (const char c : kWords[random() % std::size(kWords)]) {
      if (i < page.size()) page[i++] = std::byte(c);
    }
  }
}

}  // namespace

TestFolder::TestFolder() {
  char name[] = "/tmp/migrate-image-XXXXXX";
  if (::mkdtemp(name) != nullptr) path_ = name;
}
TestFolder::~TestFolder() { std::filesystem::remove_all(path_); }
std::set<std::string> TestFolder::names() const {
  std::set<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(path_)) {
    found.insert(entry.path().filename());
  }
  return found;
}

ImageDescription description_of(const Memory& memory) {
  ImageDescription description;
  description.guest.name = "guest";
  description.guest.vcpus = 1;
  std::uint64_t first = 0;
  for (std::uint32_t i = 0; i < memory.size(); ++i) {
    const std::uint64_t pages = memory[i].size() / kPageSize;
    description.guest.regions.push_back({{0, i, 0}, {{first}, pages}, Backing::kAnonymous});
    first += pages + 16;
  }
  description.host = host_text();
  return description;
}

void fill_random(std::span<std::byte> page, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  for (std::size_t i = 0; i < page.size(); i += 8) {
    const std::uint64_t value = random();
    std::memcpy(page.data() + i, &value, 8);
  }
}
Memory mixed_memory(std::initializer_list<std::uint64_t> regions, std::uint64_t seed) {
  Memory memory;
  for (const std::uint64_t pages : regions) {
    auto& bytes = memory.emplace_back(pages * kPageSize);
    for (std::uint64_t page = 0; page < pages; ++page) {
      const std::span<std::byte> into = std::span(bytes).subspan(page * kPageSize, kPageSize);
      const std::uint64_t own = seed * 1000003 + memory.size() * 100003 + page;
      switch (page / 37 % 4) {
        case 0:
          break;
        case 1:
          fill_random(into, own);
          break;
        case 2:
          fill_text(into, own);
          break;
        default:
          fill_random(into, seed + page % 5);
      }
    }
  }
  return memory;
}

void add_all(ImageWriter& writer, const Memory& memory, unsigned lanes) {
  std::vector<std::thread> threads;
  for (unsigned number = 0; number < lanes; ++number) {
    threads.emplace_back([&, number] {
      auto lane = writer.make_lane();
      ASSERT_TRUE(lane) << lane.error().to_text();
      std::uint64_t run = 0;
      for (std::uint16_t region = 0; region < memory.size(); ++region) {
        const std::uint64_t pages = memory[region].size() / kPageSize;
        for (std::uint64_t first = 0; first < pages; first += 100, ++run) {
          if (run % lanes != number) continue;
          for (std::uint64_t page = first; page < std::min(first + 100, pages); ++page) {
            const Status added =
                (*lane)->add(region, page, memory[region].data() + page * kPageSize);
            ASSERT_TRUE(added) << added.error().to_text();
          }
        }
      }
      const Status flushed = (*lane)->flush();
      ASSERT_TRUE(flushed) << flushed.error().to_text();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::unique_ptr<ImageWriter> writer_of(std::unique_ptr<ImageOutput> output, const Memory& memory,
                                       ImageWriter::Options options) {
  const auto header = new_header(options.base.get());
  EXPECT_TRUE(header);
  ImageDescription description = description_of(memory);
  if (options.base) description.parent_path = options.base->top().path();
  auto writer = ImageWriter::create(std::move(output), *header, description, std::move(options));
  EXPECT_TRUE(writer) << writer.error().to_text();
  return writer ? std::move(*writer) : nullptr;
}
std::unique_ptr<ImageWriter> writer_of(const std::string& path, const Memory& memory,
                                       ImageWriter::Options options,
                                       const FileOutputOptions& file) {
  auto output = make_file_output(path, file);
  EXPECT_TRUE(output) << output.error().to_text();
  return output ? writer_of(std::move(*output), memory, std::move(options)) : nullptr;
}

ImageWriter::Written finish(ImageWriter& writer) {
  const auto written = writer.finish();
  EXPECT_TRUE(written) << written.error().to_text();
  return written ? *written : ImageWriter::Written{};
}

std::shared_ptr<const ImageChain> chain_of(const std::string& path) {
  auto chain = ImageChain::open(path);
  EXPECT_TRUE(chain) << chain.error().to_text();
  return chain ? *chain : nullptr;
}

void expect_memory(const std::string& path, const Memory& memory) {
  const auto chain = chain_of(path);
  ASSERT_TRUE(chain);
  auto reader = ImageReader::create(chain);
  ASSERT_TRUE(reader) << reader.error().to_text();
  std::uint64_t digest = 0;
  for (std::uint16_t region = 0; region < memory.size(); ++region) {
    std::vector<std::byte> into(memory[region].size());
    const std::uint64_t pages = into.size() / kPageSize;
    const Status read = (*reader)->read(region, 0, pages, into.data());
    ASSERT_TRUE(read) << read.error().to_text();
    for (std::uint64_t page = 0; page < pages; ++page) {
      const auto want = std::span(memory[region]).subspan(page * kPageSize, kPageSize);
      ASSERT_EQ(std::memcmp(into.data() + page * kPageSize, want.data(), kPageSize), 0)
          << "region " << region << " page " << page;
      digest += chain->digest().mix({region}, page, chain->digest().hash(want));
    }
  }
  EXPECT_EQ(chain->top().directory().digest, digest);
  EXPECT_EQ(chain->top().trailer().digest, digest);
}

Blocks walk(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::vector<char> chars((std::istreambuf_iterator<char>(in)), {});
  const auto file = std::as_bytes(std::span(chars));
  Blocks blocks;
  const auto header = parse_header(file.first(kBlockAlign));
  EXPECT_TRUE(header);
  if (!header) return blocks;
  const wire::Hasher hasher = header->hasher();
  BlockType before = BlockType::kHeader;
  for (std::uint64_t at = 0; at < file.size();) {
    const auto head = get_head(file.subspan(at).first<kBlockHeadBytes>(), at, 0);
    EXPECT_TRUE(head) << head.error().to_text();
    if (!head) return blocks;
    const auto bytes = file.subspan(at, head->length);
    EXPECT_TRUE(check_block(*head, hasher, bytes));
    const std::uint64_t used = head->payload_at() + head->payload;
    EXPECT_TRUE(
        std::ranges::all_of(bytes.subspan(used), [](std::byte b) { return b == std::byte{}; }));
    ++blocks.count[head->type];
    if (head->type == BlockType::kRaw || head->type == BlockType::kPacked) {
      EXPECT_LT(before, BlockType::kIndex);
      std::optional<std::uint64_t> last;
      for (std::uint32_t i = 0; i < head->count; ++i) {
        TableEntry entry;
        std::memcpy(&entry, bytes.data() + kBlockHeadBytes + i * sizeof(entry), sizeof(entry));
        EXPECT_TRUE(!last || entry.page > *last);
        last = entry.page;
      }
      blocks.pages += head->count;
    }
    before = head->type;
    at += head->length;
  }
  EXPECT_EQ(before, BlockType::kTrailer);
  return blocks;
}

}  // namespace migrate::checkpoint
