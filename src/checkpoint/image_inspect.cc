#include "base/guarded.hpp"
#include "checkpoint/image_chain.hpp"
#include "migrate/image.hpp"

namespace migrate {
namespace {

using checkpoint::ImageFile;

ImageFileInfo info_of(const ImageFile& file) {
  ImageFileInfo info;
  info.path = file.path();
  info.id = to_text(file.header().id);
  if (file.header().incremental()) info.parent = to_text(file.header().parent);
  info.created_ns = file.header().created_ns;
  info.host = file.description().host;
  info.file_bytes = file.trailer().file_bytes;
  const auto& pages = file.directory().pages;
  info.stored_pages = pages.stored;
  info.zero_pages = pages.zero;
  info.duplicate_pages = pages.duplicate;
  info.parent_pages = pages.parent;
  info.state_bytes = file.directory().state_bytes;
  info.digest = file.directory().digest;
  return info;
}

Result<ImageInfo> inspect(const std::string& path, const ImageSearch& search) {
  MIGRATE_ASSIGN(const auto chain, checkpoint::ImageChain::open(path, search));
  ImageInfo info;
  for (const auto& file : chain->files()) info.chain.push_back(info_of(*file));
  info.guest = chain->top().description().guest;
  info.run_state = chain->top().description().run_state;
  MIGRATE_ASSIGN(const auto sections, chain->state());
  for (const auto& section : sections) info.sections.push_back({section.info, section.body.size()});
  return info;
}

}  // namespace

Result<ImageInfo> inspect_image(const std::string& path, const ImageSearch& search) {
  return guarded([&] { return inspect(path, search); });
}

}  // namespace migrate
