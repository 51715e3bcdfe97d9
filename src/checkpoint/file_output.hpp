// make_file_output() by other calls than the kernel's own: for tests.
#pragma once

#include "checkpoint/file_calls.hpp"
#include "checkpoint/image_output.hpp"

namespace migrate::checkpoint {

/// `calls` must outlive it.
Result<std::unique_ptr<ImageOutput>> make_file_output(const std::string& path,
                                                      const FileOutputOptions& options,
                                                      FileCalls& calls);

}  // namespace migrate::checkpoint
