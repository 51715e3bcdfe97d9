#include "tls_options.hpp"

#include <filesystem>
#include <utility>

#include "require_loopback.hpp"

namespace migrate::tool {
namespace {

struct FileOption {
  const char* name;  ///< Without "--tls-"; also the member of a request.
  const char* help;
  std::string TlsOptions::*field;
};
constexpr FileOption kFileOptions[] = {
    {"cert", "PEM file: this host's certificate", &TlsOptions::certificate_file},
    {"key", "PEM file: its private key", &TlsOptions::key_file},
    {"ca", "PEM file: the authority that signs the certificates of both hosts",
     &TlsOptions::ca_file},
    {"psk", "File with a pre-shared key, instead of certificates (see `migrate keygen`)",
     &TlsOptions::psk_file},
};
constexpr const char* kName = "name";

}  // namespace

void add_tls_options(CLI::App& command, TlsChoice& choice, TlsRole role) {
  for (const FileOption& option : kFileOptions) {
    command
        .add_option(std::string("--tls-") + option.name, choice.files.*option.field, option.help)
        ->type_name("FILE");
  }
  if (role == TlsRole::kConnect) {
    command
        .add_option("--tls-name", choice.files.peer_name,
                    "The name in the target's certificate (default: the host connected to)")
        ->type_name("NAME");
  }
  command.add_flag(
      "--insecure", choice.insecure,
      "Allow plain TCP or vsock, neither encrypted nor authenticated, beyond loopback");
}

TlsOptions with_absolute_paths(TlsOptions files) {
  for (const FileOption& option : kFileOptions) {
    std::string& file = files.*option.field;
    std::error_code failure;
    const auto absolute = std::filesystem::absolute(file, failure);
    if (!file.empty() && !failure) file = absolute.string();
  }
  return files;
}

std::vector<std::string> tls_arguments(const TlsOptions& files) {
  std::vector<std::string> arguments;
  for (const FileOption& option : kFileOptions) {
    if ((files.*option.field).empty()) continue;
    arguments.push_back(std::string("--tls-") + option.name);
    arguments.push_back(files.*option.field);
  }
  return arguments;
}

Json to_json(const TlsOptions& files) {
  Json json = Json::object();
  for (const FileOption& option : kFileOptions) {
    if (!(files.*option.field).empty()) json[option.name] = files.*option.field;
  }
  if (!files.peer_name.empty()) json[kName] = files.peer_name;
  return json;
}

Result<TlsOptions> parse_tls(const Json& json) {
  const auto bad = [](const std::string& what) {
    return make_error(ErrorCode::kInvalidArgument, what)
        .advise("give {\"cert\", \"key\", \"ca\"} or {\"psk\"}: absolute paths; and \"name\"");
  };
  if (!json.is_object()) return bad("'tls' is not an object");
  TlsOptions files;
  for (const auto& [name, value] : json.items()) {
    if (!value.is_string()) return bad("'" + name + "' of 'tls' is not a string");
    std::string* field = name == kName ? &files.peer_name : nullptr;
    for (const FileOption& option : kFileOptions) {
      if (name == option.name) field = &(files.*option.field);
    }
    if (field == nullptr) return bad("'tls' has no '" + name + "'");
    *field = value.get<std::string>();
  }
  return files;
}

Result<std::shared_ptr<TlsContext>> make_security(TlsRole role, const TlsChoice& choice,
                                                  const Endpoint& endpoint) {
  TlsOptions files = choice.files;
  if (!files.enabled()) {
    if (!files.peer_name.empty()) {
      return make_error(ErrorCode::kInvalidArgument, "--tls-name without TLS")
          .advise("give --tls-cert, --tls-key and --tls-ca too");
    }
    if (!choice.insecure) MIGRATE_TRY(require_loopback(endpoint));
    return std::shared_ptr<TlsContext>();
  }
  if (choice.insecure) {
    return make_error(ErrorCode::kInvalidArgument, "--insecure and TLS exclude each other")
        .advise("leave --insecure away");
  }
  if (files.peer_name.empty() && endpoint.kind == Endpoint::Kind::kTcp) {
    files.peer_name = endpoint.host;
  }
  return make_tls_context(role, files);
}

std::unique_ptr<Acceptor> secured(std::unique_ptr<Acceptor> plain,
                                  const std::shared_ptr<TlsContext>& context) {
  return context ? make_tls_acceptor(std::move(plain), context) : std::move(plain);
}

std::unique_ptr<Connector> secured(std::unique_ptr<Connector> plain,
                                   const std::shared_ptr<TlsContext>& context) {
  return context ? make_tls_connector(std::move(plain), context) : std::move(plain);
}

}  // namespace migrate::tool
