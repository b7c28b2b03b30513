// What ranks tell at the end, from process to process.
#include "scenarios/cli/told.hpp"

#include <doctest/doctest.h>

using namespace orrery;

TEST_CASE("what the ranks of a process told is added to what those of another did") {
  const Scenario scenario;
  cli::Told there(scenario), here(scenario);
  there.staleness.add({{{0, false}, 7}, {{2, true}, 5}});
  there.unplanned = {{}, {{0, 40}, {3, 48}}};
  here.staleness.add({{{0, false}, 1}});
  here.unplanned = {{{1, 8}}, {}};
  add_to(here, text_of(there));
  CHECK(here.staleness.counts() == GradientVersions{{{0, false}, 8}, {{2, true}, 5}});
  REQUIRE(here.unplanned.size() == 2);
  CHECK(here.unplanned[0] == std::map<std::int64_t, std::int64_t>{{1, 8}});
  CHECK(here.unplanned[1] == there.unplanned[1]);

  cli::Told nothing(scenario);
  add_to(here, text_of(nothing));
  CHECK(here.staleness.counts().size() == 2);
}
