// One training by an algorithm of the table, in any world, on a small model: its losses, its final
// state, and what it says to have sent.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "algorithms/algorithm_table.hpp"
#include "algorithms/models/mlp.hpp"
#include "tests/support/worlds.hpp"

namespace orrery {

// The options of a scenario's `algorithm`, in YAML. Throws ConfigError.
inline AlgorithmPlan plan_of(const std::string& yaml) {
  const Document document = Document::parse_text(yaml);
  Problems problems;
  auto spec = read<AlgorithmSpec>(document, problems);
  read_algorithm(spec, "name", problems);
  problems.throw_if_any();
  return spec.plan;
}

// The bytes that models of tests read: every byte once, shuffled, many times.
inline std::shared_ptr<const std::string> test_text() {
  static const auto text = [] {
    std::string all;
    for (int i = 0; i < 4096; ++i) all.push_back(static_cast<char>((i * 167 + i / 256 * 31) % 256));
    return std::make_shared<const std::string>(all);
  }();
  return text;
}

inline Model small_mlp(Rank&, int micro_batches) {
  return make_mlp({.context = 4,
                   .embedding = 4,
                   .hidden = 12,
                   .layers = 4,
                   .vocabulary = 256,
                   .micro_batch = 2,
                   .micro_batches = micro_batches},
                  test_text());
}

struct AlgorithmCase {
  std::string algorithm;  // YAML
  int replicas = 4;
  std::int64_t steps = 12;
  int micro_batches = 2;
  int expert = 1;               // divides replicas
  int tensor = 1, context = 1;  // ranks of a replica; `model` says the same
  int pipeline = 1;
  std::string schedule = "1f1b";
  std::function<Model(Rank&, int micro_batches)> model = small_mlp;
  std::int64_t stop = -1;  // saves the state after this step instead of the last, and ends
  const WorldResult* resume = nullptr;  // goes on from its state
};

inline WorldSetup setup_of(const AlgorithmCase& c) {
  WorldSetup setup = setup_for(1);
  const AlgorithmPlan plan = plan_of(c.algorithm);
  const DataAxes axes = plan.divide(c.replicas).with_experts(c.expert);
  setup.options.grid.set(Axis::shard, axes.shard)
      .set(Axis::replicate, axes.replicate)
      .set(Axis::expert, axes.expert)
      .set(Axis::tensor, c.tensor)
      .set(Axis::context, c.context)
      .set(Axis::pipeline, c.pipeline)
      .set(Axis::island, axes.island);
  setup.options.seed = 7;
  for (const auto& service : plan.services)
    setup.services.emplace_back(service.name,
                                service.program(c.replicas, c.stop < 0 ? c.steps : c.stop));
  setup.machine.kernel_time = [](const Kernel& kernel, const Cost& cost) {
    return to_time(kernel.op == Op::custom && kernel.scalars[1] > 0
                       ? Seconds(kernel.scalars[1])
                       : Seconds(1e-6 + cost.matrix.value / 1e10));
  };
  return setup;
}

// Keeps, behind the state, how late gradients were applied.
inline void note_staleness(Rank& rank, Replica& replica, RankNotes& notes) {
  Saver saver(rank, notes.checkpoints.emplace_back());
  for (auto [late, micro_batches] : replica.staleness().counts())
    saver.field((late.predicted ? "predicted " : "made ") + std::to_string(late.updates),
                micro_batches);
}

// Micro-batches by "made N" and "predicted N": by how many updates late their gradients were
// applied, and by whether they were computed with parameters that updates had made.
using Lateness = std::map<std::string, std::int64_t>;
inline Lateness staleness_of(const WorldResult& result, std::size_t rank) {
  Lateness all;
  for (const auto& [name, bytes] : result.notes.at(rank).checkpoints.at(1).fields)
    std::memcpy(&all[name], bytes.data(), sizeof(std::int64_t));
  return all;
}

// Notes what it sent by its cost block, then the weights; keeps the state.
inline SharedProgram training_of(const AlgorithmCase& c) {
  return [c](Rank& rank, RankNotes& notes) {
    const AlgorithmPlan plan = plan_of(c.algorithm);
    const Model model = c.model(rank, c.micro_batches);
    ReplicaOptions options;
    options.micro_batches = c.micro_batches;
    options.schedule = c.schedule;
    options.optimizer = plan.optimizer.options();
    options.keeps_optimizer = !plan.owns_optimizer;
    options.sharding = plan.sharding;
    const int samples = model.micro_batch;
    Replica replica(rank, model, options);
    const std::unique_ptr<Algorithm> algorithm = plan.make(replica);
    const std::int64_t steps = c.stop < 0 ? c.steps : c.stop;
    Progress progress(rank, {steps, std::int64_t{c.replicas} * c.micro_batches * samples});
    const auto visit = [&](Archive& archive) {
      progress.visit(archive);
      algorithm->visit(archive);
    };
    if (c.resume != nullptr) {
      Loader loader(rank, c.resume->notes[static_cast<std::size_t>(rank.id())].checkpoints.at(0));
      visit(loader);
      loader.finish();
    }
    while (progress.more()) algorithm->step(progress);
    // Where it stops there is more to come, but not for flows that ask a service.
    if (c.stop < 0 || !plan.services.empty()) algorithm->finish();
    progress.finish();
    notes.values.push_back(static_cast<double>(algorithm->sent(steps).value_or(Bytes(-1)).value));
    for (const auto& [step, samples_taken] : progress.unplanned())
      notes.values.push_back(static_cast<double>(samples_taken));
    for (const auto& [step, loss] : rank.losses()) notes.values.push_back(loss);
    Saver saver(rank, notes.checkpoints.emplace_back());
    visit(saver);
    note_staleness(rank, replica, notes);
  };
}

inline std::int64_t sent_by_cost_block(const WorldResult& result, std::size_t rank) {
  return static_cast<std::int64_t>(result.notes.at(rank).values.at(0));
}
// By the counters of its channels.
inline std::int64_t sent(const WorldResult& result, std::size_t rank) {
  std::int64_t all = 0;
  for (const std::string& line : result.channels) {
    if (std::stoul(line) == rank) all += std::stoll(line.substr(line.rfind(' ')));
  }
  return all;
}
// A field of a rank's state as fp32 numbers.
inline std::vector<float> state_of(const WorldResult& result, std::size_t rank,
                                   const std::string& field) {
  const auto& bytes = result.notes.at(rank).checkpoints.at(0).fields.at(field);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}
// The last losses, one per step and rank that noted them: those of the given rank.
inline std::vector<double> losses_of(const WorldResult& result, std::size_t rank,
                                     std::int64_t steps) {
  const auto& values = result.notes.at(rank).values;
  return {values.end() - steps, values.end()};
}

}  // namespace orrery
