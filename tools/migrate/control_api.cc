#include "control_api.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <string_view>

#include "checkpoint_request.hpp"
#include "image_json.hpp"
#include "memory_use.hpp"
#include "request_body.hpp"

namespace migrate::tool {
namespace {

HttpResponse json_response(const Json& json, int status = 200) {
  HttpResponse response;
  response.status = status;
  response.body = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  return response;
}

Json migration_json(const MigrationView& view) {
  Json json = {{"migration", view.number},
               {"target", view.target},
               {"running", view.running},
               {"progress", view.progress ? to_json(*view.progress) : Json(nullptr)},
               {"report", view.report.value_or(Json(nullptr))}};
  return json;
}

HttpResponse get_migration(GuestHost& host, const HttpRequest&) {
  if (const auto view = host.migration()) return json_response(migration_json(*view));
  return error_response(
      make_error(ErrorCode::kNotFound, "this guest has not been migrated from here"));
}

HttpResponse put_migration(GuestHost& host, const HttpRequest& request) {
  auto parsed = parse_migration_request(request.body);
  if (!parsed) return error_response(parsed.error());
  const std::string target = parsed->target.text();
  const auto number = host.start_migration(*std::move(parsed));
  if (!number) return error_response(number.error());
  return json_response({{"migration", *number}, {"target", target}}, 202);
}

HttpResponse delete_migration(GuestHost& host, const HttpRequest&) {
  if (const Status status = host.cancel_migration(); !status) return error_response(status.error());
  return json_response({{"cancelling", true}}, 202);
}

HttpResponse get_guest(GuestHost& host, const HttpRequest&) {
  return json_response(guest_json(host));
}

/// The answer to what changes the guest's state.
HttpResponse state_response(GuestHost& host, const Status& status) {
  if (!status) return error_response(status.error());
  return json_response({{"name", host.facts().name}, {"state", host.status()}});
}

HttpResponse post_pause(GuestHost& host, const HttpRequest&) {
  return state_response(host, host.pause());
}
HttpResponse post_resume(GuestHost& host, const HttpRequest&) {
  return state_response(host, host.resume());
}
HttpResponse post_stop(GuestHost& host, const HttpRequest&) {
  return state_response(host, host.stop());
}

HttpResponse post_resolve(GuestHost& host, const HttpRequest& request) {
  const auto json = parse_body(request.body, {"action", "force"});
  if (!json) return error_response(json.error());
  const auto action = json->find("action");
  if (action == json->end() || (*action != "resume" && *action != "release")) {
    return error_response(bad_body("'action' is missing or neither resume nor release",
                                   "give \"resume\" or \"release\""));
  }
  const auto force = take_flag(*json, "force");
  if (!force) return error_response(force.error());
  return state_response(host, host.resolve(*action == "resume", *force));
}

Result<TraceOptions> parse_trace_request(const std::string& body) {
  MIGRATE_ASSIGN(const Json json, parse_body(body, {"duration", "interval"}));
  TraceOptions options;
  for (const auto& [name, value] : json.items()) {
    if (!value.is_string()) {
      return bad_body("'" + name + "' is not a string", "write a time, such as \"3s\"");
    }
    MIGRATE_ASSIGN(const auto time, parse_duration(value.get<std::string>()));
    (name == "duration" ? options.duration : options.interval) = time;
  }
  return options;
}

HttpResponse post_trace(GuestHost& host, const HttpRequest& request) {
  const auto options = parse_trace_request(request.body);
  if (!options) return error_response(options.error());
  const auto trace = host.record(*options, request.connection);
  if (!trace) return error_response(trace.error());
  const auto bytes = encode_trace(*trace);
  if (!bytes) return error_response(bytes.error());
  HttpResponse response;
  response.content_type = "application/octet-stream";
  response.body.assign(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  return response;
}

HttpResponse post_checkpoint(GuestHost& host, const HttpRequest& request) {
  auto parsed = parse_checkpoint_request(request.body);
  if (!parsed) return error_response(parsed.error());
  const auto report = host.checkpoint(*std::move(parsed));
  if (!report) return error_response(report.error());
  return json_response(to_json(*report));
}

HttpResponse delete_checkpoint(GuestHost& host, const HttpRequest&) {
  if (const Status status = host.cancel_checkpoint(); !status)
    return error_response(status.error());
  return json_response({{"cancelling", true}}, 202);
}

HttpResponse delete_tracking(GuestHost& host, const HttpRequest&) {
  if (const Status status = host.end_tracking(); !status) return error_response(status.error());
  return json_response({{"tracking_since", nullptr}});
}

HttpResponse get_stats(GuestHost& host, const HttpRequest&) {
  const auto stats = host.stats();
  if (!stats) return error_response(stats.error());
  return json_response(*stats);
}

HttpResponse get_memory(GuestHost&, const HttpRequest&) {
  const auto use = memory_use();
  if (!use) return error_response(use.error());
  return json_response(*use);
}

HttpResponse get_console(GuestHost& host, const HttpRequest&) {
  const auto console = host.console();
  if (!console) return error_response(console.error());
  return json_response({{"text", console->text}, {"terminal", console->terminal}});
}

HttpResponse get_metrics(GuestHost& host, const HttpRequest&) {
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4";
  response.body = metrics_text(host);
  return response;
}

struct Route {
  std::string_view path;
  std::string_view method;
  HttpResponse (*serve)(GuestHost&, const HttpRequest&);
};

constexpr std::array kRoutes = {
    Route{"/v1/migration", "GET", get_migration},
    Route{"/v1/migration", "PUT", put_migration},
    Route{"/v1/migration", "DELETE", delete_migration},
    Route{"/v1/guest", "GET", get_guest},
    Route{"/v1/guest/pause", "POST", post_pause},
    Route{"/v1/guest/resume", "POST", post_resume},
    Route{"/v1/guest/stop", "POST", post_stop},
    Route{"/v1/guest/resolve", "POST", post_resolve},
    Route{"/v1/trace", "POST", post_trace},
    Route{"/v1/checkpoint", "POST", post_checkpoint},
    Route{"/v1/checkpoint", "DELETE", delete_checkpoint},
    Route{"/v1/checkpoint/tracking", "DELETE", delete_tracking},
    Route{"/v1/stats", "GET", get_stats},
    Route{"/v1/memory", "GET", get_memory},
    Route{"/v1/console", "GET", get_console},
    Route{"/metrics", "GET", get_metrics},
};

HttpResponse no_route(const HttpRequest& request) {
  std::string allow;
  for (const Route& route : kRoutes) {
    if (route.path != request.path) continue;
    if (!allow.empty()) allow += ", ";
    allow += route.method;
  }
  if (allow.empty()) {
    return error_response(make_error(ErrorCode::kNotFound, "there is no " + request.path)
                              .advise("see docs/control-api.md"));
  }
  HttpResponse response =
      error_response(bad_body(request.path + " does not know " + request.method, "use " + allow));
  response.status = 405;
  response.allow = allow;
  return response;
}

}  // namespace

HttpResponse ControlApi::handle(const HttpRequest& request) {
  for (const Route& route : kRoutes) {
    if (route.path == request.path && route.method == request.method) {
      return route.serve(host_, request);
    }
  }
  return no_route(request);
}

Result<MigrationRequest> parse_migration_request(const std::string& body) {
  MIGRATE_ASSIGN(const Json json, parse_body(body, {"target", "options", "insecure", "tls"}));
  MigrationRequest request;
  const auto target = json.find("target");
  if (target == json.end() || !target->is_string()) {
    return bad_body("'target' is missing",
                    "give \"HOST:PORT\", \"unix:PATH\" or \"vsock:CID:PORT\"");
  }
  MIGRATE_ASSIGN(request.target, parse_endpoint(target->get<std::string>(), EndpointUse::kSend));
  if (const auto options = json.find("options"); options != json.end()) {
    if (!options->is_object()) {
      return bad_body("'options' is not an object", "give {\"NAME\": \"VALUE\", ...}");
    }
    for (const auto& [name, value] : options->items()) {
      if (!value.is_string()) {
        return bad_body("option " + name + " is not a string", "write it as on the command line");
      }
      MIGRATE_TRY(set_option(request.options, name, value.get<std::string>()));
    }
  }
  TlsChoice security;
  MIGRATE_ASSIGN(security.insecure, take_flag(json, "insecure"));
  if (const auto tls = json.find("tls"); tls != json.end()) {
    MIGRATE_ASSIGN(security.files, parse_tls(*tls));
  }
  MIGRATE_ASSIGN(request.tls, make_security(TlsRole::kConnect, security, request.target));
  return request;
}

Json guest_json(const GuestHost& host) {
  const GuestFacts facts = host.facts();
  Json migration = nullptr;
  if (auto view = host.migration()) {
    migration = migration_json(*view);
    // The whole report is GET /v1/migration's.
    migration.erase("report");
    migration["outcome"] = view->report ? (*view->report)["outcome"] : Json(nullptr);
  }
  const auto [memory, why] = host.memory();
  const std::string since = host.tracking_since();
  return {{"name", facts.name},
          {"state", host.status()},
          {"memory", memory},
          {"memory_reason", why.empty() ? Json(nullptr) : Json(why)},
          {"pid", getpid()},
          {"vcpus", facts.vcpus},
          {"memory_bytes", facts.memory_bytes},
          {"workload", facts.workload},
          {"hosted_ms", host.uptime_ms()},
          {"tracking_since", since.empty() ? Json(nullptr) : Json(since)},
          {"migration", migration}};
}

}  // namespace migrate::tool
