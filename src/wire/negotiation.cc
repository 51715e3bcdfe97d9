#include "wire/negotiation.hpp"

#include <algorithm>
#include <string>

namespace migrate::wire {
namespace {

Status check_verify(VerifyMode verify, std::uint64_t features) {
  if (verify != VerifyMode::kFull || (features & kFeatureVerifyFull) != 0) return {};
  return make_error(ErrorCode::kUnsupported, "the target cannot verify its memory in full")
      .advise("run the same version of migrate on both hosts, or leave out --verify full");
}

Status check_attempts(std::uint64_t wanted, std::uint64_t agreed) {
  if ((wanted & ~agreed & kFeatureAttempts) == 0) return {};
  return make_error(ErrorCode::kUnsupported, "the target cannot try a switchover again")
      .advise("run the same version of migrate on both hosts, or leave out --downtime-hard");
}

/// Where the strategy is nothing without it. For others it is one way of several.
Status check_postcopy(Strategy strategy, std::uint64_t features) {
  const bool needed = strategy == Strategy::kPostcopy || strategy == Strategy::kHybrid;
  if (!needed || (features & kFeaturePostcopy) != 0) return {};
  return make_error(ErrorCode::kUnsupported, "the target cannot take a guest by post-copy")
      .advise("run the same version of migrate on both hosts, or use --strategy precopy");
}

}  // namespace

Result<Welcome> negotiate(const Hello& hello, const TargetTerms& terms) {
  if (hello.page_size != kPageSize) {
    return make_error(ErrorCode::kIncompatible,
                      "the source's pages have " + std::to_string(hello.page_size) +
                          " bytes, this host's have " + std::to_string(kPageSize))
        .advise("migrate between hosts of the same page size");
  }
  Welcome welcome;
  welcome.version = std::min(hello.version_max, kVersionMax);
  welcome.features = hello.features & terms.features;
  MIGRATE_TRY(check_verify(hello.verify, welcome.features));
  MIGRATE_TRY(check_postcopy(hello.strategy, welcome.features));
  welcome.bulk_lanes = std::min(hello.bulk_lanes, terms.bulk_lanes_max);
  welcome.encodings = hello.encodings & terms.encodings;
  welcome.codecs = hello.codecs & terms.codecs;
  welcome.limits.batch_entries = std::min(hello.limits.batch_entries, terms.limits.batch_entries);
  welcome.limits.section_chunk_bytes =
      std::min(hello.limits.section_chunk_bytes, terms.limits.section_chunk_bytes);
  welcome.limits.state_bytes = terms.limits.state_bytes;
  return welcome;
}

Status check_welcome(const Hello& hello, const Welcome& welcome) {
  if (welcome.version < hello.version_min || welcome.version > hello.version_max) {
    return make_error(ErrorCode::kVersionMismatch, "the target chose version " +
                                                       std::to_string(welcome.version) +
                                                       ", which this side did not offer")
        .advise("run the same version of migrate on both hosts");
  }
  const bool more =
      (welcome.features & ~hello.features) != 0 || (welcome.encodings & ~hello.encodings) != 0 ||
      (welcome.codecs & ~hello.codecs) != 0 || welcome.bulk_lanes > hello.bulk_lanes ||
      welcome.limits.batch_entries > hello.limits.batch_entries ||
      welcome.limits.section_chunk_bytes > hello.limits.section_chunk_bytes;
  if (more) {
    return make_error(ErrorCode::kProtocol, "the target grants more than this side asked for")
        .advise("run the same version of migrate on both hosts");
  }
  MIGRATE_TRY(check_attempts(hello.features, welcome.features));
  MIGRATE_TRY(check_postcopy(hello.strategy, welcome.features));
  return check_verify(hello.verify, welcome.features);
}

}  // namespace migrate::wire
