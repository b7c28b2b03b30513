// Trains a byte-level model in one world, for tests that compare worlds, plans and resumed runs.
#pragma once

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "algorithms/ddp.hpp"
#include "algorithms/models/mlp.hpp"
#include "algorithms/models/transformer.hpp"
#include "algorithms/replica.hpp"
#include "algorithms/zero.hpp"
#include "backend/core/text.hpp"
#include "backend/cpu/bodies.hpp"
#include "backend/cpu/world.hpp"
#include "sim/world.hpp"
#include "tests/support/effort.hpp"

namespace orrery {

struct TrainingCase {
  int data = 1, pipeline = 1;  // of the data parallel ranks, data / shard repeat a sharding
  int shard = 1;
  MlpShape model{
      .context = 4, .embedding = 8, .hidden = 24, .layers = 4, .vocabulary = 256, .micro_batch = 2};
  std::optional<TransformerShape> transformer;  // in place of the MLP
  ReplicaOptions replica{.micro_batches = 4};
  DdpOptions ddp{
      .optimizer = {}, .clip_norm = {}, .bucket = Bytes(6000), .first_bucket = Bytes(1000)};
  std::optional<ZeroOptions> zero;  // in place of DDP
  std::int64_t steps = usual_steps;
  int tensor = 1, context = 1;  // of the transformer
  int expert = 1;               // of its experts; divides `data`

  int ranks() const { return data * pipeline * tensor * context; }
  Grid grid() const {
    Grid g;
    g.set(Axis::shard, shard).set(Axis::replicate, data / shard / expert);
    g.set(Axis::pipeline, pipeline).set(Axis::expert, expert);
    g.set(Axis::tensor, tensor).set(Axis::context, context);
    return g;
  }
  std::int64_t global_batch() const {
    return std::int64_t{data} * replica.micro_batches *
           (transformer ? transformer->micro_batch : model.micro_batch);
  }
  ReplicaOptions replica_options() const {
    ReplicaOptions options = replica;
    if (zero) options.sharding = zero->sharding();
    return options;
  }
  std::unique_ptr<Algorithm> algorithm(Replica& its) const {
    if (zero) return std::make_unique<Zero>(its, *zero);
    return std::make_unique<Ddp>(its, ddp);
  }
  Model make(std::shared_ptr<const std::string> text) const {
    if (transformer) {
      TransformerShape shape = *transformer;
      shape.micro_batches = replica.micro_batches;
      shape.tensor = tensor;
      shape.context = context;
      shape.expert = expert;
      return make_transformer(shape, std::move(text));
    }
    MlpShape shape = model;
    shape.micro_batches = replica.micro_batches;
    return make_mlp(shape, std::move(text));
  }
};

struct Trained {
  RunReport report;
  std::vector<Checkpoint> state;  // by rank, at the end
  std::vector<double> losses;     // mean over the ranks that computed it, by step
};

inline std::shared_ptr<const std::string> training_text() {
  static const auto text = std::make_shared<const std::string>(
      read_file(std::string(ORRERY_SOURCE_DIR) + "/scenarios/texts/gpl-3.txt"));
  return text;
}

inline World::Program training(TrainingCase c, std::vector<Checkpoint>& state,
                               const std::vector<Checkpoint>* resume) {
  state.resize(static_cast<std::size_t>(c.ranks()));
  return [c, &state, resume](Rank& rank) {
    const TrainingCase mine = c;
    Replica replica(rank, mine.make(training_text()), mine.replica_options());
    const std::unique_ptr<Algorithm> algorithm = mine.algorithm(replica);
    Progress progress(rank, {mine.steps, mine.global_batch()});
    const auto visit = [&](Archive& archive) {
      progress.visit(archive);
      algorithm->visit(archive);
    };
    if (resume != nullptr) {
      Loader loader(rank, (*resume)[static_cast<std::size_t>(rank.id())]);
      visit(loader);
      loader.finish();
    }
    train(*algorithm, progress);
    Saver saver(rank, state[static_cast<std::size_t>(rank.id())]);
    visit(saver);
  };
}

inline WorldOptions training_options(const TrainingCase& c) {
  WorldOptions options;
  options.grid = c.grid();
  options.real_values = true;
  options.seed = 7;
  options.bodies = &cpu_bodies();
  return options;
}

inline Trained finish(std::vector<Checkpoint> state, RunReport report) {
  Trained trained{std::move(report), std::move(state), {}};
  std::map<std::int64_t, std::pair<double, int>> sums;
  for (const RankReport& rank : trained.report.ranks)
    for (const auto& [step, loss] : rank.losses) {
      sums[step].first += loss;
      ++sums[step].second;
    }
  for (const auto& [step, sum] : sums) trained.losses.push_back(sum.first / sum.second);
  return trained;
}

inline Trained train_on_cpu(const TrainingCase& c,
                            const std::vector<Checkpoint>* resume = nullptr) {
  std::vector<Checkpoint> state;
  RunReport report = make_cpu_world(training_options(c))->run(training(c, state, resume));
  return finish(std::move(state), std::move(report));
}

// Once per process.
inline Trained train_in_sim(const TrainingCase& c,
                            const std::vector<Checkpoint>* resume = nullptr) {
  const UniformMachine machine({.gpus = c.ranks(),
                                .memory = Bytes(0),
                                .alpha = Time(2'000'000),
                                .bandwidth = BytesPerSecond(1e9),
                                .host = {},
                                .kernel_time = [](const Kernel&, const Cost& cost) {
                                  return to_time(Seconds(1e-6 + cost.matrix.value / 1e10));
                                }});
  std::vector<Checkpoint> state;
  SimOptions sim;
  sim.machine = &machine;
  RunReport report = make_sim_world(training_options(c), sim)->run(training(c, state, resume));
  return finish(std::move(state), std::move(report));
}

// Elements at the start of the last stage's parameters that copy the first stage's.
inline std::int64_t copied_parameters(const TrainingCase& c) {
  return c.pipeline > 1 && c.transformer && c.transformer->tied
             ? std::int64_t{c.transformer->vocabulary} * c.transformer->hidden
             : 0;
}

// All parameters of the first model copy, in the order of the model, whatever the pipeline's cut.
inline std::vector<float> parameters_of(const TrainingCase& c, const Trained& trained) {
  const Grid grid = c.grid();
  const Model model = c.make(nullptr);
  PipelineShape shape{c.pipeline, c.replica.micro_batches};
  shape.chunks = c.pipeline > 1 ? c.replica.chunks : 1;
  const auto schedule = make_schedule(c.pipeline > 1 ? c.replica.schedule : "1f1b", shape);
  const auto blocks =
      stage_blocks(static_cast<int>(model.blocks.size()), schedule->stages, c.replica.layers);
  std::vector<std::vector<float>> by_stage(blocks.size());
  for (int device = 0; device < c.pipeline; ++device) {
    const auto rank = static_cast<std::size_t>(grid.rank_with(0, Axis::pipeline, device));
    const auto& bytes = trained.state[rank].fields.at("replica.parameters");
    const auto& chunks = schedule->chunks[static_cast<std::size_t>(device)];
    std::size_t own = 0;
    std::vector<std::size_t> sizes;
    for (const Chunk& chunk : chunks) {
      std::size_t size = 0;
      const auto [first, last] = blocks[static_cast<std::size_t>(chunk.stage)];
      for (int b = first; b < last; ++b)
        size += static_cast<std::size_t>(
            model.blocks[static_cast<std::size_t>(b)]->parameter_elements());
      sizes.push_back(size);
      own += size;
    }
    // Before its own, the last device may have a copy of the first one's.
    std::size_t at = bytes.size() / sizeof(float) - own;
    for (std::size_t i = 0; i < chunks.size(); at += sizes[i++]) {
      auto& stage = by_stage[static_cast<std::size_t>(chunks[i].stage)];
      stage.resize(sizes[i]);
      std::memcpy(stage.data(), bytes.data() + at * sizeof(float), sizes[i] * sizeof(float));
    }
  }
  std::vector<float> all;
  for (const auto& stage : by_stage) all.insert(all.end(), stage.begin(), stage.end());
  return all;
}

}  // namespace orrery
