// Connectors and acceptors whose channels are secured by TLS.
#include "migrate/tls.hpp"

#include <utility>

#include "base/mutex.hpp"
#include "transport/readiness.hpp"
#include "transport/tls_channel.hpp"

namespace migrate {
namespace {

class TlsConnector final : public Connector {
 public:
  TlsConnector(std::unique_ptr<Connector> inner, std::shared_ptr<TlsContext> context)
      : inner_(std::move(inner)), context_(std::move(context)) {}

  Result<std::unique_ptr<Channel>> connect(std::chrono::nanoseconds timeout) override {
    const SteadyDeadline deadline = deadline_after(timeout);
    MIGRATE_ASSIGN(auto plain, inner_->connect(timeout));
    MIGRATE_ASSIGN(auto channel, TlsChannel::create(std::move(plain), context_, session_));
    watch(channel.get());
    const auto left = deadline - std::chrono::steady_clock::now();
    Status secured = channel->handshake(left);
    watch(nullptr);
    if (!secured) {
      Error error = std::move(secured).error();
      if (error.code == ErrorCode::kLinkLost) error.code = ErrorCode::kConnectFailed;
      return error;
    }
    return std::unique_ptr<Channel>(std::move(channel));
  }

  void set_session(std::string_view session) override {
    inner_->set_session(session);
    session_ = session;
  }
  void interrupt() noexcept override {
    inner_->interrupt();
    MutexLock lock(mutex_);
    interrupted_ = true;
    if (beginning_ != nullptr) beginning_->interrupt();
  }
  void resume_after_interrupt() noexcept override {
    inner_->resume_after_interrupt();
    MutexLock lock(mutex_);
    interrupted_ = false;
  }
  [[nodiscard]] std::string peer() const override { return inner_->peer(); }

 private:
  void watch(Channel* channel) {
    MutexLock lock(mutex_);
    beginning_ = channel;
    if (interrupted_ && channel != nullptr) channel->interrupt();
  }

  const std::unique_ptr<Connector> inner_;
  const std::shared_ptr<TlsContext> context_;
  std::string session_;
  Mutex mutex_;
  Channel* beginning_ MIGRATE_GUARDED_BY(mutex_) = nullptr;  // In its handshake.
  bool interrupted_ MIGRATE_GUARDED_BY(mutex_) = false;
};

class TlsAcceptor final : public Acceptor {
 public:
  TlsAcceptor(std::unique_ptr<Acceptor> inner, std::shared_ptr<TlsContext> context)
      : inner_(std::move(inner)), context_(std::move(context)) {}

  Result<std::unique_ptr<Channel>> accept(std::chrono::nanoseconds timeout) override {
    MIGRATE_ASSIGN(auto plain, inner_->accept(timeout));
    return make_tls_channel(std::move(plain), context_);
  }
  void interrupt() noexcept override { inner_->interrupt(); }
  [[nodiscard]] std::string address() const override { return inner_->address(); }

 private:
  const std::unique_ptr<Acceptor> inner_;
  const std::shared_ptr<TlsContext> context_;
};

}  // namespace

std::unique_ptr<Connector> make_tls_connector(std::unique_ptr<Connector> inner,
                                              std::shared_ptr<TlsContext> context) {
  return std::make_unique<TlsConnector>(std::move(inner), std::move(context));
}

std::unique_ptr<Acceptor> make_tls_acceptor(std::unique_ptr<Acceptor> inner,
                                            std::shared_ptr<TlsContext> context) {
  return std::make_unique<TlsAcceptor>(std::move(inner), std::move(context));
}

Result<std::unique_ptr<Channel>> make_tls_channel(std::unique_ptr<Channel> inner,
                                                  const std::shared_ptr<TlsContext>& context) {
  MIGRATE_CHECK(context->role() == TlsRole::kAccept);
  MIGRATE_ASSIGN(auto channel, TlsChannel::create(std::move(inner), context));
  return std::unique_ptr<Channel>(std::move(channel));
}

}  // namespace migrate
