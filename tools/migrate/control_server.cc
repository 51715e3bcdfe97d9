#include "control_server.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <optional>
#include <thread>

#include "base/log.hpp"

namespace migrate::tool {
namespace {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace websocket = beast::websocket;
using Local = net::local::stream_protocol;
using Stream = beast::basic_stream<Local>;
using ErrorCondition = beast::error_code;

/// Requests may wait (pausing a guest, asking the target of an uncertain one), so they have threads
/// of their own; more of them at a time than this wait for each other.
constexpr std::size_t kWorkers = 4;

/// What connections share. Outlives them: they belong to the handlers waiting in `io` and
/// `workers`.
struct Shared {
  RequestHandler& handler;
  EventHub& hub;
  const ControlLimits limits;
  // Of the io thread.
  std::size_t connections = 0;
  std::size_t followers = 0;
  bool closing = false;
  // Requests read whose answer is not written yet.
  Mutex mutex;
  CondVar answered;
  std::size_t pending MIGRATE_GUARDED_BY(mutex) = 0;
  // Last, so that connections are gone before what they count in.
  net::io_context io{1};
  net::executor_work_guard<net::io_context::executor_type> work{io.get_executor()};
  Local::acceptor acceptor{io};
  net::steady_timer retry{io};
  net::thread_pool workers{kWorkers};

  Shared(RequestHandler& h, EventHub& e, ControlLimits l) : handler(h), hub(e), limits(l) {}

  void begin_answer() {
    MutexLock lock(mutex);
    ++pending;
  }
  void end_answer() {
    MutexLock lock(mutex);
    --pending;
    answered.notify_all();
  }
  bool wait_for_answers(std::chrono::steady_clock::time_point deadline) {
    MutexLock lock(mutex);
    while (pending > 0) {
      if (!answered.wait_until(mutex, deadline)) return false;
    }
    return true;
  }
};

/// Counts a connection, or a follower, for as long as it lives. Io thread only.
class Seat {
 public:
  explicit Seat(std::size_t& count) : count_(&count) { ++*count_; }
  Seat(Seat&& other) noexcept : count_(std::exchange(other.count_, nullptr)) {}
  Seat& operator=(Seat&&) = delete;
  ~Seat() {
    if (count_ != nullptr) --*count_;
  }

 private:
  std::size_t* count_;
};

/// One follower of /v1/events. All methods run on the io thread.
class EventSession : public std::enable_shared_from_this<EventSession> {
 public:
  EventSession(Shared& shared, Stream stream, Seat seat)
      : shared_(shared),
        seat_(std::move(seat)),
        follower_seat_(shared_.followers),
        stream_(std::move(stream)) {}

  void start(const http::request<http::string_body>& request) {
    beast::get_lowest_layer(stream_).expires_never();
    websocket::stream_base::timeout timeouts{};
    timeouts.handshake_timeout = shared_.limits.request_timeout;
    timeouts.idle_timeout = shared_.limits.idle_timeout;
    timeouts.keep_alive_pings = true;
    stream_.set_option(timeouts);
    // Nobody has anything to say here but control frames.
    stream_.read_message_max(1024);
    stream_.async_accept(request, [self = shared_from_this()](ErrorCondition failure) {
      if (failure) return;
      self->follow();
      self->read();
    });
  }

 private:
  void follow() {
    std::weak_ptr<EventSession> weak = weak_from_this();
    follower_ = shared_.hub.follow([weak, &io = shared_.io] {
      net::post(io, [weak] {
        if (const auto self = weak.lock()) self->write_next();
      });
    });
    write_next();
  }

  void write_next() {
    if (!follower_) return;
    message_ = follower_->next();
    if (!message_) return;
    stream_.text(true);
    arm_write_timeout();
    stream_.async_write(net::buffer(message_->text),
                        [self = shared_from_this()](ErrorCondition failure, std::size_t) {
                          self->disarm_write_timeout();
                          if (failure) return self->end();
                          self->write_next();
                        });
  }

  // The stream's idle timeout is renewed by whatever the peer sends; a peer that pings and never
  // reads would hold its messages for ever.
  void arm_write_timeout() {
    write_timer_.expires_after(shared_.limits.write_timeout);
    write_timer_.async_wait([weak = weak_from_this()](ErrorCondition failure) {
      if (failure) return;
      if (const auto self = weak.lock()) self->end();
    });
  }
  void disarm_write_timeout() { write_timer_.cancel(); }

  void read() {
    stream_.async_read(input_, [self = shared_from_this()](ErrorCondition failure, std::size_t) {
      if (failure) return self->end();
      self->input_.clear();
      self->read();
    });
  }

  void end() {
    follower_.reset();
    write_timer_.cancel();
    ErrorCondition ignored;
    beast::get_lowest_layer(stream_).socket().close(ignored);
  }

  Shared& shared_;
  Seat seat_;
  Seat follower_seat_;
  websocket::stream<Stream> stream_;
  net::steady_timer write_timer_{shared_.io};
  beast::flat_buffer input_{1024};
  std::unique_ptr<EventHub::Follower> follower_;
  HubMessagePtr message_;
};

http::response<http::string_body> to_beast(const HttpResponse& from, unsigned version,
                                           bool keep_alive) {
  http::response<http::string_body> response;
  response.version(version);
  response.result(static_cast<unsigned>(from.status));
  response.set(http::field::server, "migrate");
  response.set(http::field::content_type, from.content_type);
  if (!from.allow.empty()) response.set(http::field::allow, from.allow);
  response.keep_alive(keep_alive);
  response.body() = from.body;
  response.prepare_payload();
  return response;
}

/// One HTTP connection. All methods run on the io thread but answer()'s middle.
class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(Shared& shared, Local::socket socket)
      : shared_(shared), seat_(shared_.connections), stream_(std::move(socket)) {}

  void read() {
    parser_.emplace();
    parser_->header_limit(static_cast<std::uint32_t>(shared_.limits.header_bytes_max));
    parser_->body_limit(shared_.limits.body_bytes_max);
    if (buffer_.size() > 0) return read_request();
    // A client may stay silent between requests, but not within one.
    stream_.expires_after(shared_.limits.idle_timeout);
    stream_.async_read_some(buffer_.prepare(4096),
                            [self = shared_from_this()](ErrorCondition failure, std::size_t bytes) {
                              if (failure) return;
                              self->buffer_.commit(bytes);
                              self->read_request();
                            });
  }

 private:
  void read_request() {
    stream_.expires_after(shared_.limits.request_timeout);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](ErrorCondition failure, std::size_t) {
                       if (failure) return self->refuse(failure);
                       self->take(self->parser_->release());
                     });
  }

  void refuse(ErrorCondition failure) {
    if (failure == http::error::end_of_stream || failure == beast::error::timeout ||
        failure.category() != http::make_error_code(http::error::bad_method).category()) {
      return;
    }
    Error error = make_error(ErrorCode::kInvalidArgument, "bad request: " + failure.message());
    HttpResponse response = error_response(error);
    if (failure == http::error::body_limit) response.status = 413;
    if (failure == http::error::header_limit) response.status = 431;
    shared_.begin_answer();
    write(to_beast(response, 11, false));
  }

  void take(http::request<http::string_body> request) {
    const std::string target(request.target());
    const std::string path = target.substr(0, target.find('?'));
    const bool upgrade = websocket::is_upgrade(request);
    if (path == "/v1/events" && upgrade && shared_.followers < shared_.limits.connections_max / 2) {
      return std::make_shared<EventSession>(shared_, std::move(stream_), std::move(seat_))
          ->start(request);
    }
    shared_.begin_answer();
    version_ = request.version();
    keep_alive_ = request.keep_alive();
    if (path == "/v1/events") return write(to_beast(no_events(upgrade), version_, keep_alive_));
    answer({std::string(request.method_string()), path, std::move(request.body()),
            stream_.socket().native_handle()});
  }

  static HttpResponse no_events(bool upgrade) {
    if (!upgrade) {
      HttpResponse response = error_response(
          make_error(ErrorCode::kInvalidArgument, "/v1/events speaks WebSocket only"));
      response.status = 426;
      return response;
    }
    HttpResponse response =
        error_response(make_error(ErrorCode::kBusy, "too many followers of this guest's events")
                           .advise("end another `migrate status --follow` first"));
    response.status = 503;
    return response;
  }

  void answer(HttpRequest request) {
    stream_.expires_never();
    if (shared_.closing) return;
    // The session is handed on, not shared: it must end on the io thread.
    net::post(shared_.workers, [self = shared_from_this(), request = std::move(request)]() mutable {
      HttpResponse response = handle(self->shared_.handler, request);
      net::io_context& io = self->shared_.io;
      net::post(io, [self = std::move(self), response = std::move(response)] {
        self->write(to_beast(response, self->version_, self->keep_alive_));
      });
    });
  }

  static HttpResponse handle(RequestHandler& handler, const HttpRequest& request) {
    try {
      return handler.handle(request);
    } catch (const std::exception& failure) {
      return error_response(make_error(ErrorCode::kInternal, failure.what()));
    }
  }

  void write(http::response<http::string_body> response) {
    response_.emplace(std::move(response));
    stream_.expires_after(shared_.limits.write_timeout);
    http::async_write(stream_, *response_,
                      [self = shared_from_this()](ErrorCondition failure, std::size_t) {
                        self->shared_.end_answer();
                        if (failure || !self->response_->keep_alive()) return self->shut_down();
                        self->read();
                      });
  }

  void shut_down() {
    ErrorCondition ignored;
    stream_.socket().shutdown(Local::socket::shutdown_both, ignored);
  }

  Shared& shared_;
  Seat seat_;
  Stream stream_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  std::optional<http::response<http::string_body>> response_;
  unsigned version_ = 11;
  bool keep_alive_ = false;
};

}  // namespace

class ControlServer::Impl {
 public:
  Impl(std::filesystem::path path, RequestHandler& handler, EventHub& hub, ControlLimits limits)
      : shared_(std::make_unique<Shared>(handler, hub, limits)),
        path_(std::move(path)),
        thread_([this] { shared_->io.run(); }) {}
  ~Impl() { close(); }

  Status open() {
    if (open_) return {};
    // Bound under another name and moved, so that the socket answers from its first moment on.
    const std::string fresh = path_.string() + "~";
    ::unlink(fresh.c_str());
    Local::acceptor& acceptor = shared_->acceptor;
    ErrorCondition failure;
    acceptor.open(Local(), failure);
    // Linux gives the socket's file the mode the socket itself has.
    if (!failure) fchmod(acceptor.native_handle(), 0600);
    if (!failure) acceptor.bind(Local::endpoint(fresh), failure);
    if (!failure) acceptor.listen(net::socket_base::max_listen_connections, failure);
    if (!failure && ::rename(fresh.c_str(), path_.c_str()) != 0) {
      failure.assign(errno, boost::system::system_category());
    }
    if (failure) {
      ::unlink(fresh.c_str());
      return make_errno_error(ErrorCode::kIo, failure.value(),
                              "cannot serve the control socket " + path_.string())
          .advise("check the runtime folder's permissions and free space");
    }
    open_ = true;
    net::post(shared_->io, [this] { accept(); });
    return {};
  }

  bool drain(std::chrono::milliseconds timeout) {
    if (!shared_) return true;
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    return shared_->wait_for_answers(deadline) && shared_->hub.drain(deadline);
  }

  void close() {
    if (!shared_) return;
    if (open_) ::unlink(path_.c_str());
    net::post(shared_->io, [this] {
      ErrorCondition ignored;
      shared_->acceptor.close(ignored);
      shared_->retry.cancel();
      shared_->closing = true;
    });
    // Requests that a worker has begun are finished; no more are given to them.
    shared_->workers.join();
    shared_->io.stop();
    thread_.join();
    // With the handlers that wait in there go the connections.
    shared_.reset();
  }

 private:
  void accept() {
    shared_->acceptor.async_accept([this](ErrorCondition failure, Local::socket socket) {
      if (failure == net::error::operation_aborted) return;
      if (failure) {
        log_line(LogLevel::kWarning, "control socket: " + failure.message());
        return accept_later();
      }
      if (shared_->connections >= shared_->limits.connections_max) {
        turn_away(socket);
      } else {
        std::make_shared<HttpSession>(*shared_, std::move(socket))->read();
      }
      accept();
    });
  }

  /// Out of descriptors: trying again at once would spin.
  void accept_later() {
    shared_->retry.expires_after(std::chrono::milliseconds(100));
    shared_->retry.async_wait([this](ErrorCondition failure) {
      if (!failure) accept();
    });
  }

  static void turn_away(Local::socket& socket) {
    const HttpResponse refusal = error_response(
        make_error(ErrorCode::kBusy, "too many connections to this guest's control socket")
            .advise("try again when others have ended"));
    const std::string answer =
        "HTTP/1.1 503 Service Unavailable\r\nServer: migrate\r\n"
        "Content-Type: application/json\r\nConnection: close\r\nContent-Length: " +
        std::to_string(refusal.body.size()) + "\r\n\r\n" + refusal.body;
    ErrorCondition ignored;
    socket.non_blocking(true, ignored);
    socket.write_some(net::buffer(answer), ignored);
  }

  std::unique_ptr<Shared> shared_;  // Until close().
  const std::filesystem::path path_;
  bool open_ = false;
  std::thread thread_;
};

ControlServer::ControlServer(std::filesystem::path path, RequestHandler& handler, EventHub& hub,
                             ControlLimits limits)
    : impl_(std::make_unique<Impl>(std::move(path), handler, hub, limits)) {}
ControlServer::~ControlServer() = default;

Status ControlServer::open() { return impl_->open(); }
bool ControlServer::drain(std::chrono::milliseconds timeout) { return impl_->drain(timeout); }
void ControlServer::close() { impl_->close(); }

HttpResponse error_response(const Error& error) {
  HttpResponse response;
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
      response.status = 400;
      break;
    case ErrorCode::kPermission:
    case ErrorCode::kUnauthorized:
      response.status = 403;
      break;
    case ErrorCode::kNotFound:
      response.status = 404;
      break;
    case ErrorCode::kBusy:
    case ErrorCode::kNameTaken:
    case ErrorCode::kLeaseExpired:
    case ErrorCode::kUncertain:
      response.status = 409;
      break;
    case ErrorCode::kUnsupported:
      response.status = 501;
      break;
    case ErrorCode::kConnectFailed:
    case ErrorCode::kLinkLost:
      response.status = 502;
      break;
    case ErrorCode::kTimeout:
      response.status = 504;
      break;
    default:
      response.status = 500;
      break;
  }
  response.body =
      Json{{"error", to_json(error)}}.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  return response;
}

}  // namespace migrate::tool
