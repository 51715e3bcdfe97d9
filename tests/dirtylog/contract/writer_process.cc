// A process whose memory a test tracks from outside. It does what writer_process.hpp says.
#include "tests/dirtylog/contract/writer_process.hpp"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <vector>

#include "tests/dirtylog/contract/mapping_changer.hpp"
#include "tests/dirtylog/contract/thread_writer.hpp"

namespace migrate::testing {
namespace {

constexpr std::size_t kTouchWord = 8;

class WriterProcess {
 public:
  std::uint64_t obey(const WriterCommand& command) {
    switch (command.order) {
      case WriterOrder::kMap:
        map(command);
        return 0;
      case WriterOrder::kTouch:
        for (std::uint64_t i = 0; i < command.pages; i += command.stride) ++word(command, i);
        return 0;
      case WriterOrder::kPut:
        for (std::uint64_t i = 0; i < command.pages; ++i) word(command, i) = command.value;
        return 0;
      case WriterOrder::kResume:
        writer(command.value).resume();
        return 0;
      case WriterOrder::kPause:
        writer(command.value).pause();
        return 0;
      case WriterOrder::kWrites:
        return writer(command.value).writes();
    }
    throw std::runtime_error("no such order");
  }

 private:
  void map(const WriterCommand& command) {
    void* place = reinterpret_cast<void*>(command.address);
    void* memory = ::mmap(place, command.pages * kPageSize, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (memory != place) throw std::runtime_error("mmap of an area");
    ::madvise(memory, command.pages * kPageSize, MADV_NOHUGEPAGE);
    const PageRange pages{{command.address / kPageSize}, command.pages};
    areas_.push_back({pages, static_cast<std::byte*>(memory)});
  }

  /// They begin when they are first asked for, with all areas.
  Writer& writer(std::uint64_t number) {
    if (writers_.empty()) {
      writers_.push_back(std::make_unique<ThreadWriter>("stores", areas_, 1, by_stores(), 1));
      writers_.push_back(std::make_unique<ThreadWriter>("read(2)", areas_, 2, by_read(), 2));
      writers_.push_back(std::make_unique<MappingChanger>(kWriterChanging, 3));
    }
    return *writers_.at(number);
  }

  static std::uint64_t& word(const WriterCommand& command, std::uint64_t page) {
    return reinterpret_cast<std::uint64_t*>(command.address + page * kPageSize)[kTouchWord];
  }

  std::vector<PlacedArea> areas_;
  std::vector<std::unique_ptr<Writer>> writers_;
};

void serve() {
  WriterProcess process;
  WriterCommand command;
  while (::recv(kWriterSocket, &command, sizeof command, 0) ==
         static_cast<ssize_t>(sizeof command)) {
    const WriterAnswer answer{process.obey(command)};
    if (::send(kWriterSocket, &answer, sizeof answer, MSG_NOSIGNAL) < 0) return;
  }
}

}  // namespace
}  // namespace migrate::testing

int main() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    migrate::testing::serve();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "writer process: %s\n", error.what());
    return 1;
  }
  return 0;
}
