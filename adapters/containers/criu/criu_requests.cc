#include "adapters/containers/criu/criu_requests.hpp"

#include "adapters/containers/criu/criu_log.hpp"

namespace migrate::containers {
namespace {

// Errors and warnings. More costs time while the tree stands: a line a mapping and descriptor.
constexpr int kLogLevel = 2;

void set_common(rpc::Options& options, int images_fd, ContainerTcp tcp,
                const std::vector<std::string>& externals) {
  options.set_images_dir_fd(images_fd);
  options.set_log_level(kLogLevel);
  options.set_log_file(kCriuLog);
  options.set_notify_scripts(true);
  // The tree's cgroup is ours to make, at either side.
  options.set_manage_cgroups_mode(rpc::IGNORE);
  // At the target nothing of the source is known: no terminal of its shell, no peer of its sockets.
  options.set_shell_job(false);
  options.set_ext_unix_sk(false);
  options.set_file_locks(true);
  options.set_link_remap(true);
  options.set_tcp_established(tcp == ContainerTcp::kEstablished);
  options.set_tcp_close(tcp == ContainerTcp::kClose);
  for (const std::string& external : externals) options.add_external(external);
}

}  // namespace

rpc::Request version_request() {
  rpc::Request request;
  request.set_type(rpc::VERSION);
  request.set_keep_open(true);
  return request;
}

rpc::Request features_request() {
  rpc::Request request;
  request.set_type(rpc::FEATURE_CHECK);
  request.set_keep_open(true);
  request.mutable_features()->set_lazy_pages(true);
  request.mutable_features()->set_mem_track(true);
  request.mutable_features()->set_pidfd_store(true);
  return request;
}

rpc::Request hook_answer(bool go_on) {
  rpc::Request request;
  request.set_type(rpc::NOTIFY);
  request.set_notify_success(go_on);
  return request;
}

namespace {

rpc::NetworkLock network_lock(CriuNetworkLock lock) {
  switch (lock) {
    case CriuNetworkLock::kIptables:
      return rpc::IPTABLES;
    case CriuNetworkLock::kNone:
      return rpc::SKIP;
    case CriuNetworkLock::kNftables:
      break;
  }
  return rpc::NFTABLES;
}

}  // namespace

rpc::Request dump_request(const CriuDump& dump, const std::string& config) {
  rpc::Request request;
  request.set_type(rpc::DUMP);
  rpc::Options& options = *request.mutable_opts();
  set_common(options, dump.images_fd, dump.tcp, dump.externals);
  options.set_pid(dump.root);
  if (!dump.freeze_cgroup.empty()) options.set_freeze_cgroup(dump.freeze_cgroup);
  options.set_network_lock(network_lock(dump.network_lock));
  // A connection that nobody has accepted yet: lost without a word, or an error. Where connections
  // go on it is an error; where all are closed it is one of them.
  options.set_tcp_skip_in_flight(dump.tcp == ContainerTcp::kClose);
  if (dump.lazy_port != 0) {
    options.set_lazy_pages(true);
    options.mutable_ps()->set_port(dump.lazy_port);
    options.set_config_file(config);
  }
  return request;
}

rpc::Request restore_request(const CriuRestore& restore) {
  rpc::Request request;
  request.set_type(rpc::RESTORE);
  rpc::Options& options = *request.mutable_opts();
  set_common(options, restore.images_fd, restore.tcp, restore.externals);
  if (!restore.root.empty()) options.set_root(restore.root);
  for (const auto& [number, key] : restore.inherited) {
    rpc::InheritedDescriptor& inherited = *options.add_inherit_fd();
    inherited.set_fd(number);
    inherited.set_key(key);
  }
  options.set_lazy_pages(restore.lazy_pages);
  options.set_rst_sibling(true);
  return request;
}

std::string lazy_config() { return "address 127.0.0.1\n"; }

}  // namespace migrate::containers
