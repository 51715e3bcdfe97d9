// Namespaces for the container tests: a machine's hosts, and containers in them.
//   container_host init [--netns PATH]
//       a host: pid, mount, ipc and uts namespaces with a /proc and an empty /run of their own.
//       Prints its first process as seen from outside; stays until its standard input ends, and
//       takes all with it.
//   container_host enter PID [--cgroup FOLDER] -- WORDS     runs a command there, passing signals
//   on container_host container --root FOLDER [--netns PATH] [--tmpfs PATH] [--bind FILE=PATH] --
//   WORDS
//       starts a command as the first process of a container in that root folder; prints its pid.
//   on container_host inside --root FOLDER -- WORDS
//       runs a program of another system: that folder is its root, with the host's /proc, /sys,
//       /dev, /run and /tmp in it, and cgroups of version 2 alone.

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>

namespace {

struct Options {
  std::string netns, cgroup, root, tmpfs, bind;
  char** words = nullptr;
};

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "container_host: %s: %s\n", what.c_str(), std::strerror(errno));
  std::_Exit(125);
}

void Try(int result, const std::string& what) {
  if (result < 0) Die(what);
}

void JoinNet(const std::string& path) {
  if (path.empty()) return;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  Try(fd, path);
  Try(setns(fd, CLONE_NEWNET), "joining " + path);
  close(fd);
}

void Mount(const char* type, const std::string& path, const char* data = nullptr) {
  Try(mount(type, path.c_str(), type, 0, data), "mounting " + path);
}

[[noreturn]] void Exec(char** words) {
  execvp(words[0], words);
  Die(words[0]);
}

// The host's first process: takes in orphans, and goes with its starter.
[[noreturn]] void BeInit() {
  setsid();
  Try(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "making / private");
  Mount("proc", "/proc");
  // CRIU keeps what it has found out about the kernel on a tmpfs there, or finds it out each time.
  const int names = open("/run/netns", O_PATH | O_DIRECTORY | O_CLOEXEC);
  Mount("tmpfs", "/run", "mode=755");
  if (names >= 0) {
    Try(mkdir("/run/netns", 0755), "/run/netns");
    const std::string from = "/proc/self/fd/" + std::to_string(names);
    Try(mount(from.c_str(), "/run/netns", nullptr, MS_BIND | MS_REC, nullptr),
        "binding /run/netns");
    close(names);
  }
  std::puts("ready");
  std::fflush(stdout);
  close(STDOUT_FILENO);
  signal(SIGCHLD, SIG_DFL);
  for (;;) {
    pollfd input{STDIN_FILENO, POLLIN, 0};
    constexpr int kReapMs = 100;
    if (poll(&input, 1, kReapMs) > 0) {
      char byte;
      if (read(STDIN_FILENO, &byte, 1) <= 0) std::_Exit(0);
    }
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
}

int Init(const Options& options) {
  JoinNet(options.netns);
  Try(unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS), "making namespaces");
  const pid_t first = fork();
  Try(first, "fork");
  if (first == 0) BeInit();
  std::printf("%d\n", first);
  std::fflush(stdout);
  close(STDIN_FILENO);
  // With this one gone by force, its host goes too.
  int status = 0;
  waitpid(first, &status, 0);
  return 0;
}

pid_t g_child = 0;

int WaitFor(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFSIGNALED(status)) return WEXITSTATUS(status);
  // Ended by the same, for who looks.
  signal(WTERMSIG(status), SIG_DFL);
  raise(WTERMSIG(status));
  return 128 + WTERMSIG(status);
}

void EnterHost(pid_t host, const Options& options) {
  if (!options.cgroup.empty()) {
    const int procs = open((options.cgroup + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC);
    Try(procs, options.cgroup);
    Try(static_cast<int>(write(procs, "0", 1)), "entering " + options.cgroup);
    close(procs);
  }
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, host, 0));
  Try(fd, "host " + std::to_string(host));
  Try(setns(fd, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET),
      "entering the host");
  close(fd);
}

int Enter(pid_t host, const Options& options) {
  EnterHost(host, options);
  g_child = fork();
  Try(g_child, "fork");
  if (g_child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    Exec(options.words);
  }
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCONT}) {
    struct sigaction action {};
    action.sa_handler = [](int which) { kill(g_child, which); };
    action.sa_flags = SA_RESTART;
    sigaction(number, &action, nullptr);
  }
  return WaitFor(g_child);
}

// No terminal, no descriptors, no session of who started it.
void Detach() {
  setsid();
  for (int fd = 0; fd < 3; ++fd) close(fd);
  if (open("/dev/null", O_RDWR) != 0 || dup(0) != 1 || dup(0) != 2) std::_Exit(125);
  close_range(3, ~0u, 0);
}

// A guest's number must be free at another host, where those of passing commands are low.
void NumberFromHigh() {
  constexpr int kFirst = 20000;
  int last = 0;
  FILE* file = std::fopen("/proc/sys/kernel/ns_last_pid", "r+");
  if (file == nullptr) Die("ns_last_pid");
  if (std::fscanf(file, "%d", &last) == 1 && last < kFirst) {
    std::rewind(file);
    std::fprintf(file, "%d", kFirst);
  }
  std::fclose(file);
}

int Start(pid_t host, const Options& options) {
  EnterHost(host, options);
  JoinNet(options.netns);
  g_child = fork();
  Try(g_child, "fork");
  if (g_child > 0) return WaitFor(g_child);
  NumberFromHigh();
  // In the host's numbers from here on; with this one's end the next is its first process's.
  const pid_t child = fork();
  Try(child, "fork");
  if (child == 0) {
    Detach();
    Exec(options.words);
  }
  std::printf("%d\n", child);
  return 0;
}

void EnterRoot(const Options& options) {
  const std::string& root = options.root;
  Try(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "making / private");
  Try(mount(root.c_str(), root.c_str(), nullptr, MS_BIND, nullptr), "binding " + root);
  Mount("proc", root + "/proc");
  Mount("tmpfs", root + "/dev", "mode=755");
  if (!options.tmpfs.empty()) Mount("tmpfs", root + options.tmpfs, "mode=1777");
  if (const size_t to = options.bind.find('='); to != std::string::npos) {
    const std::string file = options.bind.substr(0, to);
    const std::string at = root + options.bind.substr(to + 1);
    close(open(at.c_str(), O_CREAT | O_CLOEXEC, 0644));
    Try(mount(file.c_str(), at.c_str(), nullptr, MS_BIND, nullptr), "binding " + file);
  }
  for (const auto& [name, number] : {std::pair{"null", 3}, {"zero", 5}, {"urandom", 9}}) {
    const std::string path = root + "/dev/" + name;
    Try(mknod(path.c_str(), S_IFCHR | 0666, makedev(1, static_cast<unsigned>(number))), path);
  }
  Try(chdir(root.c_str()), root);
  // The old root is put over the new one, and taken off.
  Try(static_cast<int>(syscall(SYS_pivot_root, ".", ".")), "pivot_root");
  Try(umount2(".", MNT_DETACH), "leaving the old root");
  Try(chdir("/"), "/");
}

[[noreturn]] void Inside(const Options& options) {
  const std::string& root = options.root;
  Try(unshare(CLONE_NEWNS), "making a mount namespace");
  Try(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "making / private");
  Try(mount(root.c_str(), root.c_str(), nullptr, MS_BIND, nullptr), "binding " + root);
  for (const char* name : {"/proc", "/sys", "/dev", "/run", "/tmp"}) {
    Try(mount(name, (root + name).c_str(), nullptr, MS_BIND | MS_REC, nullptr),
        std::string("binding ") + name);
  }
  const std::string groups = root + "/sys/fs/cgroup";
  // Where they are mounted there already the kernel says that it is busy.
  if (mount("cgroup2", groups.c_str(), "cgroup2", 0, nullptr) < 0 && errno != EBUSY) Die(groups);
  Try(chdir(root.c_str()), root);
  Try(static_cast<int>(syscall(SYS_pivot_root, ".", ".")), "pivot_root");
  Try(umount2(".", MNT_DETACH), "leaving the old root");
  Try(chdir("/"), "/");
  Exec(options.words);
}

// Its parent ends at once, so that the host's first process takes it in, as an engine's container.
int Container(const Options& options) {
  JoinNet(options.netns);
  const int spaces = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS;
  Try(unshare(spaces), "making namespaces");
  const pid_t child = fork();
  Try(child, "fork");
  if (child > 0) {
    std::printf("%d\n", child);
    return 0;
  }
  EnterRoot(options);
  Detach();
  Exec(options.words);
}

bool Parse(int argc, char** argv, int from, Options* options) {
  for (int i = from; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--") {
      options->words = argv + i + 1;
      return i + 1 < argc;
    }
    if (i + 1 == argc) return false;
    std::string* value = word == "--netns"    ? &options->netns
                         : word == "--cgroup" ? &options->cgroup
                         : word == "--root"   ? &options->root
                         : word == "--tmpfs"  ? &options->tmpfs
                         : word == "--bind"   ? &options->bind
                                              : nullptr;
    if (value == nullptr) return false;
    *value = argv[++i];
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  const std::string what = argc > 1 ? argv[1] : "";
  const bool parsed = Parse(argc, argv, what == "enter" || what == "start" ? 3 : 2, &options);
  if (parsed && what == "init") return Init(options);
  if (parsed && what == "inside" && !options.root.empty() && options.words != nullptr) {
    Inside(options);
  }
  if (parsed && what == "enter" && argc > 3 && options.words != nullptr) {
    return Enter(std::atoi(argv[2]), options);
  }
  if (parsed && what == "start" && argc > 3 && options.words != nullptr) {
    return Start(std::atoi(argv[2]), options);
  }
  if (parsed && what == "container" && !options.root.empty() && options.words != nullptr) {
    return Container(options);
  }
  std::fputs(
      "container_host init | enter PID -- WORDS | start PID -- WORDS | container --root FOLDER -- "
      "WORDS | inside --root FOLDER -- WORDS\n",
      stderr);
  return 2;
}
