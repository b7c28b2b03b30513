// The numbers of platform files with their sources, flat.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "backend/core/source.hpp"
#include "platforms/platform.hpp"

namespace orrery::cli {

struct SourcedNumber {
  std::string path;   // "memory.bandwidth"
  std::string value;  // "2.039TBps"
  std::optional<Source> source;
};

// Every leaf of a platform file that carries a source.
std::vector<SourcedNumber> sourced_numbers(PlatformKind kind, const std::string& name,
                                           const std::string& data_root);

// "datasheet: NVIDIA A100 …, table …", "fitted, residual 10 %, on 4 sets: …".
std::string source_text(const Source& source);

const std::vector<PlatformKind>& platform_kinds();

}  // namespace orrery::cli
