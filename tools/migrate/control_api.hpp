// ControlApi: the routes of docs/control-api.md, from HTTP to GuestHost and back.
#pragma once

#include "control_server.hpp"
#include "guest_host.hpp"

namespace migrate::tool {

class ControlApi final : public RequestHandler {
 public:
  /// `host` must outlive this.
  explicit ControlApi(GuestHost& host) : host_(host) {}
  HttpResponse handle(const HttpRequest& request) override;

 private:
  GuestHost& host_;
};

/// What PUT /v1/migration carries: {"target": "HOST:PORT", "options": {NAME: VALUE, ...},
/// "insecure": bool, "tls": {...}}. Anything unknown in it is refused.
[[nodiscard]] Result<MigrationRequest> parse_migration_request(const std::string& body);

/// The body of GET /v1/guest.
[[nodiscard]] Json guest_json(const GuestHost& host);
/// The body of GET /metrics, in Prometheus' text format.
[[nodiscard]] std::string metrics_text(const GuestHost& host);

}  // namespace migrate::tool
