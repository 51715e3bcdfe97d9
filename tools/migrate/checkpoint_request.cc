#include "checkpoint_request.hpp"

#include <filesystem>

#include "migrate/options.hpp"
#include "request_body.hpp"

namespace migrate::tool {
namespace {

/// The guest's process stands elsewhere than who asks.
Result<std::string> take_path(const Json& json, const char* name) {
  MIGRATE_ASSIGN(std::string path, take_text(json, name));
  if (path.empty() || std::filesystem::path(path).is_absolute()) return path;
  return bad_body(std::string("'") + name + "' is no absolute path", "begin it with /");
}

}  // namespace

Result<CheckpointRequest> parse_checkpoint_request(const std::string& body) {
  MIGRATE_ASSIGN(const Json json, parse_body(body, {"path", "stream", "live", "base", "parents",
                                                    "keep_tracking", "stop", "lanes", "compress"}));
  CheckpointRequest request;
  CheckpointOptions& options = request.options;
  MIGRATE_ASSIGN(options.path, take_path(json, "path"));
  MIGRATE_ASSIGN(request.stream_path, take_path(json, "stream"));
  if (options.path.empty() == request.stream_path.empty()) {
    return bad_body("give one of 'path' and 'stream'", "see docs/control-api.md");
  }
  MIGRATE_ASSIGN(options.live, take_flag(json, "live"));
  MIGRATE_ASSIGN(options.base, take_path(json, "base"));
  MIGRATE_ASSIGN(options.search.parents, take_texts(json, "parents"));
  MIGRATE_ASSIGN(options.keep_tracking, take_flag(json, "keep_tracking"));
  MIGRATE_ASSIGN(request.stop, take_flag(json, "stop"));
  if (request.stop && options.keep_tracking) {
    return bad_body("'stop' and 'keep_tracking' exclude each other", "leave one out");
  }
  if (const auto lanes = json.find("lanes"); lanes != json.end()) {
    if (!lanes->is_number_unsigned() || lanes->get<std::uint64_t>() > kImageLanesMax) {
      return bad_body("'lanes' is not a number of 0 to 64", "0 takes one a processor");
    }
    options.lanes = lanes->get<unsigned>();
  }
  if (json.contains("compress")) {
    MIGRATE_ASSIGN(const std::string compress, take_text(json, "compress"));
    // The names are the sending side's.
    OutgoingOptions parsed;
    MIGRATE_TRY(set_option(parsed, "compress", compress));
    options.compress = parsed.compress;
  }
  return request;
}

}  // namespace migrate::tool
