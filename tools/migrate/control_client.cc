#include "control_client.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <deque>

namespace migrate::tool {
namespace {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace websocket = beast::websocket;
using Local = net::local::stream_protocol;
using Stream = beast::basic_stream<Local>;

// A report of a thousand rounds has some 200 KB; a server that sends more than this is not ours.
constexpr std::size_t kAnswerBytesMax = 8u << 20;

Error connect_error(const std::filesystem::path& socket, const beast::error_code& failure) {
  const std::string name = socket.stem().string();
  if (failure == net::error::connection_refused ||
      failure == boost::system::errc::no_such_file_or_directory) {
    return make_error(ErrorCode::kNotFound, "no guest called '" + name + "' answers on this host")
        .advise("see `migrate ps` for those that do");
  }
  const ErrorCode code = failure == net::error::access_denied ? ErrorCode::kPermission
                         : failure == beast::error::timeout   ? ErrorCode::kTimeout
                                                              : ErrorCode::kIo;
  return make_error(code, "cannot talk to guest '" + name + "': " + failure.message())
      .advise(code == ErrorCode::kPermission
                  ? "only the user who started the guest, and root, may control it"
                  : "its process may hang; see `migrate ps`");
}

http::request<http::string_body> make_request(const std::string& method, const std::string& path,
                                              const Json& body) {
  http::request<http::string_body> request;
  request.version(11);
  request.method_string(method);
  request.target(path);
  request.set(http::field::host, "migrate");
  request.set(http::field::connection, "close");
  if (!body.is_null()) {
    request.set(http::field::content_type, "application/json");
    request.body() = body.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  request.prepare_payload();
  return request;
}

/// Runs `io` until what was started on it has ended.
void finish(net::io_context& io) {
  io.restart();
  io.run();
}

Result<Json> read_answer(const http::response<http::string_body>& response) {
  const bool good = response.result_int() / 100 == 2;
  Json json = Json::parse(response.body(), nullptr, false);
  if (json.is_discarded()) {
    return make_error(ErrorCode::kProtocol, "the guest's process answered HTTP " +
                                                std::to_string(response.result_int()) +
                                                " with something that is not JSON");
  }
  if (good) return json;
  const auto error = json.find("error");
  if (error == json.end()) {
    return make_error(ErrorCode::kProtocol,
                      "the guest's process answered HTTP " + std::to_string(response.result_int()));
  }
  return error_from_json(*error);
}

Result<http::response<http::string_body>> exchange(const std::filesystem::path& socket,
                                                   const http::request<http::string_body>& request,
                                                   std::chrono::milliseconds timeout,
                                                   std::size_t bytes_max) {
  net::io_context io{1};
  Stream stream(io);
  beast::error_code failure;
  stream.socket().connect(Local::endpoint(socket.string()), failure);
  if (failure) return connect_error(socket, failure);

  stream.expires_after(timeout);
  http::async_write(stream, request, [&](beast::error_code code, std::size_t) { failure = code; });
  finish(io);
  // A server that refuses early stops reading; its answer says why.
  if (failure && failure != net::error::broken_pipe) return connect_error(socket, failure);

  beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(bytes_max);
  http::async_read(stream, buffer, parser,
                   [&](beast::error_code code, std::size_t) { failure = code; });
  finish(io);
  if (failure) return connect_error(socket, failure);
  return parser.release();
}

}  // namespace

Result<Json> control_request(const std::filesystem::path& socket, const std::string& method,
                             const std::string& path, const Json& body,
                             std::chrono::milliseconds timeout) {
  MIGRATE_ASSIGN(const auto response,
                 exchange(socket, make_request(method, path, body), timeout, kAnswerBytesMax));
  return read_answer(response);
}

Result<std::string> control_download(const std::filesystem::path& socket, const std::string& method,
                                     const std::string& path, const Json& body,
                                     std::chrono::milliseconds timeout, std::size_t bytes_max) {
  MIGRATE_ASSIGN(auto response,
                 exchange(socket, make_request(method, path, body), timeout, bytes_max));
  if (response.result_int() / 100 == 2) return std::move(response.body());
  const auto refusal = read_answer(response);
  if (!refusal) return refusal.error();
  return make_error(ErrorCode::kProtocol, "the guest's process answered with an unknown status");
}

class EventStream::Impl {
 public:
  Status open(const std::filesystem::path& socket) {
    beast::error_code failure;
    auto& lowest = beast::get_lowest_layer(stream_);
    lowest.socket().connect(Local::endpoint(socket.string()), failure);
    if (failure) return connect_error(socket, failure);
    lowest.expires_after(kAnswerTimeout);
    websocket::response_type response;
    stream_.async_handshake(response, "migrate", "/v1/events",
                            [&](beast::error_code code) { failure = code; });
    finish(io_);
    lowest.expires_never();
    if (failure == websocket::error::upgrade_declined) {
      return make_error(ErrorCode::kBusy, "the guest's process lets no more followers in")
          .advise("end another `migrate status --follow` first");
    }
    if (failure) return connect_error(socket, failure);
    stream_.read_message_max(kAnswerBytesMax);
    read();
    return {};
  }

  Next next(int watched, std::optional<std::chrono::milliseconds> timeout) {
    const bool ready = wait(watched, timeout);
    if (ready) return {Got::kWatched, {}, {}};
    if (messages_.empty()) return {closed_ ? Got::kClosed : Got::kTimeout, {}, {}};
    Next next{Got::kMessage, {}, std::move(messages_.front())};
    messages_.pop_front();
    next.message = Json::parse(next.text, nullptr, false);
    if (!next.message.is_object()) next.message = Json::object();
    return next;
  }

 private:
  /// Waits for a message, the end or the timeout; true when `watched` came first.
  bool wait(int watched, std::optional<std::chrono::milliseconds> timeout) {
    bool ready = false;
    bool late = false;
    net::posix::stream_descriptor descriptor(io_);
    if (watched >= 0) {
      descriptor.assign(watched);
      descriptor.async_wait(net::posix::stream_descriptor::wait_read,
                            [&](beast::error_code code) { ready = !code; });
    }
    net::steady_timer timer(io_);
    if (timeout) {
      timer.expires_after(*timeout);
      timer.async_wait([&](beast::error_code code) { late = !code; });
    }
    io_.restart();
    while (messages_.empty() && !closed_ && !ready && !late) io_.run_one();
    // The cancelled waits refer to this call's variables: let them end here.
    timer.cancel();
    if (watched >= 0) descriptor.cancel();
    io_.restart();
    io_.poll();
    if (watched >= 0) descriptor.release();
    return ready;
  }

  void read() {
    stream_.async_read(buffer_, [this](beast::error_code failure, std::size_t) {
      if (failure) {
        closed_ = true;
        return;
      }
      messages_.push_back(beast::buffers_to_string(buffer_.data()));
      buffer_.clear();
      read();
    });
  }

  net::io_context io_{1};
  websocket::stream<Stream> stream_{io_};
  beast::flat_buffer buffer_;
  std::deque<std::string> messages_;
  bool closed_ = false;
};

EventStream::EventStream(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
EventStream::~EventStream() = default;

Result<std::unique_ptr<EventStream>> EventStream::open(const std::filesystem::path& socket) {
  auto impl = std::make_unique<Impl>();
  MIGRATE_TRY(impl->open(socket));
  return std::unique_ptr<EventStream>(new EventStream(std::move(impl)));
}

EventStream::Next EventStream::next(int watched, std::optional<std::chrono::milliseconds> timeout) {
  return impl_->next(watched, timeout);
}

}  // namespace migrate::tool
