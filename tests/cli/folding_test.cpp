// What `run.folding` changes of a result: how many ranks were simulated, and nothing else.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

Json simulated(std::vector<std::string> arguments, const std::string& folding, int ranks) {
  arguments.insert(arguments.begin(), {"simulate", quickstart, "--json"});
  arguments.insert(arguments.end(), {"--set", "run.folding=" + folding});
  Json result = orrery_with(arguments).json<Json>();
  CHECK(result["simulated_ranks"] == ranks);
  for (const char* key : {"simulated_ranks", "fingerprint", "host"}) result.erase(key);
  return result;
}

void check_alike(const std::vector<std::string>& arguments, int folded_into) {
  const Json unfolded = simulated(arguments, "off", 16);
  CHECK(unfolded.dump() == simulated(arguments, "on", folded_into).dump());
  CHECK(unfolded.dump() == simulated(arguments, "auto", folded_into).dump());
}

}  // namespace

TEST_CASE("a folded simulation prints the same result from fewer ranks") {
  check_alike({}, 1);
  check_alike({"--set", "parallel.pipeline=4", "--set", "data.micro_batch=2"}, 4);
}

TEST_CASE("folding that is asked for and cannot be is refused with its reason") {
  const Finished run = orrery_with(
      {"simulate", quickstart, "--set", "run.folding=on", "--set", "run.fidelity=flow"});
  CHECK(run.exit == 3);
  CHECK(contains(run.err,
                 "ranks cannot be folded: each of its transfers shares links with those "
                 "of all ranks"));
  const Finished stages = orrery_with({"simulate", quickstart, "--set", "run.folding=on", "--set",
                                       "parallel.pipeline=16", "--set", "data.micro_batch=1"});
  CHECK(stages.exit == 3);
  CHECK(contains(stages.err, "the program asks for its coordinate along pipeline"));
  CHECK(contains(stages.err, "algorithms/"));
}
