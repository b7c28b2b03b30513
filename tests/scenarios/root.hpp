// Where tests of scenarios find the project's files.
#pragma once

#include <string>

inline const std::string root = ORRERY_SOURCE_DIR;
