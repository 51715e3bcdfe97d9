#include "exit_code.hpp"

namespace migrate::tool {

ExitCode exit_code(Outcome outcome) {
  switch (outcome) {
    case Outcome::kDone:
      return ExitCode::kDone;
    case Outcome::kFailed:
      return ExitCode::kFailed;
    case Outcome::kRefused:
      return ExitCode::kRefused;
    case Outcome::kCancelled:
      return ExitCode::kCancelled;
    case Outcome::kUncertain:
      return ExitCode::kUncertain;
    case Outcome::kLost:
      return ExitCode::kLost;
  }
  return ExitCode::kFailed;
}

ExitCode exit_code(const Error& error) {
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
      return ExitCode::kUsage;
    case ErrorCode::kIncompatible:
      return ExitCode::kRefused;
    case ErrorCode::kCancelled:
      return ExitCode::kCancelled;
    case ErrorCode::kUncertain:
      return ExitCode::kUncertain;
    case ErrorCode::kGuestLost:
      return ExitCode::kLost;
    default:
      return ExitCode::kFailed;
  }
}

}  // namespace migrate::tool
