#include "adapters/kvm/vmm/devices/virtio_blk.hpp"

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "adapters/kvm/vmm/devices/chain_io.hpp"
#include "base/log.hpp"

namespace migrate::vmm {
namespace {

constexpr std::uint64_t kHeaderBytes = 16;
// A chain's parts without header and status.
constexpr std::uint32_t kSegmentsMax = kQueueSizeMax - 2;
// For one discard or zeroing: 1 GiB, so that a request does not take forever.
constexpr std::uint32_t kRangeSectorsMax = (1u << 30) / kSectorBytes;

constexpr std::uint64_t bit(unsigned number) { return std::uint64_t{1} << number; }

struct Header {
  std::uint32_t type = 0;
  std::uint32_t reserved = 0;
  std::uint64_t sector = 0;
};
static_assert(sizeof(Header) == kHeaderBytes);

struct RangeSegment {
  std::uint64_t sector = 0;
  std::uint32_t sectors = 0;
  std::uint32_t flags = 0;
};

template <typename T>
void put(std::span<std::byte> config, std::size_t offset, T value) {
  std::memcpy(config.data() + offset, &value, sizeof value);
}

}  // namespace

struct VirtioBlk::Request {
  const Chain& chain;
  Header header;
  std::uint64_t to_device = 0;  ///< Bytes of data the device reads, after the header.
  std::uint64_t to_guest = 0;   ///< Bytes of data it may write, before the status.
};

VirtioBlk::VirtioBlk(std::string name, std::string identity, const GuestRam& ram,
                     const DiskFile& disk)
    : name_(std::move(name)), identity_(std::move(identity)), ram_(ram), disk_(disk) {
  fill_config();
}

Result<std::unique_ptr<VirtioBlk>> VirtioBlk::create(std::string name, std::string identity,
                                                     const GuestRam& ram, const DiskFile& disk) {
  std::unique_ptr<VirtioBlk> made(new VirtioBlk(std::move(name), std::move(identity), ram, disk));
  MIGRATE_ASSIGN(made->worker_,
                 DeviceWorker::create(made->name_, [raw = made.get()] { return raw->work(); }));
  return made;
}

VirtioBlk::~VirtioBlk() = default;

std::uint32_t VirtioBlk::type() const { return VIRTIO_ID_BLOCK; }

std::uint64_t VirtioBlk::features() const {
  const std::uint64_t any =
      bit(VIRTIO_BLK_F_SEG_MAX) | bit(VIRTIO_BLK_F_BLK_SIZE) | bit(VIRTIO_BLK_F_FLUSH);
  return any | (disk_.read_only() ? bit(VIRTIO_BLK_F_RO)
                                  : bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES));
}

void VirtioBlk::fill_config() {
  static_assert(offsetof(virtio_blk_config, unused1) + 3 == kConfigBytes);
  put(config_, offsetof(virtio_blk_config, capacity), disk_.sectors());
  put(config_, offsetof(virtio_blk_config, seg_max), kSegmentsMax);
  put(config_, offsetof(virtio_blk_config, blk_size), kSectorBytes);
  put(config_, offsetof(virtio_blk_config, num_queues), std::uint16_t{1});
  if (disk_.read_only()) return;
  put(config_, offsetof(virtio_blk_config, max_discard_sectors), kRangeSectorsMax);
  put(config_, offsetof(virtio_blk_config, max_discard_seg), std::uint32_t{1});
  put(config_, offsetof(virtio_blk_config, discard_sector_alignment),
      std::uint32_t{4096 / kSectorBytes});
  put(config_, offsetof(virtio_blk_config, max_write_zeroes_sectors), kRangeSectorsMax);
  put(config_, offsetof(virtio_blk_config, max_write_zeroes_seg), std::uint32_t{1});
  put(config_, offsetof(virtio_blk_config, write_zeroes_may_unmap), std::uint8_t{1});
}

void VirtioBlk::start(VirtioTransport& transport, std::uint64_t features,
                      std::span<Virtqueue> queues) {
  transport_ = &transport;
  queue_ = &queues.front();
  flushes_ = (features & bit(VIRTIO_BLK_F_FLUSH)) != 0;
  broken_ = error_logged_ = false;
  worker_->start();
}

DeviceWorker::Next VirtioBlk::work() {
  while (worker_->go_on() && !broken_ && queue_->started()) {
    const auto worked = work_on_one();
    if (!worked) {
      broken_ = true;
      transport_->needs_reset(worked.error().message);
    } else if (!*worked) {
      break;
    }
  }
  return {};
}

/// False: there is none, and the guest will notify.
Result<bool> VirtioBlk::work_on_one() {
  MIGRATE_ASSIGN(const bool taken, queue_->take(chain_));
  if (!taken) return queue_->await_notification();
  MIGRATE_ASSIGN(const std::uint32_t written, serve(chain_));
  queue_->complete(chain_, written);
  if (queue_->wants_interrupt()) transport_->interrupt();
  return true;
}

/// How many bytes of the chain were written, the status at its end among them.
Result<std::uint32_t> VirtioBlk::serve(const Chain& chain) {
  if (chain.readable_bytes < kHeaderBytes || chain.writable_bytes < 1) {
    return make_error(ErrorCode::kGuest, "a disk request without header or status");
  }
  Request request{chain, {}, chain.readable_bytes - kHeaderBytes, chain.writable_bytes - 1};
  copy_from(ram_, chain.readable, 0, std::as_writable_bytes(std::span(&request.header, 1)));
  const auto status = static_cast<std::byte>(serve(request));
  copy_to(ram_, chain.writable, request.to_guest, std::span(&status, 1));
  const bool reads =
      request.header.type == VIRTIO_BLK_T_IN || request.header.type == VIRTIO_BLK_T_GET_ID;
  return reads ? chain.writable_bytes : std::uint32_t{1};
}

std::uint8_t VirtioBlk::serve(const Request& request) {
  switch (request.header.type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
      return transfer(request);
    case VIRTIO_BLK_T_FLUSH:
      return done(disk_.flush(), "flushed");
    case VIRTIO_BLK_T_GET_ID:
      return identify(request);
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
      return range_command(request);
    default:
      return VIRTIO_BLK_S_UNSUPP;
  }
}

bool VirtioBlk::on_disk(std::uint64_t sector, std::uint64_t bytes) const {
  return bytes % kSectorBytes == 0 && sector <= disk_.sectors() &&
         bytes / kSectorBytes <= disk_.sectors() - sector;
}

std::uint8_t VirtioBlk::transfer(const Request& request) {
  const bool writes = request.header.type == VIRTIO_BLK_T_OUT;
  const std::uint64_t bytes = writes ? request.to_device : request.to_guest;
  if (!on_disk(request.header.sector, bytes) || (writes && disk_.read_only())) {
    return VIRTIO_BLK_S_IOERR;
  }
  const std::uint64_t offset = request.header.sector * kSectorBytes;
  if (!writes) {
    auto memory = memory_of(ram_, request.chain.writable, 0, bytes);
    return done(disk_.read(memory, offset), "read");
  }
  auto memory = memory_of(ram_, request.chain.readable, kHeaderBytes, bytes);
  const int error = disk_.write(memory, offset);
  if (error != 0 || flushes_) return done(error, "written");
  return done(disk_.flush(), "flushed");
}

std::uint8_t VirtioBlk::range_command(const Request& request) {
  const bool zeroes = request.header.type == VIRTIO_BLK_T_WRITE_ZEROES;
  RangeSegment range;
  if (disk_.read_only() || request.to_device != sizeof range) return VIRTIO_BLK_S_IOERR;
  copy_from(ram_, request.chain.readable, kHeaderBytes,
            std::as_writable_bytes(std::span(&range, 1)));
  const bool unmap = (range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0;
  const bool known = (range.flags & ~VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) == 0;
  if (!known || (unmap && !zeroes)) return VIRTIO_BLK_S_UNSUPP;
  const std::uint64_t bytes = std::uint64_t{range.sectors} * kSectorBytes;
  if (range.sectors > kRangeSectorsMax || !on_disk(range.sector, bytes)) return VIRTIO_BLK_S_IOERR;
  const std::uint64_t offset = range.sector * kSectorBytes;
  int error = zeroes ? disk_.write_zeroes(offset, bytes, unmap) : disk_.discard(offset, bytes);
  if (error == 0 && zeroes && !flushes_) error = disk_.flush();
  return done(error, zeroes ? "zeroed" : "discarded");
}

/// The bytes past the identity are zero.
std::uint8_t VirtioBlk::identify(const Request& request) {
  std::array<std::byte, VIRTIO_BLK_ID_BYTES> text{};
  std::memcpy(text.data(), identity_.data(), std::min(identity_.size(), text.size()));
  const std::size_t count = std::min<std::uint64_t>(text.size(), request.to_guest);
  copy_to(ram_, request.chain.writable, 0, std::span(text).first(count));
  return VIRTIO_BLK_S_OK;
}

/// The guest's kernel says the rest; one line is enough for the operator.
std::uint8_t VirtioBlk::done(int error, const char* what) {
  if (error == 0) return VIRTIO_BLK_S_OK;
  if (!error_logged_) {
    error_logged_ = true;
    const Error failed = make_errno_error(
        ErrorCode::kIo, error, name_ + ": the disk image " + disk_.path() + " cannot be " + what);
    log_line(LogLevel::kError, failed.to_text());
  }
  return VIRTIO_BLK_S_IOERR;
}

/// sectors u64, read only u8.
void VirtioBlk::save(SectionBytes& bytes) const {
  bytes.number(disk_.sectors()).number(static_cast<std::uint8_t>(disk_.read_only()));
}

Status VirtioBlk::check(SectionCursor& cursor) const {
  MIGRATE_ASSIGN(const auto sectors, cursor.number<std::uint64_t>());
  MIGRATE_ASSIGN(const auto read_only, cursor.number<std::uint8_t>());
  if (read_only > 1) return cursor.bad("has an impossible disk");
  if (sectors == disk_.sectors() && (read_only == 1) == disk_.read_only()) return {};
  return make_error(ErrorCode::kIncompatible,
                    "the guest's disk " + name_ + " has " + std::to_string(sectors) +
                        (read_only == 1 ? " read-only" : "") + " sectors, and " + disk_.path() +
                        " has " + std::to_string(disk_.sectors()) +
                        (disk_.read_only() ? " read-only ones" : ""))
      .advise("give the target the image the source uses, with the same options");
}

}  // namespace migrate::vmm
