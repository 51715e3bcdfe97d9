#include <linux/serial_reg.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/kvm/vmm/devices/serial_16550.hpp"
#include "tests/vmm_devices/device_fixture.hpp"

namespace migrate::vmm::test {
namespace {

class SerialTest : public ::testing::Test {
 protected:
  std::size_t type(std::string_view text) {
    return serial_.input(std::as_bytes(std::span(text.data(), text.size())));
  }
  std::string read_all() {
    std::string text;
    while ((in8(serial_, UART_LSR) & UART_LSR_DR) != 0) {
      text += static_cast<char>(in8(serial_, UART_RX));
    }
    return text;
  }

  FakeLine line_;
  std::string sent_;
  Serial16550 serial_{line_, [this](std::span<const std::byte> bytes) {
                        for (const std::byte byte : bytes) sent_ += static_cast<char>(byte);
                      }};
};

/// What Linux's 8250 driver does to find out what it has before it.
TEST_F(SerialTest, ADriverThatProbesFindsA16550A) {
  out8(serial_, UART_IER, 0);
  EXPECT_EQ(in8(serial_, UART_IER) & 0x0f, 0);
  out8(serial_, UART_IER, 0x0f);
  EXPECT_EQ(in8(serial_, UART_IER) & 0x0f, 0x0f);
  out8(serial_, UART_IER, 0);

  out8(serial_, UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS);
  EXPECT_EQ(in8(serial_, UART_MSR) & 0xf0, UART_MSR_DCD | UART_MSR_CTS);
  out8(serial_, UART_MCR, 0);

  out8(serial_, UART_LCR, UART_LCR_CONF_MODE_B);
  out8(serial_, UART_EFR, 0);
  out8(serial_, UART_LCR, 0);
  out8(serial_, UART_FCR, UART_FCR_ENABLE_FIFO);
  EXPECT_EQ(in8(serial_, UART_IIR) >> 6, 3);

  // No enhanced registers of a 16650, no 64 bytes of a 16750, no sleep mode of an XScale.
  out8(serial_, UART_LCR, UART_LCR_CONF_MODE_A);
  EXPECT_NE(in8(serial_, UART_EFR), 0);
  out8(serial_, UART_LCR, UART_LCR_CONF_MODE_B);
  EXPECT_NE(in8(serial_, UART_EFR), 0);
  out8(serial_, UART_LCR, UART_LCR_CONF_MODE_A);
  out8(serial_, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR7_64BYTE);
  EXPECT_EQ(in8(serial_, UART_IIR) >> 5, 6);
  out8(serial_, UART_LCR, 0);
  out8(serial_, UART_IER, UART_IER_UUE);
  EXPECT_EQ(in8(serial_, UART_IER), 0);
}

TEST_F(SerialTest, WhatTheGuestWritesIsSentAndTheTransmitterIsEmptyAgain) {
  for (const char character : std::string("hello")) out8(serial_, UART_TX, character);
  EXPECT_EQ(sent_, "hello");
  EXPECT_EQ(in8(serial_, UART_LSR), UART_LSR_TEMT | UART_LSR_THRE);
  EXPECT_FALSE(line_.high());
}

TEST_F(SerialTest, AnEmptyTransmitterInterruptsUntilItIsSeen) {
  out8(serial_, UART_IER, UART_IER_THRI);
  EXPECT_TRUE(line_.high());
  EXPECT_EQ(in8(serial_, UART_IIR) & 0x0f, UART_IIR_THRI);
  EXPECT_FALSE(line_.high());
  EXPECT_EQ(in8(serial_, UART_IIR) & 0x0f, UART_IIR_NO_INT);
  out8(serial_, UART_TX, 'x');
  EXPECT_TRUE(line_.high());
  // Whoever listens anew is told anew: Linux's driver looks for that at its start.
  EXPECT_EQ(in8(serial_, UART_IIR) & 0x0f, UART_IIR_THRI);
  out8(serial_, UART_IER, 0);
  out8(serial_, UART_IER, UART_IER_THRI);
  EXPECT_EQ(in8(serial_, UART_IIR) & 0x0f, UART_IIR_THRI);
}

TEST_F(SerialTest, InputInterruptsUntilItIsRead) {
  out8(serial_, UART_FCR, UART_FCR_ENABLE_FIFO);
  out8(serial_, UART_IER, UART_IER_RDI | UART_IER_THRI);
  (void)in8(serial_, UART_IIR);
  EXPECT_EQ(type("ab"), 2u);
  EXPECT_TRUE(line_.high());
  EXPECT_EQ(in8(serial_, UART_IIR) & 0x0f, UART_IIR_RDI);
  EXPECT_TRUE(line_.high());
  EXPECT_EQ(read_all(), "ab");
  EXPECT_FALSE(line_.high());
}

TEST_F(SerialTest, MoreInputThanTheFifoHoldsWaitsAndNothingIsLost) {
  out8(serial_, UART_FCR, UART_FCR_ENABLE_FIFO);
  const std::string text(5000, 'y');
  EXPECT_EQ(type(text), Serial16550::kWaitingBytesMax);
  EXPECT_EQ(type("z"), 1u) << "sixteen have gone on into the FIFO";
  const std::string read = read_all();
  EXPECT_EQ(read, std::string(Serial16550::kWaitingBytesMax, 'y') + "z");
  EXPECT_EQ(in8(serial_, UART_LSR) & UART_LSR_OE, 0);
}

TEST_F(SerialTest, ALoopGivesBackWhatIsSentAndShutsOutTheLine) {
  out8(serial_, UART_FCR, UART_FCR_ENABLE_FIFO);
  out8(serial_, UART_MCR, UART_MCR_LOOP);
  type("from outside");
  for (int i = 0; i < 17; ++i) out8(serial_, UART_TX, 'a' + i);
  EXPECT_EQ(in8(serial_, UART_LSR) & UART_LSR_OE, UART_LSR_OE);
  EXPECT_EQ(in8(serial_, UART_LSR) & UART_LSR_OE, 0) << "reading it takes the error";
  EXPECT_EQ(read_all(), "abcdefghijklmnop");
  EXPECT_EQ(sent_, "");
  out8(serial_, UART_MCR, 0);
  EXPECT_EQ(read_all(), "from outside");
}

TEST_F(SerialTest, ChangesOfTheModemLinesAreToldOnce) {
  out8(serial_, UART_MCR, UART_MCR_LOOP);
  (void)in8(serial_, UART_MSR);
  out8(serial_, UART_IER, UART_IER_MSI);
  EXPECT_FALSE(line_.high());
  out8(serial_, UART_MCR, UART_MCR_LOOP | UART_MCR_DTR);
  EXPECT_TRUE(line_.high());
  EXPECT_EQ(in8(serial_, UART_IIR) & 0x0f, UART_IIR_MSI);
  EXPECT_EQ(in8(serial_, UART_MSR), UART_MSR_DSR | UART_MSR_DDSR);
  EXPECT_FALSE(line_.high());
  EXPECT_EQ(in8(serial_, UART_MSR), UART_MSR_DSR);
}

TEST_F(SerialTest, TheDivisorHidesBehindItsLatch) {
  out8(serial_, UART_LCR, UART_LCR_DLAB);
  out8(serial_, UART_DLL, 1);
  out8(serial_, UART_DLM, 2);
  out8(serial_, UART_LCR, UART_LCR_WLEN8);
  EXPECT_EQ(in8(serial_, UART_IER), 0);
  out8(serial_, UART_SCR, 0xa5);
  EXPECT_EQ(in8(serial_, UART_SCR), 0xa5);
  out8(serial_, UART_LCR, UART_LCR_DLAB);
  EXPECT_EQ(in8(serial_, UART_DLL), 1);
  EXPECT_EQ(in8(serial_, UART_DLM), 2);
  EXPECT_EQ(sent_, "");
}

TEST_F(SerialTest, ItsStateMovesWithInputAndInterrupt) {
  out8(serial_, UART_FCR, UART_FCR_ENABLE_FIFO);
  out8(serial_, UART_IER, UART_IER_RDI);
  out8(serial_, UART_SCR, 0x77);
  type("twenty characters of.");
  FakeLine there;
  Serial16550 moved(there, [](std::span<const std::byte>) {});
  ASSERT_TRUE(load(moved, saved(serial_)));
  moved.resume();
  EXPECT_TRUE(there.high());
  EXPECT_EQ(in8(moved, UART_SCR), 0x77);
  std::string text;
  while ((in8(moved, UART_LSR) & UART_LSR_DR) != 0) {
    text += static_cast<char>(in8(moved, UART_RX));
  }
  EXPECT_EQ(text, "twenty characters of.");
  EXPECT_FALSE(there.high());
}

TEST_F(SerialTest, ASectionThatNoUartWritesIsRefused) {
  const auto good = saved(serial_);
  ASSERT_TRUE(load(serial_, good));
  for (std::size_t size = 0; size < good.second.size(); ++size) {
    auto cut = good;
    cut.second.resize(size);
    EXPECT_FALSE(load(serial_, cut)) << size;
  }
  auto longer = good;
  longer.second.push_back(std::byte{0});
  EXPECT_FALSE(load(serial_, longer));
  for (const std::size_t wrong : {0u, 1u, 3u, 4u, 9u, 10u}) {
    auto bad = good;
    bad.second[wrong] = std::byte{0xff};
    const Status loaded = load(serial_, bad);
    ASSERT_FALSE(loaded) << wrong;
    EXPECT_EQ(loaded.error().code, ErrorCode::kProtocol);
  }
  auto newer = good;
  newer.first.version = 2;
  EXPECT_FALSE(load(serial_, newer));
}

}  // namespace
}  // namespace migrate::vmm::test
