// Which program this is.
#pragma once

#include <string>

namespace orrery::cli {

std::string version();  // "0.1.0"
std::string
build();  // compiler, build type and processor family: what bits of values are promised for

}  // namespace orrery::cli
