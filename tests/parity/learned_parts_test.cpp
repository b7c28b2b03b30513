// LOpt-A and LAgg-A on parts of tensors: what they see of a tensor is over the whole of it, however
// a worker's ranks divide its layers, its experts and its weights.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/parity/inside_replica.hpp"
#include "tests/parity/learned_network.hpp"
#include "tests/parity/results.hpp"
#include "tests/support/algorithm_run.hpp"

namespace orrery {
namespace {

constexpr int part_workers = 2;
constexpr std::int64_t part_steps = 6, meetings = 3;

// With vectors that ranks divide and such that they have alike, and an embedding used twice.
TransformerShape gpt() {
  TransformerShape s = shared_gpt();
  s.layers = 2;
  return s;
}

struct Learned {
  std::string name, more{}, inner = "name: ddp";
  int tensor = 1, expert = 1;
  bool sequence = false;
};

// Two workers of two replicas each.
AlgorithmCase parts_case(const Learned& l, TransformerShape shape, const std::string& weights) {
  shape.sequence_parallel = l.sequence;
  shape.tensor = l.tensor;
  shape.expert = l.expert;
  AlgorithmCase c;
  c.algorithm = "{name: " + l.name + l.more + ", inner_steps: 2, workers: 2, weights: " + weights +
                ", inner: {" + l.inner + ", optimizer: {name: sgd, lr: 0.5}}}";
  c.replicas = 4;
  c.steps = part_steps;
  c.tensor = l.tensor;
  c.expert = l.expert;
  c.model = [shape](Rank&, int micro_batches) {
    TransformerShape s = shape;
    s.micro_batches = micro_batches;
    return make_transformer(s, test_text());
  };
  return c;
}

WorldResult in_sim(const AlgorithmCase& c) { return ran(run_in_sim(setup_of(c), training_of(c))); }

// The mean over all ranks, by step.
std::vector<double> losses_of(const WorldResult& result) {
  std::vector<double> mean(part_steps);
  for (std::size_t rank = 0; rank < result.notes.size(); ++rank)
    for (std::size_t step = 0; step < mean.size(); ++step)
      mean[step] +=
          losses_of(result, rank, part_steps)[step] / static_cast<double>(result.notes.size());
  return mean;
}

void check_follow_whole_ones(const std::string& name, const std::string& more,
                             const TransformerShape& shape, const std::vector<Learned>& all) {
  const WeightsFile weights(random_network(name == "lopt-a" ? 1 : part_workers));
  const std::vector<double> whole =
      losses_of(in_sim(parts_case({name, more}, shape, weights.path())));
  CHECK(std::fabs(whole.back() - whole.front()) > 1e-3);
  for (Learned each : all) {
    each.name = name;
    each.more = more;
    CAPTURE(name + more + ", " + each.inner);
    CAPTURE(each.tensor);
    CAPTURE(each.expert);
    const std::vector<double> parts = losses_of(in_sim(parts_case(each, shape, weights.path())));
    for (std::size_t step = 0; step < whole.size(); ++step)
      CHECK(parts[step] == doctest::Approx(whole[step]).epsilon(1e-5));
  }
}

Learned over(int tensor, int expert, const std::string& inner = "name: ddp",
             bool sequence = false) {
  return {"", "", inner, tensor, expert, sequence};
}

}  // namespace

TEST_CASE("learned optimizers of workers that share layers follow those of whole workers") {
  for (const auto& [name, more] :
       {std::pair{"lopt-a", ""}, {"lagg-a", ""}, {"lagg-a", ", sharded: false"}})
    check_follow_whole_ones(name, more, gpt(),
                            {over(2, 1), over(4, 1), over(2, 1, "name: ddp", true)});
}

TEST_CASE("learned optimizers of workers that divide their weights follow those of whole workers") {
  for (const auto& [name, more] :
       {std::pair{"lopt-a", ""}, {"lagg-a", ""}, {"lagg-a", ", sharded: false"}})
    check_follow_whole_ones(name, more, gpt(),
                            {over(1, 1, "name: fsdp"), over(1, 1, "name: zero, stage: 1"),
                             over(1, 1, "name: zero, stage: 2"), over(2, 1, "name: fsdp")});
}

TEST_CASE("learned optimizers of workers that divide experts follow those of whole workers") {
  for (const auto& [name, more] : {std::pair{"lopt-a", ""}, {"lagg-a", ""}})
    check_follow_whole_ones(
        name, more, shared_mixture(),
        {over(1, 2), over(2, 2), over(1, 2, "name: fsdp"), over(2, 2, "name: zero, stage: 1")});
}

// L and T of the model as no rank divides it.
TEST_CASE("sums over whole tensors cost 4 L and 4 (K + 27) T bytes, in an all-reduce each") {
  std::int64_t lines = 0, tensors = 0;
  for (const auto& block : make_transformer(gpt(), nullptr).blocks)
    for (const ParameterSpec& p : block->parameters()) {
      ++tensors;
      if (p.columns > 1) lines += p.elements / p.columns + p.columns;
    }
  const WeightsFile one(random_network(1)), two(random_network(part_workers));
  struct Expected {
    Learned learned;
    std::string group;
    std::int64_t ranks, features;
  };
  for (const Expected& e :
       {Expected{{"lopt-a", "", "name: ddp", 2}, "tensor", 2, 28},
        Expected{{"lopt-a", "", "name: fsdp", 2}, "tensor+shard", 4, 28},
        Expected{{"lagg-a", "", "name: ddp", 2}, "tensor+island", 4, 29},
        Expected{{"lagg-a", ", sharded: false", "name: fsdp"}, "shard", 2, 29}}) {
    CAPTURE(e.group);
    const AlgorithmCase c = parts_case(e.learned, gpt(), (e.features == 28 ? one : two).path());
    const WorldResult sim = in_sim(c), cpu = ran(run_in_cpu(setup_of(c), training_of(c)));
    CHECK(sim.noted() == cpu.noted());
    CHECK(sim.peaks == cpu.peaks);
    CHECK(sim.channels == cpu.channels);
    const std::int64_t bytes =
        meetings * 2 * (e.ranks - 1) * (4 * lines + 4 * e.features * tensors) / e.ranks;
    const std::string expected =
        e.group + "/learned all_reduce " + std::to_string(2 * meetings) + ' ';
    for (std::size_t rank = 0; rank < sim.notes.size(); ++rank) {
      CHECK(sim.notes[rank].checkpoints == cpu.notes[rank].checkpoints);
      std::int64_t learned = 0;
      for (const std::string& line : sim.channels)
        if (line.starts_with(std::to_string(rank) + ' ' + expected))
          learned += std::stoll(line.substr(line.rfind(' ')));
      CHECK(learned == bytes);
      if (e.learned.tensor == 1) CHECK(sent(sim, rank) == sent_by_cost_block(sim, rank));
    }
  }
}

TEST_CASE("what ranks that share layers have alike, a learned optimizer keeps alike") {
  const WeightsFile one(random_network(1));
  const AlgorithmCase c = parts_case({"lopt-a", "", "name: ddp", 2}, gpt(), one.path());
  const WorldResult result = in_sim(c);
  std::vector<std::vector<float>> held;
  for (std::size_t rank = 0; rank < result.notes.size(); ++rank)
    held.push_back(state_of(result, rank, "replica.parameters"));
  for (std::size_t rank = 2; rank < held.size(); ++rank) CHECK(held[rank] == held[rank % 2]);
  TransformerShape divided = gpt();
  divided.tensor = 2;
  std::size_t at = 0, alike = 0;
  for (const auto& block : make_transformer(divided, nullptr).blocks)
    for (const ParameterSpec& spec : block->parameters())
      for (std::int64_t i = 0; i < spec.elements; ++i, ++at) {
        if (spec.division.divides(Axis::tensor)) continue;
        ++alike;
        if (held[0][at] != held[1][at]) FAIL(spec.name << ' ' << i);
      }
  CHECK(at == held[0].size());
  CHECK(alike > 0);
}

TEST_CASE("what a learned optimizer keeps of parts of tensors is kept when a training stops") {
  const WeightsFile one(random_network(1)), two(random_network(part_workers));
  for (const auto& [name, file] : {std::pair{"lopt-a", &one}, {"lagg-a", &two}}) {
    CAPTURE(name);
    AlgorithmCase whole = parts_case({name, "", "name: fsdp", 2}, gpt(), file->path());
    const WorldResult at_once = in_sim(whole);
    AlgorithmCase first = whole;
    first.stop = 3;
    const WorldResult stopped = in_sim(first);
    whole.resume = &stopped;
    const WorldResult resumed = in_sim(whole);
    for (std::size_t rank = 0; rank < at_once.notes.size(); ++rank)
      CHECK(resumed.notes[rank].checkpoints[0] == at_once.notes[rank].checkpoints[0]);
  }
}

}  // namespace orrery
