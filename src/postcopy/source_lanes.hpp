// SourceLanes: the threads of the source's lanes, from one attach() to its detach(). One serves
// what the target demands, the others push.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "postcopy/lazy_source.hpp"
#include "postcopy/page_sender.hpp"
#include "postcopy/push_pace.hpp"
#include "postcopy/source_work.hpp"

namespace migrate::postcopy {

class SourceLanes {
 public:
  SourceLanes(const LazySource::Context& context, SourceWork& work,
              std::vector<std::unique_ptr<RecordChannel>> bulk,
              std::unique_ptr<RecordChannel> urgent, std::uint32_t round);
  /// Ends all, whatever they wait for. The peer sees the lanes closed.
  ~SourceLanes();

  Status start();

 private:
  void serve();
  void push(std::size_t lane);
  Status serve_next(PageSender& sender);
  Status answer(const wire::Demand& demand, PageSender& sender);
  [[nodiscard]] Status check(const wire::Demand::Pages& pages) const;
  Status push_all(std::size_t lane);
  void fail(Error error);
  [[nodiscard]] PageSender::Context sending() const;

  const LazySource::Context& context_;
  SourceWork& work_;
  const std::vector<std::unique_ptr<RecordChannel>> bulk_;
  const std::unique_ptr<RecordChannel> urgent_;
  const std::uint32_t round_;
  PushPace pace_;
  std::vector<std::thread> threads_;
};

}  // namespace migrate::postcopy
