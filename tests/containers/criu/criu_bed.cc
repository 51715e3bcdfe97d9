#include "tests/containers/criu/criu_bed.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace migrate::containers {

CriuBed::CriuBed(const std::string& script) {
  ::setenv("FAKE_CRIU", script.c_str(), 1);
  std::string name = std::filesystem::temp_directory_path() / "criu-bed-XXXXXX";
  MIGRATE_CHECK(::mkdtemp(name.data()) != nullptr);
  folder_ = name;
  images_.reset(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

CriuBed::~CriuBed() {
  ::unsetenv("FAKE_CRIU");
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

CriuLaunch CriuBed::launch() {
  CriuLaunch launch;
  launch.program.path = MIGRATE_FAKE_CRIU;
  return launch;
}

std::unique_ptr<CriuWorker> CriuBed::worker() const {
  auto worker = CriuWorker::launch(launch());
  MIGRATE_CHECK(worker.has_value());
  return *std::move(worker);
}

CriuDump CriuBed::dump() const {
  CriuDump dump;
  dump.root = ::getpid();
  dump.images_fd = images();
  return dump;
}

CriuRestore CriuBed::restore() const {
  CriuRestore restore;
  restore.images_fd = images();
  restore.lazy_pages = false;
  return restore;
}

std::string CriuBed::report(std::string_view name) const {
  std::ifstream file(folder_ + "/report");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name)) {
      line.erase(0, name.size());
      line.erase(0, line.find_first_not_of(": \t"));
      return line;
    }
  }
  return "missing";
}

std::uint16_t free_port() {
  const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  MIGRATE_CHECK(::bind(socket.get(), generic, size) == 0);
  MIGRATE_CHECK(::getsockname(socket.get(), generic, &size) == 0);
  return ntohs(address.sin_port);
}

Result<CriuEvent> run_to_end(CriuWorker& worker, const std::string& refuse,
                             std::vector<std::string>* seen) {
  while (true) {
    MIGRATE_ASSIGN(const CriuEvent event, worker.next(soon()));
    if (event.kind == CriuEvent::Kind::kEnd) return event;
    if (seen != nullptr) seen->push_back(event.hook);
    MIGRATE_TRY(worker.answer(event.hook != refuse));
  }
}

}  // namespace migrate::containers
