#include "migrate/result.hpp"

#include <cstdio>
#include <system_error>

namespace migrate {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInternal:
      return "internal";
    case ErrorCode::kInvalidArgument:
      return "invalid-argument";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kConnectFailed:
      return "connect-failed";
    case ErrorCode::kTimeout:
      return "timeout";
    case ErrorCode::kLinkLost:
      return "link-lost";
    case ErrorCode::kProtocol:
      return "protocol";
    case ErrorCode::kVersionMismatch:
      return "version-mismatch";
    case ErrorCode::kIntegrity:
      return "integrity";
    case ErrorCode::kIncompatible:
      return "incompatible";
    case ErrorCode::kNoMemory:
      return "no-memory";
    case ErrorCode::kNameTaken:
      return "name-taken";
    case ErrorCode::kAddressInUse:
      return "address-in-use";
    case ErrorCode::kCancelled:
      return "cancelled";
    case ErrorCode::kGuest:
      return "guest";
    case ErrorCode::kNotConverging:
      return "not-converging";
    case ErrorCode::kLeaseExpired:
      return "lease-expired";
    case ErrorCode::kUnauthorized:
      return "unauthorized";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kNotFound:
      return "not-found";
    case ErrorCode::kBusy:
      return "busy";
    case ErrorCode::kUncertain:
      return "uncertain";
    case ErrorCode::kGuestLost:
      return "guest-lost";
    case ErrorCode::kPermission:
      return "permission";
  }
  return "unknown";
}

std::string_view to_string(Phase phase) {
  switch (phase) {
    case Phase::kNone:
      return "none";
    case Phase::kSetup:
      return "setup";
    case Phase::kPreflight:
      return "preflight";
    case Phase::kRounds:
      return "rounds";
    case Phase::kQuiesce:
      return "quiesce";
    case Phase::kFinalSync:
      return "final_sync";
    case Phase::kStateSave:
      return "state_save";
    case Phase::kFinalPages:
      return "final_pages";
    case Phase::kVerify:
      return "verify";
    case Phase::kStateLoad:
      return "state_load";
    case Phase::kHandover:
      return "handover";
    case Phase::kStart:
      return "start";
    case Phase::kRelease:
      return "release";
    case Phase::kPostcopy:
      return "postcopy";
  }
  return "unknown";
}

std::string_view to_string(Side side) {
  switch (side) {
    case Side::kNone:
      return "none";
    case Side::kSource:
      return "source";
    case Side::kTarget:
      return "target";
  }
  return "unknown";
}

std::string Error::to_text() const {
  std::string text;
  if (phase != Phase::kNone) text.append(to_string(phase)).append(": ");
  text += message;
  if (sys_errno != 0) {
    text.append(" (").append(std::generic_category().message(sys_errno)).append(")");
  }
  if (!remedy.empty()) text.append("; ").append(remedy);
  return text;
}

Error make_error(ErrorCode code, std::string message) {
  Error error;
  error.code = code;
  error.message = std::move(message);
  return error;
}

Error make_errno_error(ErrorCode code, int sys_errno, std::string message) {
  Error error = make_error(code, std::move(message));
  error.sys_errno = sys_errno;
  return error;
}

void detail::check_failed(const char* expression, const char* file, int line) noexcept {
  std::fprintf(stderr, "migrate: %s:%d: check failed: %s\n", file, line, expression);
  std::abort();
}

}  // namespace migrate
