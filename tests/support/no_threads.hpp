// NoThreads: a host that has no thread left to give.
#pragma once

#include <pthread.h>

#include <cstddef>

#include "migrate/result.hpp"

namespace migrate::test {

/// While it lives no thread can be started: none gets a stack of all the address space.
class NoThreads {
 public:
  NoThreads() {
    MIGRATE_CHECK(pthread_getattr_default_np(&before_) == 0);
    pthread_attr_t huge;
    MIGRATE_CHECK(pthread_getattr_default_np(&huge) == 0);
    MIGRATE_CHECK(pthread_attr_setstacksize(&huge, std::size_t{1} << 47) == 0);
    MIGRATE_CHECK(pthread_setattr_default_np(&huge) == 0);
    pthread_attr_destroy(&huge);
  }
  NoThreads(const NoThreads&) = delete;
  NoThreads& operator=(const NoThreads&) = delete;
  ~NoThreads() {
    MIGRATE_CHECK(pthread_setattr_default_np(&before_) == 0);
    pthread_attr_destroy(&before_);
  }

 private:
  pthread_attr_t before_;
};

}  // namespace migrate::test
