// Results side by side as a web page: one file, with its drawings in it and nothing from elsewhere,
// in the light or dark colours of who reads it. It is XML too.
#pragma once

#include <string>
#include <vector>

#include "scenarios/cli/provenance.hpp"

namespace orrery::cli {

struct PageResult {
  std::string name;  // "measured", or a file
  std::string json;  // as to_json makes it
  // Other runs of the same, among which it is: how far figures spread.
  std::vector<std::string> repeats = {};
  // A run of the same whose kernels were measured one by one; "": none.
  std::string profile = {};
};

struct Page {
  std::string title;
  std::vector<PageResult> results;  // the later ones are compared with the first
  Provenance provenance;
};

// Throws what reading JSON throws for what is no result.
std::string to_html(const Page& page);

}  // namespace orrery::cli
