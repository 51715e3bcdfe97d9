// Which texts may travel: they end on terminals and in JSON.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace migrate::wire {

/// UTF-8 without control characters (U+0000..1F, U+007F..9F).
[[nodiscard]] bool is_plain_text(std::string_view text);

/// `text` with each offending byte as '?' (line feeds stay), of at most bytes_max bytes, cut
/// between characters.
[[nodiscard]] std::string clean_text(std::string_view text, std::size_t bytes_max);

}  // namespace migrate::wire
