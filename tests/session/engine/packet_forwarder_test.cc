// The forwarder alone, on a real socket whose other end reads when the test says so.
#include "session/packet_forwarder.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>

namespace migrate::session {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::seconds kPatience{30};

/// Has always more.
class Flood final : public PacketSource {
 public:
  explicit Flood(std::size_t frame_bytes) : frame_(frame_bytes) {}
  Result<std::vector<GuestFrame>> take_waiting(std::size_t frames_max, std::size_t) override {
    taken += frames_max;
    return std::vector<GuestFrame>(frames_max, GuestFrame{0, frame_});
  }
  void give_back(std::vector<GuestFrame> frames) override { back += frames.size(); }
  std::size_t taken = 0, back = 0;

 private:
  const std::vector<std::byte> frame_;
};

class PacketForwarderTest : public ::testing::Test {
 protected:
  void SetUp() override { connect({}); }
  void connect(const SocketOptions& options) {
    auto acceptor = make_tcp_acceptor("127.0.0.1", "0", options).value();
    const std::string address = acceptor->address();
    const auto connector =
        make_tcp_connector("127.0.0.1", address.substr(address.rfind(':') + 1), options);
    near_ = std::make_unique<RecordChannel>(connector->connect(kPatience).value());
    far_ = std::make_unique<RecordChannel>(acceptor->accept(kPatience).value());
    wire::SessionRandom random;
    random.bytes.fill(std::byte{7});
    for (const auto& end : {near_.get(), far_.get()}) end->set_hasher(wire::Hasher(random, random));
  }
  void run(PacketForwarder& forwarder, std::chrono::milliseconds time) {
    forwarder.run(*near_, system_clock().now() + time);
  }
  /// How many came whole before RELEASED; nullopt when that did not.
  std::optional<std::uint64_t> frames_before_released() {
    for (std::uint64_t frames = 0;; ++frames) {
      auto record = far_->receive(kPatience);
      if (!record) return std::nullopt;
      if (record->header.type == wire::RecordType::kReleased) return frames;
      if (!wire::decode<wire::Forward>(record->body)) return std::nullopt;
    }
  }

  std::unique_ptr<RecordChannel> near_, far_;
};

TEST_F(PacketForwarderTest, ATargetThatStopsReadingStillHearsWhatComesAfterTheWindow) {
  SocketOptions small;
  small.send_buffer_bytes = small.receive_buffer_bytes = 128 << 10;
  for (const std::size_t bytes : {1514u, 65'553u}) {
    connect(small);
    Flood source(bytes);
    PacketForwarder forwarder(&source, system_clock());
    forwarder.started();
    // Until neither socket holds any more: then no more is taken.
    std::size_t taken = 0;
    do {
      taken = source.taken;
      run(forwarder, 20ms);
    } while (source.taken != taken);
    forwarder.stop();
    ASSERT_TRUE(near_->send(wire::Released{1}, 0ms)) << "there is room for it";
    EXPECT_GT(forwarder.counts().frames, 0u);
    EXPECT_GT(forwarder.counts().dropped, 0u);
    EXPECT_EQ(forwarder.counts().frames + forwarder.counts().dropped, source.taken);
    EXPECT_EQ(frames_before_released(), forwarder.counts().frames) << bytes;
  }
}

TEST_F(PacketForwarderTest, UntilStartedSoMuchIsSentAndNoMore) {
  for (const std::size_t bytes : {60u, 1514u, 65'553u}) {
    Flood source(bytes);
    PacketForwarder forwarder(&source, system_clock());
    run(forwarder, 50ms);
    const auto sent = forwarder.counts();
    EXPECT_EQ(sent.frames, bytes == 60 ? 128 : (128 << 10) / bytes);
    EXPECT_LE(sent.bytes, 128u << 10);
    forwarder.stop();
    EXPECT_EQ(forwarder.counts().dropped, source.taken - sent.frames);
    forwarder.give_back();
    EXPECT_EQ(source.back, source.taken) << "sent or not";
    EXPECT_EQ(forwarder.counts().dropped, 0u);
    ASSERT_TRUE(near_->send(wire::Released{1}, 0ms));
    EXPECT_EQ(frames_before_released(), sent.frames);
  }
}

}  // namespace
}  // namespace migrate::session
