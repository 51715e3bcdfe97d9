// migrate image: what is in checkpoint images, whether they are whole, and chains made one file.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "command.hpp"
#include "image_json.hpp"
#include "migrate/image.hpp"
#include "progress_line.hpp"

namespace migrate::tool {
namespace {

struct ImageOptions {
  std::string path;
  std::string into;
  std::string compress = "auto";
  unsigned threads = 0;
  ImageSearch search;
};

void print_text(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

int inspect(const GlobalOptions& global, const ImageOptions& options) {
  const auto info = inspect_image(options.path, options.search);
  if (!info) return fail(global, info.error());
  if (global.json) {
    print_json(to_json(*info));
  } else {
    print_text(image_text(*info));
  }
  return to_int(ExitCode::kDone);
}

int verify(const GlobalOptions& global, const ImageOptions& options) {
  const auto verified = verify_image(options.path, options.search, options.threads);
  if (!verified) return fail(global, verified.error());
  if (global.json) {
    print_json({{"path", options.path},
                {"outcome", "whole"},
                {"files", verified->files},
                {"pages", verified->pages},
                {"bytes", verified->bytes}});
  } else {
    print_text(fmt::format("{} is whole: {} pages in {} file{}, {}\n", options.path,
                           verified->pages, verified->files, verified->files == 1 ? "" : "s",
                           human_bytes(static_cast<double>(verified->bytes))));
  }
  return to_int(ExitCode::kDone);
}

int flatten(const GlobalOptions& global, const ImageOptions& options) {
  OutgoingOptions parsed;
  if (const Status set = set_option(parsed, "compress", options.compress); !set) {
    return fail(global, set.error());
  }
  const std::string& into = options.into.empty() ? options.path : options.into;
  const auto written =
      flatten_image(options.path, into, options.search, parsed.compress, options.threads);
  if (!written) return fail(global, written.error());
  if (global.json) {
    print_json({{"path", into},
                {"id", written->id},
                {"file_bytes", written->file_bytes},
                {"stored_pages", written->stored_pages}});
  } else {
    print_text(fmt::format("{} needs no other image now: {}\n", into,
                           human_bytes(static_cast<double>(written->file_bytes))));
  }
  return to_int(ExitCode::kDone);
}

using Run = int (*)(const GlobalOptions&, const ImageOptions&);

CLI::App* add(CLI::App& group, const GlobalOptions& global, Action& chosen,
              const std::shared_ptr<ImageOptions>& options, const char* name, const char* help,
              Run run) {
  CLI::App* command = group.add_subcommand(name, help);
  command->add_option("FILE", options->path, "The image")->required()->type_name("");
  command
      ->add_option("--parent", options->search.parents,
                   "Where an image is that this one is based on, if not where it says; any number")
      ->type_name("FILE");
  command->callback([&global, &chosen, options, run] {
    chosen = [&global, options, run] { return run(global, *options); };
  });
  return command;
}

}  // namespace

void add_image(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto options = std::make_shared<ImageOptions>();
  CLI::App* group = app.add_subcommand("image", "Look at checkpoint images, check or merge them");
  group->require_subcommand(1);
  group->fallthrough();
  add(*group, global, chosen, options, "inspect",
      "Say what is in an image, and in those it is based on", inspect);
  CLI::App* check = add(*group, global, chosen, options, "verify",
                        "Read all of an image and compare every hash in it", verify);
  CLI::App* merge = add(*group, global, chosen, options, "flatten",
                        "Make an image that is based on others one that needs none", flatten);
  merge->add_option("--into", options->into, "Write it there (default: FILE is replaced)")
      ->type_name("FILE");
  merge->add_option("--compress", options->compress, "auto, none or zstd[:LEVEL] (default: auto)")
      ->type_name("HOW");
  for (CLI::App* command : {check, merge}) {
    command->add_option("--threads", options->threads, "Threads (default: one a processor)")
        ->type_name("N");
  }
}

}  // namespace migrate::tool
