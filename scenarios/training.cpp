#include "scenarios/training.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>

#include "algorithms/models/mlp.hpp"
#include "algorithms/models/transformer.hpp"
#include "algorithms/replica_number.hpp"
#include "backend/core/text.hpp"
#include "scenarios/label_skew.hpp"

namespace orrery {

namespace {

Activation activation_of(const std::string& name) {
  if (name == "gelu") return Activation::gelu;
  return name == "relu" ? Activation::relu : Activation::silu;
}

Router router_of(const std::string& name) {
  if (name == "sigmoid") return Router::sigmoid;
  return name == "softmax" ? Router::softmax : Router::softmax_all;
}

TransformerShape transformer_shape(const Scenario& scenario) {
  const TransformerSpec& spec = scenario.model_spec.transformer;
  const auto refuse = [&](bool there, const char* what) {
    if (there)
      throw Error(Category::config, std::string("not available yet: ") + what)
          .with("model", scenario.model_spec.file);
  };
  refuse(spec.head_bias, "a bias in the output head");
  refuse(spec.qk_norm && spec.reversible, "norms of queries and keys in reversible layers");
  refuse(
      spec.latent() && (spec.reversible || spec.qk_norm || spec.qkv_bias),
      "latent attention in reversible layers, with norms of queries and keys of a head's size, or "
      "with biases of theirs");
  refuse(spec.latent() && spec.parametrisation == Parametrisation::mu,
         "latent attention in the mu parametrisation");
  refuse(spec.shared_gate, "shared experts with a gate");
  refuse(spec.window > 0 && spec.window < *scenario.data.sequence,
         "attention over a window shorter than the sequence");
  const auto i = [](std::int64_t v) { return static_cast<int>(v); };
  TransformerShape shape = transformer_shape(spec);
  shape.sequence = i(*scenario.data.sequence);
  shape.micro_batch = i(scenario.data.micro_batch);
  shape.micro_batches = scenario.micro_batches();
  shape.dtype = scenario.precision.activations;
  shape.products = scenario.precision.products;
  shape.tensor = i(scenario.parallel.tensor);
  shape.sequence_parallel = scenario.parallel.sequence_parallel;
  shape.gathers_fp8 = scenario.parallel.sequence_gather == SequenceGather::fp8;
  shape.capacity = scenario.experts.capacity_factor.value_or(1);
  shape.imbalance = scenario.experts.imbalance;
  if (shape.experts > 0 && shape.router == Router::sigmoid)
    shape.balance_rate = scenario.experts.balance_rate;
  shape.expert = i(scenario.parallel.expert);
  shape.context = i(scenario.parallel.context);
  shape.context_algorithm = scenario.parallel.context_algorithm;
  shape.stored_attention = scenario.memory.attention == AttentionKind::stored;
  shape.recompute_attention = scenario.recompute_attention;
  shape.recompute_every_second = scenario.recompute_every_second;
  const StackSpec& stack = scenario.machines.stack;
  shape.loss = stack.loss == LossKernels::eager      ? LossMemory::eager
               : stack.loss == LossKernels::compiled ? LossMemory::apart
                                                     : LossMemory::in_place;
  shape.returns_logits = stack.keeps_received && scenario.parallel.pipeline > 1 &&
                         !scenario.algorithm.plan.runs_stages;
  shape.keeps_unread = stack.eager_layers;
  shape.dropout = scenario.memory.dropout;
  shape.writes_gradients = scenario.algorithm.plan.fresh_gradients && shape.micro_batches == 1 &&
                           scenario.parallel.pipeline == 1;
  return shape;
}

MlpShape mlp_shape(const Scenario& scenario) {
  const MlpSpec& spec = scenario.model_spec.mlp;
  const auto i = [](std::int64_t v) { return static_cast<int>(v); };
  return {i(spec.context),          i(spec.embedding),
          i(spec.hidden),           i(spec.layers),
          i(spec.vocabulary),       i(scenario.data.micro_batch),
          scenario.micro_batches(), scenario.precision.activations,
          spec.reversible,          spec.parametrisation,
          i(spec.base_width)};
}

// Gathers the states that ranks have at the same step. Ranks may be threads, and some may be steps
// ahead of others.
class CheckpointGathering {
 public:
  using Take = std::function<void(std::int64_t step, const std::vector<Checkpoint>&)>;
  CheckpointGathering(int ranks, Take take)
      : ranks_(static_cast<std::size_t>(ranks)), take_(std::move(take)) {}

  // The last rank of a step hands all over. None comes with a later step before it has done that
  // for this one, so they are handed over in order.
  void add(std::int64_t step, int rank, Checkpoint state) {
    std::vector<Checkpoint> all;
    {
      const std::lock_guard lock(mutex_);
      Step& here = steps_[step];
      here.states.resize(ranks_);
      here.states[static_cast<std::size_t>(rank)] = std::move(state);
      if (++here.count < ranks_) return;
      all = std::move(here.states);
      steps_.erase(step);
    }
    take_(step, all);
  }

 private:
  struct Step {
    std::vector<Checkpoint> states;
    std::size_t count = 0;
  };
  std::size_t ranks_;
  const Take take_;
  std::mutex mutex_;
  std::map<std::int64_t, Step> steps_;
};

// Copies the parameters out of a rank, as "parameters", and nothing else.
class ParametersSaver : public Archive {
 public:
  ParametersSaver(Rank& rank, Checkpoint& to) : saver_(rank, to) {}
  void field(std::string_view name, Tensor& tensor) override {
    if (full(name).ends_with("replica.parameters")) saver_.field("parameters", tensor);
  }
  void field(std::string_view, std::int64_t&) override {}
  void field(std::string_view, double&) override {}

 private:
  Saver saver_;
};

struct Texts {
  std::shared_ptr<const std::string> training, held_out;     // null where there is none
  std::vector<std::shared_ptr<const std::string>> shards{};  // of training; empty: not divided

  const std::shared_ptr<const std::string>& of(const Rank& rank) const {
    return shards.empty() ? training : shards.at(static_cast<std::size_t>(replica_number(rank)));
  }
};

Texts texts(const Scenario& scenario) {
  if (scenario.run.values != RunValues::real || !scenario.data.text) return {};
  const std::string all = read_file(*scenario.data.text);
  const auto kept = static_cast<std::size_t>(
      std::llround(static_cast<double>(all.size()) * (1 - scenario.data.held_out)));
  Texts texts{std::make_shared<const std::string>(all, 0, kept), {}};
  if (scenario.data.held_out > 0) texts.held_out = std::make_shared<const std::string>(all, kept);
  if (scenario.data.label_skew) texts.shards = skewed_shards(scenario, *texts.training);
  return texts;
}

}  // namespace

void StalenessSum::add(const GradientVersions& counts) {
  const std::lock_guard lock(mutex_);
  for (const auto& [late, micro_batches] : counts) counts_[late] += micro_batches;
}

std::shared_ptr<const std::string> held_out_text(const Scenario& scenario) {
  return texts(scenario).held_out;
}

TransformerShape transformer_shape(const TransformerSpec& spec) {
  const auto i = [](std::int64_t v) { return static_cast<int>(v); };
  TransformerShape shape;
  shape.layers = i(spec.layers);
  shape.hidden = i(spec.hidden);
  shape.heads = i(spec.heads);
  shape.kv_heads = i(spec.kv_heads);
  shape.head_size = i(spec.head_size);
  shape.ffn = i(spec.ffn);
  shape.vocabulary = i(spec.vocabulary);
  shape.gated = spec.gated;
  shape.activation = activation_of(spec.activation);
  shape.rotary = !spec.learned_positions;
  shape.learned_positions = spec.learned_positions ? i(spec.max_positions) : 0;
  shape.rope_theta = spec.rope_theta;
  shape.norm_bias = spec.norm == "layer";
  shape.norm_epsilon = spec.norm_epsilon;
  shape.qk_norm = spec.qk_norm;
  shape.kv_rank = i(spec.kv_rank);
  shape.q_rank = i(spec.q_rank);
  shape.rope_head = i(spec.rope_head);
  shape.v_head = i(spec.v_head);
  shape.qkv_bias = spec.qkv_bias;
  shape.output_bias = spec.output_bias;
  shape.mlp_bias = spec.mlp_bias;
  shape.tied = spec.tied;
  shape.parametrisation = spec.parametrisation;
  shape.base_width = i(spec.base_width);
  shape.parallel_blocks = spec.parallel_blocks;
  shape.reversible = spec.reversible;
  shape.experts = i(spec.experts);
  shape.experts_per_token = i(spec.experts_per_token);
  shape.expert_ffn = i(spec.expert_ffn);
  shape.shared_ffn = i(spec.shared_ffn);
  shape.dense_layers = i(spec.dense_layers);
  shape.router = router_of(spec.router);
  return shape;
}

ReplicaOptions replica_options(const Scenario& scenario) {
  ReplicaOptions options;
  options.micro_batches = scenario.micro_batches();
  options.schedule = scenario.parallel.schedule;
  options.chunks = static_cast<int>(scenario.parallel.chunks);
  options.activation_limit = static_cast<int>(scenario.parallel.activation_limit.value_or(0));
  options.vertical_sync = scenario.parallel.vertical_sync;
  for (const std::int64_t layers : scenario.parallel.layers)
    options.layers.push_back(static_cast<int>(layers));
  options.keeps_received = scenario.machines.stack.keeps_received;
  options.keeps_sent = scenario.machines.stack.keeps_sent;
  options.recompute = scenario.recompute ? Recompute::full : Recompute::none;
  for (const int layer : scenario.recompute_layers) options.recompute_blocks.push_back(layer + 1);
  options.stored_micro_batches = static_cast<int>(scenario.memory.stored_micro_batches.value_or(0));
  options.gradient_dtype = scenario.precision.reduction;
  options.parameter_dtype = scenario.precision.parameters;
  options.optimizer = scenario.algorithm.plan.optimizer.options();
  options.optimizer.moments = scenario.precision.moments;
  options.keeps_optimizer = !scenario.algorithm.plan.owns_optimizer;
  options.sharding = scenario.algorithm.plan.sharding;
  options.executes = !scenario.algorithm.plan.runs_stages;
  return options;
}

Model make_model(const Scenario& scenario, std::shared_ptr<const std::string> text) {
  const auto sized = [&scenario](auto shape) {
    shape.micro_batch = static_cast<int>(scenario.data.micro_batch);
    shape.micro_batches = scenario.micro_batches();
    shape.dtype = scenario.precision.activations;
    return shape;
  };
  switch (scenario.model_spec.kind) {
    case ModelKind::mlp:
      return make_mlp(mlp_shape(scenario), std::move(text));
    case ModelKind::resnet:
      return make_picture_network(sized(scenario.model_spec.resnet), std::move(text));
    case ModelKind::fno:
      return make_fno(sized(scenario.model_spec.fno));
    case ModelKind::transformer:
      break;
  }
  return make_transformer(transformer_shape(scenario), std::move(text));
}

void add_services(World& world, const Scenario& scenario) {
  for (const AlgorithmPlan::Beside& service : scenario.algorithm.plan.services)
    world.add_service(service.name, service.program(scenario.data_parallel(), scenario.run.steps));
}

WorldOptions world_options(const Scenario& scenario) {
  WorldOptions options;
  options.grid = scenario.grid();
  options.real_values = scenario.run.values == RunValues::real;
  options.seed = scenario.run.seed;
  return options;
}

namespace {

// Continues from the checkpoint of the hooks. `together`: workers that are there are at one step.
void resume(Rank& rank, const TrainingHooks& hooks, const Progress& progress, std::int64_t steps,
            bool together, const std::function<void(Archive&)>& visit) {
  if (hooks.resume->size() != static_cast<std::size_t>(rank.size(all_axes)))
    throw Error(Category::config, "the checkpoint is of a run with " +
                                      std::to_string(hooks.resume->size()) + " ranks");
  Loader loader(rank, (*hooks.resume)[static_cast<std::size_t>(rank.id())]);
  visit(loader);
  loader.finish();
  if (progress.step() > steps)
    throw Error(Category::config, "the checkpoint is of step " + std::to_string(progress.step()) +
                                      ", beyond run.steps = " + std::to_string(steps));
  if (hooks.steps_before == nullptr || !rank.speaks()) return;
  *hooks.steps_before = progress.step();
  if (!together) return;
  for (const Checkpoint& state : *hooks.resume) {  // some may not be there any more, or not yet
    std::int64_t done = 0;
    std::memcpy(&done, state.fields.at("progress.steps").data(), sizeof done);
    *hooks.steps_before = std::max(*hooks.steps_before, done);
  }
}

}  // namespace

World::Program training_program(const Scenario& scenario, TrainingHooks hooks) {
  const Texts data = texts(scenario);
  const auto states = std::make_shared<CheckpointGathering>(
      scenario.gpus(), [take = hooks.checkpoint](std::int64_t, const auto& all) { take(all); });
  const auto parameters = std::make_shared<CheckpointGathering>(scenario.gpus(), hooks.evaluate);
  return [&scenario, hooks, states, parameters, data](Rank& rank) {
    if (scenario.reserve().value > 0) rank.reserve(Label::reserve, scenario.reserve());
    Model model = make_model(scenario, data.of(rank));
    ReplicaOptions options = replica_options(scenario);
    if (const auto& adapt = scenario.algorithm.plan.adapt)
      adapt(model, options, static_cast<int>(scenario.parallel.pipeline));
    // On the heap: a stack takes whole pages, of each rank.
    const auto owned = std::make_unique<Replica>(rank, std::move(model), options);
    Replica& replica = *owned;
    const std::unique_ptr<Algorithm> algorithm = scenario.algorithm.plan.make(replica);
    Progress progress(rank, {scenario.run.steps, scenario.data.global_batch});
    const auto visit = [&](Archive& archive) {
      progress.visit(archive);
      algorithm->visit(archive);
    };
    if (hooks.resume != nullptr)
      resume(rank, hooks, progress, scenario.run.steps, !scenario.algorithm.plan.open_ended, visit);
    while (progress.more()) {
      algorithm->step(progress);
      const std::int64_t done = progress.step();
      if (hooks.step_issued && rank.speaks() && done > 0) hooks.step_issued(rank, done - 1);
      if (hooks.checkpoint_every > 0 && done % hooks.checkpoint_every == 0 && progress.more()) {
        Checkpoint state;
        Saver saver(rank, state);
        visit(saver);
        states->add(done, rank.id(), std::move(state));
      }
      if (hooks.evaluate && done > 0 &&
          done % scenario.data.evaluate_every.value_or(done + 1) == 0) {
        Checkpoint state;
        ParametersSaver saver(rank, state);
        visit(saver);
        parameters->add(done, rank.id(), std::move(state));
      }
    }
    algorithm->finish();
    progress.finish();
    if (hooks.staleness != nullptr) hooks.staleness->add(replica.staleness().counts());
    if (hooks.unplanned != nullptr)
      (*hooks.unplanned)[static_cast<std::size_t>(rank.id())] = progress.unplanned();
    if (data.held_out != nullptr) {
      const Flops before = rank.matrix_flops();
      // By all ranks, as the model may be sharded.
      const double loss = replica.loss_on(data.held_out);
      if (hooks.held_out != nullptr && rank.speaks())
        *hooks.held_out = HeldOut{loss, rank.matrix_flops() - before};
    }
    if (hooks.save != nullptr) {
      Saver saver(rank, (*hooks.save)[static_cast<std::size_t>(rank.id())]);
      visit(saver);
    }
  };
}

}  // namespace orrery
