#pragma once

#include <signal.h>
#include <time.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace migrate::rig {

// Between a parent and a child: stream, datagram and packet sockets and pipes, on each of which
// numbered messages are under way all the time and come back. One end is used by one thread.
class Links {
 public:
  // Both ends; after the fork each process keeps its own.
  static Links Make();
  void KeepParentEnds();
  void KeepChildEnds();

  // A tick's work. The parent sends and checks what comes back; the child checks and answers.
  void Drive();
  void Answer();

  uint64_t messages() const;
  uint64_t errors() const;

 private:
  struct Channel {
    // Read and written by the parent, read and written by the child.
    int parent[2];
    int child[2];
    bool is_pipe;
    uint64_t sent = 0;
    uint64_t received = 0;
    uint64_t errors = 0;
  };
  static bool Take(Channel& channel, int fd);
  static bool Send(Channel& channel, int fd);
  std::vector<Channel> channels_;
};

// A file that is written and read by calls; page by page checked.
class CheckedFile {
 public:
  // Empty where it cannot be made.
  bool Open(const std::string& path, size_t pages);
  void WriteOne(uint64_t random);
  uint64_t CountErrors() const;
  size_t pages() const { return generations_.size(); }

 private:
  int fd_ = -1;
  std::vector<uint32_t> generations_;
};

// One timer of each sort, every 5 ms; counted when a tick asks.
class Timers {
 public:
  // SIGALRM and SIGRTMIN are to be blocked, and waited for by who calls Fired().
  void Start();
  void Fired(int signal_number);
  void Tick();
  uint64_t interval() const { return interval_; }
  uint64_t posix() const { return posix_; }
  uint64_t descriptor() const { return descriptor_count_; }

 private:
  int descriptor_ = -1;
  timer_t timer_ = nullptr;
  uint64_t interval_ = 0;
  uint64_t posix_ = 0;
  uint64_t descriptor_count_ = 0;
};

// Answers every connection to `port` with what it says; never returns.
void ServeEcho(uint16_t port);

}  // namespace migrate::rig
