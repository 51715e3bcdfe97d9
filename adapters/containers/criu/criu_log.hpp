// What CRIU's log says of a failure. Pure: text in, text out.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace migrate::containers {

/// The file in the folder of images that the log goes to.
inline constexpr char kCriuLog[] = "criu.log";

/// The last `at_most` errors of a log, oldest first, each once: without times, pids, places in the
/// source ("Error (criu/sk-tcp.c:99): "), and without lines that only say that it failed.
[[nodiscard]] std::vector<std::string> criu_errors(std::string_view log, std::size_t at_most);

/// The end of the log in a folder, at most 64 KiB; empty where there is none.
[[nodiscard]] std::string read_criu_log(int images_fd);

}  // namespace migrate::containers
