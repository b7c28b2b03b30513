// From a scenario to the rank program that every world runs.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "algorithms/models/block.hpp"
#include "algorithms/models/transformer.hpp"
#include "algorithms/replica.hpp"
#include "backend/checkpoint.hpp"
#include "backend/world.hpp"
#include "scenarios/scenario.hpp"

namespace orrery {

// What the model made of the text that was kept from training.
struct HeldOut {
  double loss = 0;        // nats per target
  Flops matrix_flops{0};  // that finding out took, per rank
};

// Micro-batches of all ranks, by how many updates late their gradients were applied; ranks may be
// threads. Of ranks of which one runs for all, that one's.
class StalenessSum {
 public:
  void add(const GradientVersions& counts);
  const GradientVersions& counts() const { return counts_; }

 private:
  std::mutex mutex_;
  GradientVersions counts_;
};

struct TrainingHooks {
  // Rank 0 has issued this step of the training (counted from 0).
  std::function<void(Rank&, std::int64_t step)> step_issued;
  // State to start from, by rank; null: from the beginning. Steps are numbered on, up to run.steps.
  // Error{config} for a checkpoint of other ranks, of another program or beyond run.steps.
  const std::vector<Checkpoint>* resume = nullptr;
  // Filled with the steps that were done before, when resuming and not null.
  std::int64_t* steps_before = nullptr;
  // Called with the state of all ranks after every `checkpoint_every`-th step but the last, in
  // order of steps, by the program of the rank that came to that step last. Ranks do not wait for
  // each other there, so a checkpoint changes no order of operations, and no bit.
  std::int64_t checkpoint_every = 0;
  std::function<void(const std::vector<Checkpoint>&)> checkpoint;
  // Called with the parameters of all ranks ("parameters", as many fields as ranks) after every
  // data.evaluate_every-th step, in order of steps, as `checkpoint` is; not for steps that a rank
  // does not come to, where fast ones take more. Reading them takes the ranks time, and workers of
  // gossip pause for it, so a run that is evaluated is another one than a run that is not.
  std::function<void(std::int64_t step, const std::vector<Checkpoint>&)> evaluate;
  // Filled with the state at the end, by rank, when not null.
  std::vector<Checkpoint>* save = nullptr;
  // Filled at the end, in a run with values and data.held_out, when not null.
  std::optional<HeldOut>* held_out = nullptr;
  // Filled at the end with how late gradients were applied, when not null.
  StalenessSum* staleness = nullptr;
  // Filled at the end, by rank, with the samples of its replica in steps that took another number
  // than planned, when not null; as long as there are ranks.
  std::vector<std::map<std::int64_t, std::int64_t>>* unplanned = nullptr;
};

// The dimensions of a model's own; a batch's, and how the model is divided, are left as they are.
TransformerShape transformer_shape(const TransformerSpec& spec);

// The scenario's model with its kernels. Error{config} for a kind of block that there are no
// kernels for yet. `text`: null in a run without values.
Model make_model(const Scenario& scenario, std::shared_ptr<const std::string> text);

// What is kept from training; null where nothing is, or in a run without values.
std::shared_ptr<const std::string> held_out_text(const Scenario& scenario);

// What the scenario asks of each of its replicas.
ReplicaOptions replica_options(const Scenario& scenario);

// The scenario outlives the program.
World::Program training_program(const Scenario& scenario, TrainingHooks hooks = {});

// Adds the programs beside the ranks that the scenario's algorithm needs.
void add_services(World& world, const Scenario& scenario);

// Grid, values and seed of the scenario; memory and bodies are the world's matter.
WorldOptions world_options(const Scenario& scenario);

}  // namespace orrery
