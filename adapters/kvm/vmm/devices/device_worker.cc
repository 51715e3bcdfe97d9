#include "adapters/kvm/vmm/devices/device_worker.hpp"

#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <memory>
#include <system_error>

namespace migrate::vmm {

DeviceWorker::DeviceWorker(std::string name, Work work, int fd, EventFd kicked)
    : name_(std::move(name)), work_(std::move(work)), fd_(fd), kicked_(std::move(kicked)) {}

Result<std::unique_ptr<DeviceWorker>> DeviceWorker::create(const std::string& name, Work work,
                                                           int fd) {
  MIGRATE_ASSIGN(EventFd kicked, EventFd::create());
  std::unique_ptr<DeviceWorker> worker(
      new DeviceWorker(name, std::move(work), fd, std::move(kicked)));
  // The process's signals are for others.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&all, fault);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = 0;
  try {
    worker->thread_ = std::thread([raw = worker.get()] { raw->run(); });
  } catch (const std::system_error& error) {
    failed = error.code().value();
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (failed != 0) {
    return make_errno_error(ErrorCode::kIo, failed, "cannot start the thread of " + name)
        .advise("raise the limit of processes (ulimit -u)");
  }
  pthread_setname_np(worker->thread_.native_handle(), name.substr(0, 15).c_str());
  return worker;
}

DeviceWorker::~DeviceWorker() {
  if (!thread_.joinable()) return;
  {
    MutexLock lock(mutex_);
    quit_ = true;
    update();
  }
  thread_.join();
}

/// Says what holds now to the thread, which may wait here or for a kick.
void DeviceWorker::update() {
  go_on_.store(started_ && !quiesced_ && !quit_, std::memory_order_relaxed);
  changed_.notify_all();
  kicked_.set();
}

void DeviceWorker::start() {
  MutexLock lock(mutex_);
  started_ = true;
  update();
}

void DeviceWorker::stop() {
  MutexLock lock(mutex_);
  started_ = false;
  update();
  while (working_) changed_.wait(mutex_);
}

Status DeviceWorker::quiesce(SteadyTime deadline) {
  MutexLock lock(mutex_);
  quiesced_ = true;
  update();
  while (working_) {
    if (changed_.wait_until(mutex_, deadline) || !working_) continue;
    quiesced_ = false;
    update();
    return make_error(ErrorCode::kTimeout, "a request of " + name_ + " did not end in time")
        .advise("look for a disk or a network that hangs; the guest runs on");
  }
  return {};
}

void DeviceWorker::resume() {
  MutexLock lock(mutex_);
  quiesced_ = false;
  update();
}

bool DeviceWorker::wait_to_work() {
  MutexLock lock(mutex_);
  working_ = false;
  changed_.notify_all();
  while (!quit_ && !(started_ && !quiesced_)) changed_.wait(mutex_);
  working_ = !quit_;
  return !quit_;
}

void DeviceWorker::wait_for_kick(bool with_fd) {
  {
    MutexLock lock(mutex_);
    working_ = false;
    changed_.notify_all();
  }
  pollfd waits[2] = {{kicked_.fd(), POLLIN, 0}, {fd_, POLLIN, 0}};
  // An error on the descriptor wakes, too; the work then finds it.
  (void)::poll(waits, with_fd && fd_ >= 0 ? 2 : 1, -1);
  kicked_.clear();
}

void DeviceWorker::run() {
  while (wait_to_work()) {
    const Next next = work_();
    if (!next.again) wait_for_kick(next.poll);
  }
}

}  // namespace migrate::vmm
