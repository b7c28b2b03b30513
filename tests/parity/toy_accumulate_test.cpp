// Accumulate while you communicate, in the manner of ACCO: a rank computes micro-batches until the
// all_reduce of the last round is done, so the number of micro-batches is a decision of time. The
// counts of a round weigh its gradients and live in always-valued tensors.
//
// README.md names the breaks of the product by which it was seen to fail.
#include <doctest/doctest.h>

#include <algorithm>

#include "tests/support/worlds.hpp"

using namespace orrery;

namespace {

constexpr std::int64_t length = 16;

struct Workers {
  int rounds = 5;
  std::vector<double> micro_batch_seconds;  // by rank
};

// gradient += x * count - rank-independent noise: any change of the number of calls changes bits.
KernelBody micro_batch() {
  return [](std::span<const View> v) {
    for (std::int64_t i = 0; i < v[1].elements; ++i)
      toy::floats(v[1])[i] += 0.3F * toy::floats(v[0])[i] + 0.01F * static_cast<float>(i);
    toy::floats(v[2])[0] += 1.0F;
  };
}
// x -= gradient / count; what was communicated is cleared for the next round.
KernelBody update() {
  return [](std::span<const View> v) {
    const float scale = 0.1F / toy::floats(v[2])[0];
    for (std::int64_t i = 0; i < v[0].elements; ++i)
      toy::floats(v[0])[i] -= scale * toy::floats(v[1])[i];
    std::fill_n(toy::floats(v[1]), v[1].elements, 0.0F);
    toy::floats(v[2])[0] = 0;
  };
}

void accumulate(Rank& rank, RankNotes& notes, const Workers& workers) {
  Stream &compute = rank.stream("compute"), &comm = rank.stream("comm");
  Channel &data = rank.channel(Axis::replicate, "gradients"),
          &counting = rank.channel(Axis::replicate, "counts");
  const Tensor x = toy::vector(rank, compute, length, "x");
  TensorOptions always;
  always.values = Values::always;
  std::vector<Tensor> gradients, counts;  // one pair grows while the other is communicated
  for (int i = 0; i < 2; ++i) {
    gradients.push_back(toy::vector(rank, compute, length, "gradient", Label::gradients));
    counts.push_back(rank.allocate(compute, Label::gradients, 1, Dtype::fp32, always));
    toy::fill(rank, compute, gradients.back(), 0);
    compute.upload(counts.back(), {0.0});
  }
  toy::fill(rank, compute, x, 1);
  const double seconds = workers.micro_batch_seconds[static_cast<std::size_t>(rank.id())];
  const Prepared step = toy::kernel(rank, "micro_batch", Seconds(seconds),
                                    {Role::read, Role::update, Role::update}, micro_batch());
  const Prepared apply =
      toy::kernel(rank, "update", Seconds(0), {Role::update, Role::update, Role::update}, update());
  compute.launch(step, {x, gradients[0], counts[0]});
  for (int round = 0; round < workers.rounds; ++round) {
    const std::size_t sent = static_cast<std::size_t>(round % 2), grown = 1 - sent;
    comm.after(compute.record());
    comm.all_reduce(gradients[sent], Reduce::sum, data);
    const Event reduced = comm.all_reduce(counts[sent], Reduce::sum, counting);
    int taken = 0;
    do {
      compute.launch(step, {x, gradients[grown], counts[grown]});
      rank.wait(compute.record());
      ++taken;
    } while (!rank.poll(reduced));
    compute.after(reduced);
    compute.launch(apply, {x, gradients[sent], counts[sent]});
    compute.mark_step(round);
    notes.values.push_back(taken);
  }
  for (double value : rank.read(x)) notes.values.push_back(value);
}

SharedProgram program(Workers workers) {
  return [workers](Rank& rank, RankNotes& notes) { accumulate(rank, notes, workers); };
}

// 4 ranks whose two all_reduces take 6 (0.5 s + 16 B / 32 B/s) + 6 (0.5 s + 1 B / 32 B/s) seconds.
WorldSetup slow_links() {
  WorldSetup setup = setup_for(4);
  setup.machine.alpha = Time(500'000'000'000);
  setup.machine.bandwidth = BytesPerSecond(32);
  return setup;
}

std::vector<double> counts_of(const WorldResult& result, std::size_t rank, const Workers& workers) {
  const auto& values = result.notes.at(rank).values;
  return {values.begin(), values.begin() + workers.rounds};
}

double total(const std::vector<double>& counts) {
  double sum = 0;
  for (double c : counts) sum += c;
  return sum;
}

}  // namespace

TEST_CASE("counts taken in sim and replayed on the CPU give the same bits") {
  const Workers workers{5, {1.0, 1.5, 0.7, 2.2}};
  const WorldResult sim = run_in_sim(recording(slow_links()), program(workers));
  REQUIRE_FALSE(sim.error.has_value());
  const WorldResult cpu = run_in_cpu(replaying(slow_links(), sim), program(workers));
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  CHECK(cpu.noted() == sim.noted());
  CHECK(cpu.peaks == sim.peaks);
  CHECK(cpu.channels == sim.channels);
  CHECK(total(counts_of(sim, 0, workers)) > 2 * workers.rounds);  // time did decide something
}

TEST_CASE("counts taken on the CPU and replayed in sim give the same bits") {
  const Workers workers{5, {1.0, 1.5, 0.7, 2.2}};
  const WorldResult cpu = run_in_cpu(recording(slow_links()), program(workers),
                                     {Throttle{Seconds(1e-4), BytesPerSecond(1e9)}});
  REQUIRE_FALSE(cpu.error.has_value());
  const WorldResult sim = run_in_sim(replaying(slow_links(), cpu), program(workers));
  REQUIRE_MESSAGE(!sim.error, why(sim));
  CHECK(sim.noted() == cpu.noted());
  CHECK(sim.peaks == cpu.peaks);
}

TEST_CASE("a replay in the world it was recorded in is the same run, trace included") {
  WorldSetup setup = slow_links();
  setup.trace = true;
  const Workers workers{4, {1.0, 1.25, 3.0, 0.5}};
  const WorldResult once = run_in_sim(recording(setup), program(workers));
  const WorldResult again = run_in_sim(replaying(setup, once), program(workers));
  REQUIRE_FALSE(again.error.has_value());
  CHECK(again.noted() == once.noted());
  CHECK(again.end == once.end);
}

TEST_CASE("four identical ranks take identical counts when the collective ends on a boundary") {
  // The collectives take 6 x 1 s and 6 x 0.53125 s, which is 49 micro-batches: completions of
  // kernels and of the collective fall on one instant, and a rank that saw its kernel's alone would
  // take a fiftieth.
  const Workers workers{6, std::vector<double>(4, 0.1875)};
  for (const Fidelity fidelity : {Fidelity::analytic, Fidelity::flow, Fidelity::messages}) {
    WorldSetup setup = slow_links();
    setup.fidelity = fidelity;
    const WorldResult sim = run_in_sim(setup, program(workers));
    REQUIRE_MESSAGE(!sim.error, why(sim));
    for (std::size_t rank = 0; rank < 4; ++rank)
      CHECK(counts_of(sim, rank, workers) == std::vector<double>(6, 49));
  }
}

TEST_CASE("counts go with the times, not with the numbers of the ranks") {
  std::vector<double> times{0.1875, 0.375, 0.75, 1.125};  // all meet the collective
  const Workers workers{6, times};
  const WorldResult first = run_in_sim(slow_links(), program(workers));
  std::vector<std::size_t> order{0, 1, 2, 3};
  while (std::next_permutation(order.begin(), order.end())) {
    Workers permuted = workers;
    for (std::size_t r = 0; r < 4; ++r) permuted.micro_batch_seconds[r] = times[order[r]];
    const WorldResult result = run_in_sim(slow_links(), program(permuted));
    for (std::size_t r = 0; r < 4; ++r)
      REQUIRE(counts_of(result, r, workers) == counts_of(first, order[r], workers));
  }
}

TEST_CASE("one of four workers that is four times slower takes about a quarter of the others") {
  const Workers workers{6, {0.1, 0.1, 0.1, 0.4}};
  const WorldResult sim = run_in_sim(slow_links(), program(workers));
  const double fast = total(counts_of(sim, 0, workers)), slow = total(counts_of(sim, 3, workers));
  CHECK(counts_of(sim, 1, workers) == counts_of(sim, 0, workers));
  CHECK(counts_of(sim, 2, workers) == counts_of(sim, 0, workers));
  CHECK(slow * 4 <= fast + 4 * workers.rounds);
  CHECK(slow * 4 >= fast - 4 * workers.rounds);
}

TEST_CASE("a log of another program is refused in both worlds") {
  const Workers workers{3, {1.0, 1.0, 1.0, 1.0}};
  WorldResult sim = run_in_sim(recording(slow_links()), program(workers));
  const Workers longer{4, workers.micro_batch_seconds};
  const WorldResult in_sim = run_in_sim(replaying(slow_links(), sim), program(longer));
  REQUIRE(in_sim.error.has_value());
  CHECK(in_sim.error->category() == Category::replay);
  const WorldResult in_cpu = run_in_cpu(replaying(slow_links(), sim), program(longer));
  REQUIRE(in_cpu.error.has_value());
  CHECK(in_cpu.error->category() == Category::replay);
}
