// thread_cpu(): processor time of the calling thread so far.
#pragma once

#include <chrono>
#include <ctime>

namespace migrate {

[[nodiscard]] inline std::chrono::nanoseconds thread_cpu() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

}  // namespace migrate
