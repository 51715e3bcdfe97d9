// Speaks CRIU's RPC by a script in FAKE_CRIU, words of name=value:
//   version=4.2.1  lazy=0  fail=TEXT      what it answers; fail: the request, with TEXT as the
//   reason log=TEXT                              a line of its log (_ for a space) at=PLACE:ACT at
//   a hook, or at "version", "features", "begin", "end":
//     crash exit silent garbage long unnamed, or heir: a child keeps the socket, then crash
// What it finds itself in goes to a file "report" in the folder of images.
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "criu_rpc.pb.h"

#if defined(__SANITIZE_ADDRESS__)
// The shim comes before the sanitizer's library, as it comes before everything in a real CRIU.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "verify_asan_link_order=0"; }
#endif

namespace {

namespace rpc = migrate::containers::rpc;
using Script = std::map<std::string, std::string>;

Script read_script() {
  Script script{{"version", "4.2.1"}, {"lazy", "1"}};
  const char* text = std::getenv("FAKE_CRIU");
  std::istringstream words(text == nullptr ? "" : text);
  for (std::string word; words >> word;) {
    const std::size_t equals = word.find('=');
    std::string value = word.substr(equals + 1);
    std::replace(value.begin(), value.end(), '_', ' ');
    script[word.substr(0, equals)] = value;
  }
  return script;
}

class FakeCriu {
 public:
  explicit FakeCriu(int socket) : socket_(socket), script_(read_script()) {}

  int serve() {
    for (rpc::Request request; receive(request);) {
      switch (request.type()) {
        case rpc::VERSION:
          tell_version();
          break;
        case rpc::FEATURE_CHECK:
          tell_features();
          break;
        case rpc::DUMP:
          return work(request, {"pre-dump", "network-lock", "query-ext-files", "post-dump"});
        case rpc::RESTORE:
          return work(request, {"pre-restore", "setup-namespaces", "post-restore", "post-resume"});
        default:
          return 3;
      }
    }
    return 0;
  }

 private:
  bool receive(rpc::Request& request) {
    char buffer[65536];
    const ssize_t got = ::recv(socket_, buffer, sizeof buffer, 0);
    return got > 0 && request.ParseFromArray(buffer, static_cast<int>(got));
  }
  void send(const rpc::Response& response) {
    const std::string message = response.SerializeAsString();
    if (::send(socket_, message.data(), message.size(), MSG_NOSIGNAL) < 0) ::_exit(4);
  }

  void act_at(const std::string& place) {
    const auto told = script_.find("at");
    if (told == script_.end() || !told->second.starts_with(place + ":")) return;
    const std::string act = told->second.substr(place.size() + 1);
    if (act == "crash") ::raise(SIGKILL);
    if (act == "exit") ::_exit(1);
    if (act == "silent") ::pause();
    if (act == "heir") {
      if (::fork() == 0) {
        char none = 0;
        while (::recv(socket_, &none, 1, 0) > 0) {
        }
        ::_exit(0);  // The worker is gone.
      }
      ::raise(SIGKILL);
    }
    if (act == "unnamed") {
      rpc::Response response;
      response.set_type(rpc::NOTIFY);
      response.set_success(true);
      send(response);
    }
    const std::string junk(act == "long" ? 70'000 : 7, '\x7f');
    if (act == "long" || act == "garbage") ::send(socket_, junk.data(), junk.size(), MSG_NOSIGNAL);
    ::pause();
  }

  void tell_version() {
    act_at("version");
    rpc::Response response;
    response.set_type(rpc::VERSION);
    response.set_success(true);
    int major = 0;
    int minor = 0;
    int sublevel = 0;
    std::sscanf(script_["version"].c_str(), "%d.%d.%d", &major, &minor, &sublevel);
    response.mutable_version()->set_major_number(major);
    response.mutable_version()->set_minor_number(minor);
    if (sublevel != 0) response.mutable_version()->set_sublevel(sublevel);
    send(response);
  }
  void tell_features() {
    act_at("features");
    rpc::Response response;
    response.set_type(rpc::FEATURE_CHECK);
    response.set_success(true);
    response.mutable_features()->set_lazy_pages(script_["lazy"] == "1");
    response.mutable_features()->set_pidfd_store(true);
    send(response);
  }

  /// As CRIU does: by the number of a descriptor in the process that made the socket.
  std::string images_folder(const rpc::Options& options) const {
    struct ucred peer = {};
    socklen_t size = sizeof peer;
    ::getsockopt(socket_, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    return "/proc/" + std::to_string(peer.pid) + "/fd/" + std::to_string(options.images_dir_fd());
  }
  void report(const rpc::Options& options) {
    const std::string folder = images_folder(options);
    std::vector<int> open;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      open.push_back(std::stoi(entry.path().filename()));
    }
    std::sort(open.begin(), open.end());
    std::erase_if(open, [](int fd) { return ::fcntl(fd, F_GETFD) < 0; });  // The folder's own.
    std::ofstream out(folder + "/report");
    out << "descriptors";
    for (const int fd : open) out << ' ' << fd;
    out << "\nsession " << (::getsid(0) == ::getpid()) << "\n";
    for (const char* name : {"LD_PRELOAD", "MIGRATE_CRIU_HIDDEN"}) {
      const char* value = std::getenv(name);
      out << name << ' ' << (value == nullptr ? "none" : value) << "\n";
    }
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("SigBlk") || line.starts_with("SigIgn")) out << line << "\n";
    }
    std::ifstream config("/proc/self/fd/4");
    out << "config " << config.rdbuf() << "\n";
    if (script_.contains("log")) {
      std::ofstream(folder + "/" + options.log_file())
          << "Error (a.c:1): " << script_["log"] << "\n";
    }
  }

  /// As rst_sibling has it: a child of CRIU's parent, that waits for its end.
  pid_t make_sibling() {
    const auto pid = static_cast<pid_t>(
        ::syscall(SYS_clone, CLONE_PARENT | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
    if (pid == 0) {
      ::close(socket_);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // The test's process, whatever became of it.
      ::pause();
      ::_exit(0);
    }
    return pid;
  }

  bool hook(const std::string& name) {
    act_at(name);
    rpc::Response response;
    response.set_type(rpc::NOTIFY);
    response.set_success(true);
    response.mutable_notify()->set_script(name);
    if (name == "setup-namespaces" || name == "post-restore") {
      response.mutable_notify()->set_pid(root_);
    }
    send(response);
    rpc::Request request;
    return receive(request) && request.type() == rpc::NOTIFY && request.notify_success();
  }

  /// What CRIU does at the end of a lazy dump. False where the peer is gone before it was answered.
  bool serve_memory(int port, std::size_t expected) {
    const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int on = 1;
    ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(listener, 1) != 0 || !hook("status-ready")) {
      return false;
    }
    const int peer = ::accept(listener, nullptr, nullptr);
    char message[64];
    if (::recv(peer, message, expected, MSG_WAITALL) != static_cast<ssize_t>(expected))
      return false;
    const int status = 0;
    return ::send(peer, &status, sizeof status, MSG_NOSIGNAL) == sizeof status &&
           ::read(peer, message, sizeof message) == 0;
  }

  int work(const rpc::Request& request, const std::vector<std::string>& hooks) {
    const bool restores = request.type() == rpc::RESTORE;
    report(request.opts());
    act_at("begin");
    if (restores) root_ = make_sibling();
    bool good = !script_.contains("fail");
    for (const std::string& name : hooks) {
      if (!hook(name)) {
        good = false;
        break;
      }
    }
    if (request.opts().has_ps()) {
      const std::size_t size = script_["version"] >= "4.2" ? 32 : 24;
      good = serve_memory(request.opts().ps().port(), size) && good;
    }
    if (restores && !good) ::kill(root_, SIGKILL);
    act_at("end");
    rpc::Response response;
    response.set_type(request.type());
    response.set_success(good);
    if (restores) response.mutable_restore()->set_pid(root_);
    if (script_.contains("fail")) {
      response.set_cr_errmsg("Error (criu/x.c:7): " + script_["fail"] + "\n");
      response.set_cr_errno(EPERM);
    }
    send(response);
    return good ? 0 : 1;
  }

  int socket_;
  Script script_;
  pid_t root_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 || std::string(argv[1]) != "swrk") {
    std::cerr << "Usage: criu swrk <fd>\n";
    return 1;
  }
  return FakeCriu(std::atoi(argv[2])).serve();
}
