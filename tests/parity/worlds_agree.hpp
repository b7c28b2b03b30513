// A training in sim and on cpu gives the same losses, parameters, traffic, peaks and counts.
#pragma once

#include <doctest/doctest.h>

#include "tests/parity/training_run.hpp"

namespace orrery {

inline void check_same_traffic(const RankReport& a, const RankReport& b) {
  REQUIRE(a.channels.size() == b.channels.size());
  for (std::size_t i = 0; i < a.channels.size(); ++i) {
    CHECK(a.channels[i].group == b.channels[i].group);
    CHECK(a.channels[i].lane == b.channels[i].lane);
    CHECK(a.channels[i].use.kind == b.channels[i].use.kind);
    CHECK(a.channels[i].use.calls == b.channels[i].use.calls);
    CHECK(a.channels[i].use.bytes == b.channels[i].use.bytes);
  }
}

inline void check_worlds_agree(const TrainingCase& c) {
  const Trained sim = train_in_sim(c);
  const Trained cpu = train_on_cpu(c);
  CHECK(sim.losses.size() == static_cast<std::size_t>(c.steps));
  CHECK(sim.losses == cpu.losses);
  CHECK((under_sanitizer || sim.losses.back() < sim.losses.front()));
  CHECK(sim.state == cpu.state);
  for (std::size_t rank = 0; rank < sim.report.ranks.size(); ++rank) {
    check_same_traffic(sim.report.ranks[rank], cpu.report.ranks[rank]);
    CHECK(sim.report.ranks[rank].peak == cpu.report.ranks[rank].peak);
    CHECK(sim.report.ranks[rank].peak_by_label == cpu.report.ranks[rank].peak_by_label);
    CHECK(sim.report.ranks[rank].operations == cpu.report.ranks[rank].operations);
    CHECK(sim.report.ranks[rank].matrix_flops == cpu.report.ranks[rank].matrix_flops);
  }
}

}  // namespace orrery
