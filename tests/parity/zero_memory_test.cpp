// What ZeRO's stages and FSDP hold: the figures of the papers, and the peaks that the order of
// issue gives, which are the same in both worlds.
#include <doctest/doctest.h>

#include "algorithms/zero.hpp"
#include "tests/support/weights.hpp"
#include "tests/support/worlds.hpp"

namespace orrery {
namespace {

constexpr int zero_units = 12, zero_ranks = 4;
constexpr std::int64_t whole = 1024, shards = zero_units * whole / zero_ranks;

// One step of FSDP on 12 units of 1,024 elements. What is held at the peak, in elements:
// parameters, gathered ones, gradients.
SharedProgram fsdp(const ZeroOptions& zero, int micro_batches) {
  return [=](Rank& rank, RankNotes& notes) {
    Replica replica(rank, weights(zero_units, whole, Dtype::fp32),
                    {.micro_batches = micro_batches,
                     .optimizer = {.name = "sgd"},
                     .sharding = zero.sharding()});
    Zero algorithm(replica, zero);
    Progress progress(rank, {1, std::int64_t{zero_ranks} * micro_batches});
    train(algorithm, progress);
    const BytesByLabel& held = rank.ledger(Place::device).peak_by_label();
    for (const Label label : {Label::parameters, Label::communication, Label::gradients})
      notes.values.push_back(static_cast<double>(held[static_cast<std::size_t>(label)].value) / 4);
  };
}

void check_peak(const ZeroOptions& zero, std::int64_t gathered, std::int64_t gradients,
                int micro_batches = 1) {
  std::vector<double> expected;
  for (int rank = 0; rank < zero_ranks; ++rank)
    for (const std::int64_t held : {shards, gathered, shards + gradients})
      expected.push_back(static_cast<double>(held));
  WorldSetup setup = setup_for(zero_ranks, Axis::shard);
  setup.options.real_values = false;
  for (const double bandwidth : {1e8, 1e12}) {  // communication is exposed, or hidden
    setup.machine.bandwidth = BytesPerSecond(bandwidth);
    const WorldResult sim = run_in_sim(setup, fsdp(zero, micro_batches));
    REQUIRE_MESSAGE(!sim.error, why(sim));
    CHECK(sim.noted() == expected);
    const WorldResult cpu = run_in_cpu(setup, fsdp(zero, micro_batches));
    REQUIRE_MESSAGE(!cpu.error, why(cpu));
    CHECK(cpu.noted() == expected);
    CHECK(cpu.peaks == sim.peaks);
  }
}

ZeroOptions with(int prefetch, int limit, Reshard after_forward, bool reduce_each = true) {
  ZeroOptions zero{.reduce_each = reduce_each};
  zero.gather = {.prefetch = prefetch, .limit = limit, .after_forward = after_forward};
  return zero;
}

}  // namespace

TEST_CASE("FSDP holds its shards, two whole units and two whole gradients at its peak") {
  check_peak(with(1, 2, Reshard::yes), 2 * whole, 2 * whole);
}
TEST_CASE("FSDP without prefetch that has one unit whole at a time holds one") {
  check_peak(with(0, 1, Reshard::yes), whole, 2 * whole);
}
TEST_CASE("a limit of three lets FSDP hold a third unit until its last use is waited for") {
  check_peak(with(1, 3, Reshard::yes), 3 * whole, 2 * whole);
}
TEST_CASE("FSDP that keeps parameters after the forward holds all of them") {
  check_peak(with(1, 2, Reshard::no), zero_units * whole, whole);
}
TEST_CASE("gradients that add up over micro-batches are whole until the last") {
  check_peak(with(1, 2, Reshard::yes, false), 2 * whole, zero_units * whole, 2);
}

// Figure 1 of the paper: 7.5e9 parameters, 64 ranks, 2 bytes for a parameter and for a gradient, 12
// for Adam's state. Bytes that are held between steps.
TEST_CASE("7.5e9 parameters on 64 ranks take 120, 31.4, 16.6 and 1.875 GB in stages 0 to 3") {
  constexpr std::int64_t psi = 7'500'000'000;
  for (const auto& [stage, gigabytes] :
       {std::pair{0, 120.0}, {1, 31.40625}, {2, 16.640625}, {3, 1.875}}) {
    const ZeroOptions zero{.stage = stage};
    WorldSetup setup = setup_for(64, Axis::shard);
    setup.options.real_values = false;
    const WorldResult result = run_in_sim(setup, [&](Rank& rank, RankNotes& notes) {
      Replica replica(rank, weights(3, psi / 3, Dtype::bf16),
                      {.gradient_dtype = Dtype::bf16, .sharding = zero.sharding()});
      std::int64_t bytes = 0;
      for (const Label label : {Label::parameters, Label::gradients, Label::optimizer})
        bytes += rank.ledger(Place::device).peak_by_label()[static_cast<std::size_t>(label)].value;
      notes.values.push_back(static_cast<double>(bytes - 16) / 1e9);  // but for the step's number
    });
    REQUIRE_MESSAGE(!result.error, why(result));
    CAPTURE(stage);
    CHECK(result.noted() == std::vector<double>(64, gigabytes));
  }
}

}  // namespace orrery
