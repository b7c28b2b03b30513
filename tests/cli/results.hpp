// What the program prints with --json.
#pragma once

#include <nlohmann/json.hpp>

#include "tests/cli/process.hpp"

namespace orrery {

using Json = nlohmann::ordered_json;

// The result of a run that must have ended well.
inline Json result_of(const std::vector<std::string>& arguments) {
  const Finished done = orrery_with(arguments);
  REQUIRE_MESSAGE(done.exit == 0, done.err << done.out);
  return done.json<Json>();
}

}  // namespace orrery
