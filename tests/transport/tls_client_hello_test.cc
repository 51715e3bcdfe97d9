// What a listener reads of a stranger's first bytes: the session where one is named, and never more
// than was said.
#include "transport/tls_client_hello.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "tests/transport/channel_io.hpp"
#include "tests/transport/tls_client_hello_bytes.hpp"
#include "tests/transport/tls_files.hpp"
#include "transport/tls_context.hpp"
#include "wire/ids.hpp"

namespace migrate::test {
namespace {

using Kind = TlsClientHello::Kind;

const Bytes kSession = "0123456789abcdef0123456789abcdef";
const std::vector<Bytes> kOurNames = {"migrate/1", "migrate/1 session=" + kSession};

/// In a heap block of just that size, so that a sanitizer sees a read beyond it.
TlsClientHello read(std::string_view bytes) {
  const auto tight = std::make_unique<std::byte[]>(bytes.size());
  std::memcpy(tight.get(), bytes.data(), bytes.size());
  return read_client_hello({tight.get(), bytes.size()});
}

TEST(TlsClientHelloTest, OurOwnNamesItsSession) {
  for (const bool psk : {false, true}) {
    TlsFiles made;
    auto context = make_tls_context(TlsRole::kConnect, psk ? made.psk("key") : made.host("source"));
    ASSERT_TRUE(context) << context.error().to_text();
    auto ssl = (*context)->new_connection(kSession);
    ASSERT_TRUE(ssl);
    BIO* const out = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl->get(), BIO_new(BIO_s_mem()), out);
    SSL_do_handshake(ssl->get());
    char* data = nullptr;
    const long size = BIO_get_mem_data(out, &data);
    const std::string_view hello(data, static_cast<std::size_t>(size));
    EXPECT_LT(hello.size(), kClientHelloMax / 2) << "it must always fit";
    EXPECT_EQ(read(hello).kind, Kind::kWhole);
    EXPECT_EQ(read(hello).session, kSession);
  }
}

TEST(TlsClientHelloTest, TheSessionIsFoundWhereverItStands) {
  EXPECT_EQ(read(client_hello(kOurNames)).session, kSession);
  EXPECT_EQ(read(client_hello({{kOurNames[1], "h2", "migrate/1"}})).session, kSession);
  // Of two the first counts; whoever gets the connection goes by the same one.
  EXPECT_EQ(read(client_hello({{kOurNames[1], "migrate/1 session=ff"}})).session, kSession);
}

TEST(TlsClientHelloTest, EveryTruncationIsIncomplete) {
  const Bytes hello = client_hello(kOurNames);
  for (std::size_t size = 0; size < hello.size(); ++size) {
    const TlsClientHello got = read(std::string_view(hello).substr(0, size));
    EXPECT_EQ(got.kind, Kind::kIncomplete) << size;
    EXPECT_EQ(got.session, "") << size;
  }
}

TEST(TlsClientHelloTest, WhatFollowsIsNotLookedAt) {
  const Bytes hello = client_hello(kOurNames);
  for (const Bytes& more : {Bytes("x"), Bytes(2000, '\xff'), hello}) {
    EXPECT_EQ(read(hello + more).kind, Kind::kWhole);
    EXPECT_EQ(read(hello + more).session, kSession);
  }
}

TEST(TlsClientHelloTest, OneThatIsSpreadOverRecordsIsTheSame) {
  const Bytes message = client_hello_message(kOurNames);
  for (const std::size_t piece : {std::size_t{5}, std::size_t{17}, std::size_t{100}}) {
    Bytes records;
    for (std::size_t at = 0; at < message.size(); at += piece) {
      records += handshake_record(message.substr(at, piece));
    }
    EXPECT_EQ(read(records).kind, Kind::kWhole) << piece;
    EXPECT_EQ(read(records).session, kSession) << piece;
    for (std::size_t size = 0; size < records.size(); size += 3) {
      EXPECT_EQ(read(std::string_view(records).substr(0, size)).kind, Kind::kIncomplete) << size;
    }
  }
}

TEST(TlsClientHelloTest, WithoutANameThereIsNoSession) {
  using Names = std::optional<std::vector<Bytes>>;
  for (const Names& names :
       {Names(), Names({{"h2"}}), Names({{"migrate/1"}}), Names({{"migrate/1 session"}}),
        Names({{"migrate/1 session="}}), Names({{"Migrate/1 session=" + kSession}})}) {
    const TlsClientHello got = read(client_hello(names));
    EXPECT_EQ(got.kind, Kind::kWhole);
    EXPECT_EQ(got.session, "");
  }
}

TEST(TlsClientHelloTest, AnOddIdIsGivenAsItStands) {
  // The listener takes 32 lower-case digits and nothing else.
  for (const Bytes& id :
       {Bytes("x"), Bytes(31, '0'), Bytes(33, '0'), Bytes(32, 'G'), Bytes(32, 'A'), Bytes(8, '\0'),
        Bytes("../../etc/passwd"), Bytes(237, '\xff')}) {
    const TlsClientHello got = read(client_hello({{"migrate/1 session=" + id}}));
    EXPECT_EQ(got.kind, Kind::kWhole);
    EXPECT_EQ(got.session, id);
    EXPECT_FALSE(wire::parse_session_id(got.session)) << id;
  }
}

TEST(TlsClientHelloTest, NoWrongLengthMakesAnotherSession) {
  constexpr std::size_t HelloFaults::*kFields[] = {
      &HelloFaults::record,    &HelloFaults::message,        &HelloFaults::session_id,
      &HelloFaults::ciphers,   &HelloFaults::compression,    &HelloFaults::extensions,
      &HelloFaults::alpn_list, &HelloFaults::alpn_extension, &HelloFaults::alpn_name};
  for (const auto field : kFields) {
    for (const int wrong : {-70, -20, -3, -2, -1, 1, 2, 3, 20, 60, 200}) {
      SCOPED_TRACE(testing::Message() << "a length"
                                      << " wrong by " << wrong);
      HelloFaults faults;
      faults.*field = static_cast<std::size_t>(wrong);
      const TlsClientHello got = read(client_hello(kOurNames, faults));
      // A longer message or record is waited for; in no case is there a session that nobody named.
      EXPECT_TRUE(got.session.empty() || got.session == kSession) << got.session;
      EXPECT_NE(got.kind, Kind::kNotTls);
    }
  }
}

TEST(TlsClientHelloTest, WhatIsNoTlsIsSeenByItsFirstByte) {
  EXPECT_EQ(read("").kind, Kind::kIncomplete);
  for (int first = 0; first < 256; ++first) {
    const Bytes bytes(1, static_cast<char>(first));
    EXPECT_EQ(read(bytes).kind, first == 22 ? Kind::kIncomplete : Kind::kNotTls) << first;
  }
}

TEST(TlsClientHelloTest, ALargeOneThatNeverEndsIsGivenUp) {
  // A message of 64 KiB in records of 16 KiB: the listener looks at kClientHelloMax.
  const Bytes begin = Bytes("\x01", 1) + number(65536, 3) + Bytes(kClientHelloMax, 'x');
  const Bytes bytes = handshake_record(begin).substr(0, kClientHelloMax);
  EXPECT_EQ(read(std::string_view(bytes).substr(0, kClientHelloMax - 1)).kind, Kind::kIncomplete);
  EXPECT_EQ(read(bytes).kind, Kind::kWhole);
  EXPECT_EQ(read(bytes).session, "");
}

TEST(TlsClientHelloTest, WhatIsNoClientHelloIsLeftToTheHandshake) {
  for (const Bytes& bytes :
       {handshake_record(Bytes("\x02\0\0\1x", 5)), handshake_record(Bytes(40, '\0')),
        Bytes("\x16\x03\x01\0\0", 5) + Bytes(40, '\0'), "\x16" + Bytes(60, 'x'),
        Bytes("\x16\x03\x01\xff\xff", 5) + Bytes(100, 'x')}) {
    EXPECT_EQ(read(bytes).kind, Kind::kWhole);
    EXPECT_EQ(read(bytes).session, "");
  }
}

}  // namespace
}  // namespace migrate::test
