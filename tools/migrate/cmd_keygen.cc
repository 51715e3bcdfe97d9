// migrate keygen: makes what --tls-psk, --tls-ca, --tls-cert and --tls-key want.

#include <cstdio>
#include <memory>

#include <vector>

#include "command.hpp"
#include "transport/tls_credentials.hpp"

namespace migrate::tool {
namespace {

// An authority outlives the certificates it signs: hosts trust it until they are told otherwise.
constexpr std::chrono::hours kDay{24};
constexpr auto kAuthorityTime = 3650 * kDay;
// As long as public authorities may at most: long enough to forget, so it is an option.
constexpr int kCertificateDays = 397;
// Clocks of hosts differ a little.
constexpr std::chrono::hours kBeforehand{1};

struct KeygenOptions {
  std::string psk;
  std::string ca;
  std::string cert;
  std::vector<std::string> names;
  int days = kCertificateDays;
};

CertificateFiles files_of(const std::string& prefix) { return {prefix + ".pem", prefix + ".key"}; }

Status make(const KeygenOptions& options, Json& made) {
  if (!options.psk.empty()) {
    made["psk"] = options.psk;
    return write_psk(options.psk);
  }
  const CertificateFiles authority = files_of(options.ca);
  if (options.cert.empty()) {
    if (!options.names.empty()) {
      return make_error(ErrorCode::kInvalidArgument, "an authority has no names of hosts")
          .advise("give --cert too, to make the certificate of a host");
    }
    made["certificate"] = authority.certificate;
    made["key"] = authority.key;
    return write_authority(authority, {"migrate authority", {}, -kBeforehand, kAuthorityTime});
  }
  if (options.names.empty()) {
    return make_error(ErrorCode::kInvalidArgument, "a host's certificate needs its names")
        .advise("give --name for each DNS name and IP address by which guests are sent to it");
  }
  const CertificateFiles files = files_of(options.cert);
  made["certificate"] = files.certificate;
  made["key"] = files.key;
  return write_certificate(
      files, authority, {options.names.front(), options.names, -kBeforehand, options.days * kDay});
}

int keygen(const GlobalOptions& global, const KeygenOptions& options) {
  Json made = Json::object();
  if (const Status status = make(options, made); !status) return fail(global, status.error());
  if (global.json) {
    print_json(made);
  } else {
    for (const auto& [what, file] : made.items()) {
      std::printf("%s: %s\n", what.c_str(), file.get<std::string>().c_str());
    }
  }
  return to_int(ExitCode::kDone);
}

}  // namespace

void add_keygen(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto options = std::make_shared<KeygenOptions>();
  CLI::App* command =
      app.add_subcommand("keygen", "Make a pre-shared key, an authority or a host's certificate");
  CLI::Option* psk =
      command->add_option("--psk", options->psk, "Write a new pre-shared key")->type_name("FILE");
  CLI::Option* ca =
      command
          ->add_option("--ca", options->ca,
                       "The authority NAME.pem and NAME.key: made, or used with --cert")
          ->type_name("NAME")
          ->excludes(psk);
  CLI::Option* cert =
      command->add_option("--cert", options->cert, "Write a host's NAME.pem and NAME.key")
          ->type_name("NAME")
          ->needs(ca);
  command
      ->add_option("--name", options->names,
                   "A DNS name or IP address of the host; may be given often")
      ->type_name("NAME")
      ->needs(ca);
  command->add_option("--days", options->days, "How long the certificate lasts (default: 397)")
      ->check(CLI::Range(1, 3650))
      ->needs(cert);
  command->callback([&global, &chosen, options] {
    if (options->psk.empty() && options->ca.empty()) {
      throw CLI::RequiredError("--psk or --ca");
    }
    chosen = [&global, options] { return keygen(global, *options); };
  });
}

}  // namespace migrate::tool
