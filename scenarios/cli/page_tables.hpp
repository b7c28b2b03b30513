// The tables of a page, as HTML; empty where there is nothing to tell.
#pragma once

#include <string>
#include <vector>

#include "scenarios/cli/page.hpp"

namespace orrery::cli {

// What the results are of, and how they came about.
std::string facts_table(const std::vector<PageResult>& results, const Provenance& provenance);
std::string communication_table(const std::vector<PageResult>& results);
// Every kernel of every operation, by time of the first result that tells; of profiles, where there
// are any.
std::string kernels_table(const std::vector<PageResult>& results);
// What GPUs ran for them, where CUPTI told.
std::string functions_table(const std::vector<PageResult>& results);
std::string assumptions_table(const std::vector<PageResult>& results);

}  // namespace orrery::cli
