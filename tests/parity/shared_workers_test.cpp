// Workers whose ranks share layers or samples, of algorithms that take micro-batches one by one.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/parity/small_transformers.hpp"
#include "tests/support/algorithm_run.hpp"

namespace orrery {
namespace {

Model shared_llama(int tensor, int context, int micro_batches) {
  TransformerShape s = as_llama(small_gpt());
  s.layers = 2;
  s.tensor = tensor;
  s.context = context;
  s.sequence = 16;
  s.micro_batches = micro_batches;
  return make_transformer(s, test_text());
}

// Two workers, of one rank or of several that share a Llama.
AlgorithmCase llama_case(const std::string& algorithm, int tensor, int context) {
  AlgorithmCase c;
  c.algorithm = algorithm;
  c.replicas = 2;
  c.steps = 8;
  c.tensor = tensor;
  c.context = context;
  c.model = [tensor, context](Rank&, int micro_batches) {
    return shared_llama(tensor, context, micro_batches);
  };
  return c;
}

// The mean over a worker's ranks of losses by step, of the first worker.
std::vector<double> losses(const WorldResult& result, const AlgorithmCase& c) {
  std::vector<double> mean(static_cast<std::size_t>(c.steps));
  const auto ranks = static_cast<std::size_t>(c.tensor * c.context);
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const std::vector<double> here = losses_of(result, rank, c.steps);
    for (std::size_t step = 0; step < mean.size(); ++step)
      mean[step] += here[step] / static_cast<double>(ranks);
  }
  return mean;
}

const std::vector<std::string> decoupled{"acco", "dpu", "weight-prediction"};

}  // namespace

TEST_CASE("where communication is quick, workers that share layers or samples follow whole ones") {
  std::vector<std::string> shared = decoupled;
  shared.insert(shared.end(), {"sgp", "overlap-sgp"});
  for (const std::string& name : shared) {
    CAPTURE(name);
    const auto run = [&](int tensor, int context) {
      const AlgorithmCase c = llama_case("{name: " + name + "}", tensor, context);
      const WorldResult result = run_in_sim(setup_of(c), training_of(c));
      REQUIRE_MESSAGE(!result.error, why(result));
      return losses(result, c);
    };
    const std::vector<double> whole = run(1, 1);
    CHECK(whole.back() < whole.front());
    for (const std::vector<double>& parts : {run(2, 1), run(1, 2), run(2, 2)})
      for (std::size_t step = 0; step < whole.size(); ++step)
        CHECK(parts[step] == doctest::Approx(whole[step]).epsilon(1e-5));
  }
}

TEST_CASE("ranks of one worker take as many micro-batches, however late each hears of the buffer") {
  for (const std::string& name : decoupled) {
    CAPTURE(name);
    const AlgorithmCase c = llama_case("{name: " + name + "}", 2, 2);
    WorldSetup slow = recording(setup_of(c));
    slow.machine.bandwidth = BytesPerSecond(2e6);
    const WorldResult sim = run_in_sim(slow, training_of(c));
    REQUIRE_MESSAGE(!sim.error, why(sim));
    // Decided as in sim, the same bits on cpu; deciding by itself there, as many of all.
    const WorldResult same = run_in_cpu(replaying(slow, sim), training_of(c));
    const WorldResult own = run_in_cpu(setup_of(c), training_of(c));
    for (const WorldResult* result : {&same, &own}) REQUIRE_MESSAGE(!result->error, why(*result));
    std::int64_t taken = 0;
    for (std::size_t rank = 0; rank < sim.notes.size(); ++rank) {
      CHECK(sim.notes[rank].checkpoints[0].fields == same.notes[rank].checkpoints[0].fields);
      for (const WorldResult* result : {&sim, &own})
        CHECK(staleness_of(*result, rank) == staleness_of(*result, rank / 4 * 4));
    }
    for (const auto& [late, micro_batches] : staleness_of(sim, 0)) taken += micro_batches;
    CHECK(taken > c.steps * c.micro_batches);
  }
}

// DeMo and PowerSGD compress each parameter by itself, of a divided one each rank its part.
TEST_CASE("ranks that share layers compress what they hold alike alike") {
  for (const std::string name : {"demo, kept: 4, optimizer: {name: sgd, lr: 1e-3}", "powersgd"}) {
    CAPTURE(name);
    AlgorithmCase c = llama_case("{name: " + name + "}", 2, 1);
    const WorldResult sim = run_in_sim(setup_of(c), training_of(c)),
                      cpu = run_in_cpu(setup_of(c), training_of(c));
    for (const WorldResult* result : {&sim, &cpu}) REQUIRE_MESSAGE(!result->error, why(*result));
    const std::vector<double> all = losses(sim, c);
    CHECK(all.back() < all.front());
    std::vector<std::vector<float>> held;
    for (std::size_t rank = 0; rank < 4; ++rank) {
      held.push_back(state_of(sim, rank, "replica.parameters"));
      CHECK(held.back() == state_of(cpu, rank, "replica.parameters"));
    }
    CHECK(held[0] == held[2]);  // of the other replica
    CHECK(held[1] == held[3]);
    std::size_t at = 0, alike = 0;
    for (const auto& block : shared_llama(2, 1, c.micro_batches).blocks)
      for (const ParameterSpec& spec : block->parameters())
        for (std::int64_t i = 0; i < spec.elements; ++i, ++at) {
          if (spec.division.divides(Axis::tensor)) continue;
          ++alike;
          if (held[0][at] != held[1][at]) FAIL(spec.name << ' ' << i);
        }
    CHECK(at == held[0].size());
    CHECK(alike == 16 * 5);  // two norms in each of two layers, and the last one
  }
}

}  // namespace orrery
