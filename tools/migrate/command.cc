#include "command.hpp"

#include <cstdio>

#include "report_text.hpp"

namespace migrate::tool {
namespace {

void write(std::FILE* out, const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), out);
  std::fflush(out);
}

}  // namespace

void print_json(const Json& json) {
  write(stdout, json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

int fail(const GlobalOptions& global, const Error& error) {
  if (global.json) {
    print_json({{"error", to_json(error)}});
  } else {
    write(stderr, error_text(error));
  }
  return to_int(exit_code(error));
}

void print_report(const GlobalOptions& global, const Json& report) {
  if (global.json) return print_json(report);
  Report parsed = report_from_json(report);
  const auto error = std::exchange(parsed.error, std::nullopt);
  write(stdout, report_text(parsed));
  if (error) write(stderr, error_text(*error));
}

}  // namespace migrate::tool
