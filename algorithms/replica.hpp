// A replica: this rank's part of one copy of the model, and how it computes gradients and takes
// optimizer steps.
//
// Tensor, context, expert and pipeline parallelism and recomputation live inside a replica;
// algorithms that act across replicas (DDP, FSDP, ACCO, DiLoCo, …) use the interface below and
// never see them.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "algorithms/flat_parameters.hpp"
#include "algorithms/progress.hpp"

namespace orrery {

class PipelineExecutor;

enum class Recompute : std::uint8_t { none, full };

struct ReplicaOptions {
  int micro_batches = 1;          // per optimizer step
  std::string schedule = "1f1b";  // used when there are several pipeline stages
  // Of blocks that do not compute the loss: all, or those of `recompute_blocks`; of the
  // micro-batches under way, `stored_micro_batches` keep all the same (Korthikanti et al. 2022,
  // arXiv 2205.05198, appendix C).
  Recompute recompute = Recompute::none;
  std::vector<int> recompute_blocks{};  // global numbers; empty: all
  int stored_micro_batches = 0;
  Dtype gradient_dtype = Dtype::fp32;
  std::optional<Dtype> parameter_dtype{};  // of shards of parameters; absent: the model's
  OptimizerOptions optimizer{};
  Sharding sharding{};          // of parameters, gradients and optimizer state over replicas
  bool keeps_optimizer = true;  // false: the algorithm keeps the optimizer state itself
};

// The blocks of one pipeline stage: inner blocks divide evenly (earlier stages take what is left
// over), the first stage has the first block too, the last stage the last. Error{config} when there
// are fewer inner blocks than stages.
std::pair<int, int> stage_blocks(int blocks, int stage, int stages);

// Where the last block uses parameters of the first and there are several pipeline stages, the last
// stage holds a copy of them, before its own parameters: equal initial values, equal gradients,
// equal updates. As a step's last micro-batch ends, first and last stage exchange their parts of
// the gradient and add them, before anything is averaged over replicas, so that both have the same
// bits from there on. Cost, for S shared parameters: an exchange of S gradients and step on the
// first and the last stage; on the last stage S more parameters, gradients and optimizer states; S
// gradients received on either, once the micro-batches are over.
class Replica {
 public:
  // Allocates parameters, gradients and optimizer state on the compute stream and writes the
  // initial values, which depend on the seed and the global number of each parameter only.
  Replica(Rank& rank, Model model, const ReplicaOptions& options);
  ~Replica();

  Rank& rank() const { return rank_; }
  Stream& compute() const { return compute_; }
  const Model& model() const { return model_; }
  const ReplicaOptions& options() const { return options_; }
  bool first_stage() const { return first_block_ == 0; }
  bool last_stage() const { return last_block_ == static_cast<int>(model_.blocks.size()); }

  FlatParameters& flat() { return *flat_; }
  std::span<Parameter> parameters() { return flat_->parameters(); }
  // Buckets of at most `capacity` in reverse order of registration, as their gradients become
  // ready; the first holds at most `first`. A parameter larger than the capacity has a bucket of
  // its own.
  std::vector<Bucket> buckets(Bytes capacity, Bytes first) const;
  void install(ShardingHooks& hooks);  // at most one

  // Issues the gradients of one step's micro-batches into the zeroed gradient buffer, by the
  // pipeline schedule.
  void accumulate_gradients(Progress& progress);
  // Adds the gradient of one micro-batch, without schedule; for algorithms that decide as they go.
  // One pipeline stage only.
  void accumulate_micro_batch(const Batch& batch);
  void zero_gradients();
  // The mean loss over all targets of a text that is not trained on: samples evenly spread from its
  // first byte on, as many whole micro-batches as cover it (but for fewer bytes at its end than
  // there are samples). Issues forward passes and waits for them; gradients stay as they are. One
  // pipeline stage only; in a run with values. Error{config} for a text shorter than that.
  double loss_on(std::shared_ptr<const std::string> text);

  // The sum of squares of all gradients of the model copy, as a Values::always scalar, the same on
  // all its ranks.
  Tensor squared_gradient_norm(Stream& stream);
  // min(1, max_norm / norm), as a scalar for optimizer_step.
  Tensor clip_scale(Stream& stream, double max_norm);
  void optimizer_step(Stream& stream, std::span<Parameter> parameters, const Tensor& scale = {});
  // The loss of the step being issued: the mean over this replica's samples; empty on ranks without
  // the last block.
  Tensor loss() const { return loss_; }
  // Matrix FLOPs of one step of this rank without recomputation.
  Flops flops_per_step() const;
  void visit(Archive& archive);

 private:
  friend class PipelineExecutor;
  // What a micro-batch keeps between its forward and its backward.
  struct InFlight {
    Tensor tokens, targets;
    bool stored = false;                // whatever ReplicaOptions::recompute says
    std::vector<Tensor> inputs, saved;  // by local block
  };
  // One pass over the rank's blocks. `next`: the unit issued after this pass.
  Tensor forward(int micro_batch, const Batch& batch, Tensor input, bool last, const Unit* next);
  Tensor backward(int micro_batch, Tensor d_output, bool last, const Unit* next);
  void find_shared_parameters(int stage, int stages);
  void sum_shared_gradients();
  void load(InFlight& state, const Batch& batch);
  BlockPass pass_of(int block, InFlight& state);
  bool recomputes(int number, const InFlight& state) const;  // the block of this number
  Tensor activation(std::int64_t elements, const char* name);
  std::int64_t copied() const { return first_stage() ? 0 : shared_; }  // owned by another stage
  std::int64_t input_elements() const;  // of the stage's boundary, per micro-batch
  Unit unit(int block, int micro_batch, bool last) const {
    return {0, block, micro_batch, last, nullptr};
  }

  Rank& rank_;
  Model model_;
  ReplicaOptions options_;
  Stream& compute_;
  int first_block_ = 0, last_block_ = 0;
  std::unique_ptr<FlatParameters> flat_;
  Tensor loss_, cursor_;
  std::unique_ptr<PipelineExecutor> executor_;
  ShardingHooks none_;
  ShardingHooks* hooks_ = &none_;
  Channel* norm_channel_ = nullptr;
  // The first `shared_` elements of the flat buffers are also on stage `shared_peer_`; on the last
  // stage they are the copy.
  Channel* shared_channel_ = nullptr;
  std::int64_t shared_ = 0;
  int shared_peer_ = -1;
  std::map<int, InFlight> in_flight_;
  Prepared load_, zero_loss_, add_shared_;
};

}  // namespace orrery
