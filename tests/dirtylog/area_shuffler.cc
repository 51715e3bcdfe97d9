#include "area_shuffler.hpp"

#include <sys/mman.h>

#include <array>
#include <cstdlib>
#include <cstring>

namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kNowhere = ~std::uint64_t{0};

class Shuffler {
 public:
  explicit Shuffler(const Shuffling& how)
      : random_(how.seed * 2 + 1),
        pieces_(how.pieces),
        places_(2 * how.pieces),
        pages_(how.huge ? 512 : 16) {
    check(pieces_ <= kPiecesMax);
    place_of_.fill(kNowhere);
    piece_at_.fill(kNowhere);
    // At once: one mapping, whose pieces become one again when they are all home.
    check(map(at(0), pieces_ * piece_bytes()));
    check(::madvise(at(0), pieces_ * piece_bytes(), how.huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) ==
          0);
    std::memset(at(0), 1, pieces_ * piece_bytes());
    for (std::uint64_t piece = 0; piece < pieces_; ++piece) put(piece, piece);
  }

  void change() {
    const std::uint64_t piece = below(pieces_);
    if (place_of_[piece] == kNowhere) return renew(piece);
    // Home again, between its neighbours: they become one mapping.
    if (place_of_[piece] != piece && below(2) == 0) return move(piece, piece);
    switch (below(10)) {
      case 0:
      case 1:
      case 2:
        return move(piece, pieces_ + below(pieces_));
      case 3:
        return move(piece, below(places_));
      case 4:
        return leave_empty(piece, below(places_));
      case 5:
        return drop(piece);
      case 6:
        return below(2) == 0 ? renew(piece) : unmap(piece);
      case 7:
        return protect(piece);
      case 8:
        return empty(piece);
      default:
        return shrink_and_grow(piece);
    }
  }

  void write() {
    const std::uint64_t piece = below(pieces_);
    if (place_of_[piece] == kNowhere) return;
    auto* words =
        reinterpret_cast<volatile std::uint64_t*>(at(place_of_[piece]) + below(pages_) * kPage);
    words[below(kPage / sizeof(*words))] = ++generation_;
  }

 private:
  static void check(bool holds) {
    if (!holds) std::abort();
  }
  [[nodiscard]] std::byte* at(std::uint64_t place) const {
    return reinterpret_cast<std::byte*>(kShuffledArea + place * piece_bytes());
  }
  static bool map(std::byte* at, std::uint64_t bytes) {
    return ::mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                  0) == at;
  }
  [[nodiscard]] std::uint64_t piece_bytes() const { return pages_ * kPage; }
  std::uint64_t below(std::uint64_t bound) {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return (random_ >> 20) % bound;
  }
  void put(std::uint64_t piece, std::uint64_t place) {
    if (place_of_[piece] != kNowhere) piece_at_[place_of_[piece]] = kNowhere;
    if (piece_at_[place] != kNowhere) place_of_[piece_at_[place]] = kNowhere;
    place_of_[piece] = place;
    piece_at_[place] = piece;
  }

  /// Over what is there.
  void move(std::uint64_t piece, std::uint64_t place) {
    const std::uint64_t from = place_of_[piece];
    if (from == place) return;
    check(::mremap(at(from), piece_bytes(), piece_bytes(), MREMAP_MAYMOVE | MREMAP_FIXED,
                   at(place)) == at(place));
    put(piece, place);
  }
  /// The pages move, and the mapping stays where it was without them.
  void leave_empty(std::uint64_t piece, std::uint64_t place) {
    const std::uint64_t from = place_of_[piece];
    if (from == place) return;
    check(::mremap(at(from), piece_bytes(), piece_bytes(),
                   MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, at(place)) == at(place));
    const std::uint64_t gone = piece_at_[place];
    put(piece, place);
    if (gone == kNowhere) {
      check(::munmap(at(from), piece_bytes()) == 0);
    } else {
      put(gone, from);
    }
  }
  void drop(std::uint64_t piece) {
    const std::uint64_t first = below(pages_);
    check(::madvise(at(place_of_[piece]) + first * kPage, (pages_ - first) * kPage,
                    MADV_DONTNEED) == 0);
  }
  void renew(std::uint64_t piece) {
    if (place_of_[piece] == kNowhere) put(piece, below(2) == 0 ? piece : below(places_));
    check(map(at(place_of_[piece]), piece_bytes()));
  }
  void unmap(std::uint64_t piece) {
    check(::munmap(at(place_of_[piece]), piece_bytes()) == 0);
    piece_at_[place_of_[piece]] = kNowhere;
    place_of_[piece] = kNowhere;
  }
  void protect(std::uint64_t piece) {
    check(::mprotect(at(place_of_[piece]), piece_bytes(), PROT_READ) == 0);
    check(::mprotect(at(place_of_[piece]), piece_bytes(), PROT_READ | PROT_WRITE) == 0);
  }
  /// Gone and back at once, as zeros.
  void empty(std::uint64_t piece) {
    check(::munmap(at(place_of_[piece]), piece_bytes()) == 0);
    check(map(at(place_of_[piece]), piece_bytes()));
  }
  void shrink_and_grow(std::uint64_t piece) {
    std::byte* const base = at(place_of_[piece]);
    const std::uint64_t kept = (1 + below(pages_ - 1)) * kPage;
    check(::mremap(base, piece_bytes(), kept, 0) == base);
    // In place: nothing else is mapped there meanwhile.
    check(::mremap(base, kept, piece_bytes(), 0) == base);
  }

  std::uint64_t random_;
  const std::uint64_t pieces_;
  const std::uint64_t places_;  ///< A home for each piece, and as many to move to.
  const std::uint64_t pages_;   ///< Of a piece.
  std::uint64_t generation_ = 1;
  std::array<std::uint64_t, kPiecesMax> place_of_{};
  std::array<std::uint64_t, 2 * kPiecesMax> piece_at_{};
};

}  // namespace

void shuffle_area(const Shuffling& how, const std::atomic<bool>& stop,
                  std::atomic<std::uint64_t>& changes) {
  Shuffler shuffler(how);
  while (!stop) {
    shuffler.change();
    for (std::uint64_t i = 0; i < how.writes && !stop; ++i) shuffler.write();
    changes.fetch_add(1);
  }
}
