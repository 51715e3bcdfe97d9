// A disk image in a temporary folder, removed at the end.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace migrate::vmm::test {

class TemporaryDisk {
 public:
  explicit TemporaryDisk(std::uint64_t bytes) {
    std::string folder = std::filesystem::temp_directory_path() / "migrate-disk-XXXXXX";
    MIGRATE_CHECK(::mkdtemp(folder.data()) != nullptr);
    folder_ = folder;
    std::ofstream(path()).close();
    resize(bytes);
  }
  ~TemporaryDisk() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  TemporaryDisk(const TemporaryDisk&) = delete;
  TemporaryDisk& operator=(const TemporaryDisk&) = delete;

  [[nodiscard]] std::string path() const { return folder_ / "disk.img"; }
  [[nodiscard]] std::string folder() const { return folder_; }
  void resize(std::uint64_t bytes) const { std::filesystem::resize_file(path(), bytes); }
  [[nodiscard]] std::string text(std::uint64_t offset, std::size_t bytes) const {
    std::ifstream file(path(), std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    std::string text(bytes, '\0');
    file.read(text.data(), static_cast<std::streamsize>(bytes));
    return text;
  }
  void put(std::uint64_t offset, const std::string& text) const {
    std::fstream file(path(), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(offset));
    file << text;
  }

 private:
  std::filesystem::path folder_;
};

}  // namespace migrate::vmm::test
