// A training by an algorithm of the table in sim and on cpu: the same values, peaks, traffic and
// states, and bytes as its cost block says.
#pragma once

#include <doctest/doctest.h>

#include "tests/support/algorithm_run.hpp"

namespace orrery {

inline void check_alike(const WorldResult& sim, const WorldResult& cpu) {
  REQUIRE_MESSAGE(!sim.error, why(sim));
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  CHECK(sim.noted() == cpu.noted());
  CHECK(sim.peaks == cpu.peaks);
  CHECK(sim.channels == cpu.channels);
  for (std::size_t i = 0; i < sim.notes.size(); ++i) {
    CHECK(sim.notes[i].checkpoints == cpu.notes[i].checkpoints);
    CHECK(sent(sim, i) == sent_by_cost_block(sim, i));
  }
}

inline WorldResult in_both_worlds(const AlgorithmCase& c) {
  const WorldResult sim = run_in_sim(setup_of(c), training_of(c));
  check_alike(sim, run_in_cpu(setup_of(c), training_of(c)));
  return sim;
}

}  // namespace orrery
