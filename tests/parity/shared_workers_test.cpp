// Workers whose ranks share layers or samples, of algorithms that take micro-batches one by one.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/parity/small_transformers.hpp"
#include "tests/support/algorithm_run.hpp"

namespace orrery {
namespace {

Model llama_on_axes(int tensor, int context, int micro_batches, bool sequence = false) {
  TransformerShape s = as_llama(small_gpt());
  s.layers = 2;
  s.tensor = tensor;
  s.context = context;
  s.sequence_parallel = sequence;
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
    return llama_on_axes(tensor, context, micro_batches);
  };
  return c;
}

// The mean over a worker's ranks of losses by step, of the first worker.
std::vector<double> losses_of_all(const WorldResult& result, const AlgorithmCase& c) {
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
      return losses_of_all(result, c);
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

// Where messages have weights, passes read what the worker knows of the mean and not what it steps.
TEST_CASE("workers that push and are pipelines hold what whole ones do, and send as much") {
  for (const std::string name : {"overlap-sgp", "overlap-sgp, overlap: 3", "sgp"}) {
    CAPTURE(name);
    AlgorithmCase c = llama_case("{name: " + name + ", final_average: false}", 1, 1);
    c.replicas = 3;
    c.micro_batches = 4;
    const WorldResult whole = run_in_sim(setup_of(c), training_of(c));
    REQUIRE_MESSAGE(!whole.error, why(whole));
    for (const std::string schedule : {"1f1b", "zb-h1"}) {
      CAPTURE(schedule);
      c.pipeline = 2;
      c.schedule = schedule;
      const WorldSetup setup = setup_of(c);
      const WorldResult sim = run_in_sim(setup, training_of(c)),
                        cpu = run_in_cpu(setup, training_of(c));
      for (const WorldResult* result : {&sim, &cpu}) REQUIRE_MESSAGE(!result->error, why(*result));
      CHECK(sim.channels == cpu.channels);
      CHECK(sim.peaks == cpu.peaks);
      std::vector<std::vector<float>> stages(static_cast<std::size_t>(c.replicas));
      for (const int stage : {0, 1})
        for (int rank = 0; rank < setup.options.grid.size(); ++rank) {
          if (setup.options.grid.coordinate(rank, Axis::pipeline) != stage) continue;
          const auto at = static_cast<std::size_t>(rank);
          CHECK(sim.notes[at].checkpoints[0].fields == cpu.notes[at].checkpoints[0].fields);
          std::int64_t pushed = 0;
          for (const std::string& line : sim.channels)
            if (line.starts_with(std::to_string(rank) + ' ') &&
                line.find("/sgp ") != std::string::npos)
              pushed += std::stoll(line.substr(line.rfind(' ')));
          CHECK(pushed == sent_by_cost_block(sim, at));
          auto& all =
              stages[static_cast<std::size_t>(setup.options.grid.coordinate(rank, Axis::island))];
          const std::vector<float> part = state_of(sim, at, "replica.parameters");
          all.insert(all.end(), part.begin(), part.end());
        }
      for (std::size_t worker = 0; worker < stages.size(); ++worker) {
        const std::vector<float> expected = state_of(whole, worker, "replica.parameters");
        REQUIRE(stages[worker].size() == expected.size());
        double apart = 0;
        for (std::size_t i = 0; i < expected.size(); ++i)
          apart = std::max(apart, std::fabs(static_cast<double>(stages[worker][i] - expected[i])));
        CHECK(apart < 1e-5);
      }
    }
  }
}

TEST_CASE("workers that push and divide tokens follow whole ones") {
  for (const std::string name : {"sgp", "overlap-sgp"}) {
    CAPTURE(name);
    const AlgorithmCase one = llama_case("{name: " + name + "}", 1, 1);
    AlgorithmCase two = llama_case("{name: " + name + "}", 2, 1);
    two.model = [](Rank&, int micro_batches) { return llama_on_axes(2, 1, micro_batches, true); };
    const WorldResult whole = run_in_sim(setup_of(one), training_of(one)),
                      divided = run_in_sim(setup_of(two), training_of(two));
    for (const WorldResult* result : {&whole, &divided})
      REQUIRE_MESSAGE(!result->error, why(*result));
    const std::vector<double> expected = losses_of_all(whole, one),
                              found = losses_of_all(divided, two);
    for (std::size_t step = 0; step < expected.size(); ++step)
      CHECK(found[step] == doctest::Approx(expected[step]).epsilon(1e-5));
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
    const std::vector<double> all = losses_of_all(sim, c);
    CHECK(all.back() < all.front());
    std::vector<std::vector<float>> held;
    for (std::size_t rank = 0; rank < 4; ++rank) {
      held.push_back(state_of(sim, rank, "replica.parameters"));
      CHECK(held.back() == state_of(cpu, rank, "replica.parameters"));
    }
    CHECK(held[0] == held[2]);  // of the other replica
    CHECK(held[1] == held[3]);
    std::size_t at = 0, alike = 0;
    for (const auto& block : llama_on_axes(2, 1, c.micro_batches).blocks)
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
