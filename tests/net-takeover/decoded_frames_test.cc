// What other programs read in the frames: tshark's and tcpdump's decoders, where they are
// installed.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "net-takeover/frames.hpp"
#include "tests/tools/scratch_folder.hpp"

namespace migrate::takeover {
namespace {

void put_u32(std::ofstream& file, std::uint32_t value) {
  file.write(reinterpret_cast<const char*>(&value), sizeof value);
}

/// A capture file as of libpcap, in this host's byte order, Ethernet.
void write_capture(const std::string& path, const std::vector<Frame>& frames) {
  std::ofstream file(path, std::ios::binary);
  put_u32(file, 0xa1b2c3d4);
  put_u32(file, 2 | 4 << 16);
  for (const std::uint32_t value : {0u, 0u, 65535u, 1u}) put_u32(file, value);
  for (const Frame& frame : frames) {
    const auto bytes = static_cast<std::uint32_t>(frame.bytes.size());
    for (const std::uint32_t value : {0u, 0u, bytes, bytes}) put_u32(file, value);
    file.write(reinterpret_cast<const char*>(frame.bytes.data()), bytes);
  }
}

std::string output_of(const std::string& command) {
  FILE* const pipe = ::popen((command + " 2>/dev/null").c_str(), "re");
  std::string text;
  char chunk[512];
  while (const auto got = std::fread(chunk, 1, sizeof chunk, pipe)) text.append(chunk, got);
  ::pclose(pipe);
  return text;
}

class DecodedFrames : public ::testing::Test {
 protected:
  void decode(const std::string& program, const std::string& arguments) {
    if (output_of("command -v " + program).empty()) GTEST_SKIP() << program << " is not installed";
    const MacAddress mac = *parse_mac("52:54:00:12:34:56");
    const std::vector<IpAddress> ips = {*parse_ip("192.0.2.7"), *parse_ip("2001:db8::7")};
    auto frames = frames_of(mac, ips, std::nullopt);
    for (Frame& frame : frames_of(mac, ips, 42)) frames.push_back(std::move(frame));
    frames.push_back(reverse_request(mac, std::nullopt));
    const std::string path = (scratch_.path() / "frames.pcap").string();
    write_capture(path, frames);
    text_ = output_of(program + " " + arguments + " -r " + path);
    ASSERT_NE(text_, "");
  }
  std::size_t count(const std::string& words) const {
    std::size_t found = 0;
    for (auto at = text_.find(words); at != std::string::npos; at = text_.find(words, at + 1)) {
      ++found;
    }
    return found;
  }

  tool::testing::ScratchFolder scratch_;
  std::string text_;
};

TEST_F(DecodedFrames, TsharkReadsThemWithGoodChecksums) {
  decode("tshark", "-V -o icmpv6.check_checksum:TRUE");
  if (IsSkipped()) return;
  EXPECT_EQ(count("[Is gratuitous: True]"), 4u) << text_;
  EXPECT_EQ(count("[Checksum Status: Good]"), 2u) << text_;
  EXPECT_EQ(count("Malformed"), 0u) << text_;
}

TEST_F(DecodedFrames, TcpdumpReadsThemWithGoodChecksums) {
  decode("tcpdump", "-vv -n -e");
  if (IsSkipped()) return;
  EXPECT_EQ(count("Reply 192.0.2.7 is-at 52:54:00:12:34:56"), 2u) << text_;
  EXPECT_EQ(count("[icmp6 sum ok]"), 2u) << text_;
  EXPECT_EQ(count("Flags [override]"), 2u) << text_;
  EXPECT_EQ(count("vlan 42"), 3u) << text_;
  EXPECT_EQ(count("Reverse Request who-is 52:54:00:12:34:56"), 1u) << text_;
}

}  // namespace
}  // namespace migrate::takeover
