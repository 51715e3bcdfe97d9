// What both sides agree on in HELLO and WELCOME. Pure.
#pragma once

#include "migrate/result.hpp"
#include "wire/messages.hpp"

namespace migrate::wire {

/// What the target offers, to be met with a HELLO.
struct TargetTerms {
  std::uint64_t features = kFeaturesKnown;
  std::uint16_t bulk_lanes_max = kBulkLanesMax;
  std::uint32_t encodings = kEncodingsBase;
  std::uint32_t codecs = kCodecsBase;
  SessionLimits limits;  ///< state_bytes: what the target takes at most.
};

/// The WELCOME for `hello`: version, features, lanes, codecs and limits as both can; random,
/// secret, boot, load_us and host are left to the caller. kIncompatible for another page size;
/// kUnsupported where the source needs what the target does not have.
[[nodiscard]] Result<Welcome> negotiate(const Hello& hello, const TargetTerms& terms);

/// At the source: `welcome` grants no more than `hello` asked for, and what is needed. kProtocol,
/// kVersionMismatch or kUnsupported.
[[nodiscard]] Status check_welcome(const Hello& hello, const Welcome& welcome);

}  // namespace migrate::wire
