// Internal: YAML text to Node. Users include document.hpp.
#pragma once

#include "backend/core/config_error.hpp"
#include "backend/core/config_tree.hpp"

namespace orrery::detail {

constexpr int max_depth = 64;
constexpr std::size_t max_nodes = 200'000;
constexpr std::size_t max_bytes = std::size_t{16} << 20;

// Parses the text after its first `skip` bytes, which must contain no line end; marks refer to the
// whole text. Duplicate keys and refused constructs are appended to `problems`; syntax errors throw
// ConfigError.
Node parse_yaml(const std::shared_ptr<const SourceText>& source, std::size_t skip,
                std::vector<ConfigMessage>& problems);

}  // namespace orrery::detail
