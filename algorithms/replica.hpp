// A replica: this rank's part of one copy of the model, and how it computes gradients and takes
// optimizer steps.
//
// Tensor, context, expert and pipeline parallelism and recomputation live inside a replica;
// algorithms that act across replicas (DDP, FSDP, ACCO, DiLoCo, …) use the interface below and
// never see them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "algorithms/flat_parameters.hpp"
#include "algorithms/pipeline/schedule.hpp"
#include "algorithms/pipeline/weight_versions.hpp"
#include "algorithms/progress.hpp"
#include "algorithms/staleness.hpp"

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
  // Of the pipeline; see PipelineShape. `times`: absent, zb-auto plans with the layers' FLOPs.
  int chunks = 1, activation_limit = 0;
  bool vertical_sync = false;
  std::optional<TaskTimes> times{};
  std::vector<int> layers{};  // blocks but the first and the last, by stage; empty: evenly
  bool keeps_received = false, keeps_sent = false;  // see PipelineExecutor
  // false: the algorithm takes micro-batches through this rank's stage itself, by passes of its
  // own.
  bool executes = true;
};

// The blocks of each stage, [first, last): inner blocks as `layers` says, or evenly, the earlier
// stages taking what is left over; the first stage has the first block too, the last stage the
// last. Error{config} when `layers` does not fit, or without it when there are fewer inner blocks
// than stages.
std::vector<std::pair<int, int>> stage_blocks(int blocks, int stages,
                                              const std::vector<int>& layers = {});

// Where a schedule leads two pipes through the devices (Chimera, DualPipe), each stage is on two
// devices, which exchange and add their gradients at the end of a step, block by block. Cost: an
// exchange of the gradients of both its stages per device and step; one block's gradients received.
//
// Where the last block uses parameters of the first, which is on another device, the last device
// holds a copy of them, before its own parameters: equal initial values, equal gradients,
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
  bool first_stage() const { return holds(0); }  // this rank has the first block
  bool last_stage() const { return holds(static_cast<int>(model_.blocks.size()) - 1); }
  bool whole_model() const { return schedule_->devices == 1; }
  std::pair<int, int> blocks(int chunk = 0) const {  // [first, last), of this rank
    const Part& p = parts_[static_cast<std::size_t>(chunk)];
    return {p.first, p.last};
  }
  const PipelineSchedule& schedule() const { return *schedule_; }

  FlatParameters& flat() { return *flat_; }
  std::span<Parameter> parameters() { return flat_->parameters(); }
  Tensor state_of(int block) const;  // see BlockPass; empty where a block has none
  // Buckets of at most `capacity` in reverse order of registration, as their gradients become
  // ready; the first holds at most `first`. A parameter larger than the capacity has a bucket of
  // its own.
  std::vector<Bucket> buckets(Bytes capacity, Bytes first) const;
  void install(ShardingHooks& hooks);  // at most one

  // Issues the gradients of one step's micro-batches into the zeroed gradient buffer, by the
  // pipeline schedule.
  void accumulate_gradients(Progress& progress);
  // Likewise; its passes read other values than the current ones, in the same layout. Of a schedule
  // that drains only.
  void accumulate_gradients(Progress& progress, const Tensor& weights);
  // Adds the gradient of one micro-batch, without schedule; for algorithms that decide as they go.
  // One pipeline stage and no sequence parallelism only.
  // `weights`: read in place of the current values; a version of all of them, or these as racy.
  void accumulate_micro_batch(const Batch& batch, const Tensor& weights = {});
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
  // What passes and optimizer_step have counted. Who updates the parameters in another way tells.
  Staleness& staleness() { return staleness_; }
  // The loss of the step being issued: the mean over this replica's samples; empty on ranks without
  // the last block.
  Tensor loss() const { return loss_; }
  // Matrix FLOPs of one step of this rank without recomputation.
  Flops flops_per_step() const;
  void visit(Archive& archive);

 private:
  friend class PipelineExecutor;
  // A part of the model that this rank computes.
  struct Part {
    int first = 0, last = 0;  // blocks
    int micro_batches = 0;    // per step
    int ready = 0;            // blocks of this step whose gradients have been announced
    std::vector<Unit> waiting;
  };
  // What a micro-batch keeps between its forward and its backward, by block of its part.
  struct Kept {
    Tensor input, saved, kept, held, d_output, deferred;
    void clear();
  };
  struct InFlight {
    Tensor tokens, targets;
    bool stored = false;  // whatever ReplicaOptions::recompute says
    Version version{};    // of the parameters that its forward read
    std::vector<Kept> blocks;
  };
  // What a pass is called with. `next`: the unit issued after it.
  struct PassCall {
    int chunk = 0, micro_batch = 0;
    bool last = false;     // micro-batch of the chunk in this step
    bool paired = false;   // see BlockPass
    Tensor weights{};      // all parameters that the passes read; empty: the current ones
    std::int64_t age = 0;  // updates that these lack
    const Unit* next = nullptr;
  };
  // One pass over the blocks of a part.
  Tensor forward(const PassCall& call, const Batch& batch, Tensor input);
  Tensor backward(const PassCall& call, Tensor d_output, bool with_weights = true);
  void backward_weight(const PassCall& call);
  void end_block(const Unit& unit, const BlockPass& pass);
  void forward_again(const Unit& unit, const PassCall& call, InFlight& state);
  void gradients_done(const Unit& unit);
  void gradient_added(const PassCall& call);
  void announce_ready();
  void plan(int device, int devices);
  void describe_layer(PipelineShape& shape);
  void find_shared_parameters(int device);
  void sum_shared_gradients();
  void sum_pipes();
  void load(InFlight& state, const Batch& batch);
  bool settles_state() const;  // of one of its blocks
  void allocate_state(const std::vector<int>& blocks);
  BlockPass pass_of(const Unit& unit, const PassCall& call, InFlight& state,
                    bool reads_parameters = true);
  bool recomputes(int number, const InFlight& state) const;  // the block of this number
  Tensor activation(std::int64_t elements, const char* name);
  const Block& block(int b) const { return *model_.blocks[static_cast<std::size_t>(b)]; }
  bool holds(int b) const;
  Part& part(int chunk) { return parts_[static_cast<std::size_t>(chunk)]; }
  std::int64_t copied() const { return first_stage() ? 0 : shared_; }  // counted by another rank
  std::int64_t counted_end() const;              // of what this rank counts, in the flat buffers
  std::int64_t input_elements(int chunk) const;  // of a part's boundary, per micro-batch
  std::int64_t output_elements(int chunk) const;
  InFlight& in_flight(const PassCall& call) { return in_flight_[{call.chunk, call.micro_batch}]; }

  Rank& rank_;
  Model model_;
  ReplicaOptions options_;
  Stream& compute_;
  std::shared_ptr<const PipelineSchedule> schedule_;
  std::vector<Part> parts_;  // by chunk
  std::unique_ptr<FlatParameters> flat_;
  std::unique_ptr<WeightVersions> versions_;  // of a schedule that never drains
  Staleness staleness_;
  Tensor loss_, cursor_;
  Tensor state_;                          // of all blocks of this rank, one behind the other
  std::map<int, std::int64_t> state_at_;  // where a block's begins, of those that have one
  bool evaluates_ = false;
  std::unique_ptr<PipelineExecutor> executor_;
  ShardingHooks none_;
  ShardingHooks* hooks_ = &none_;
  Channel* norm_channel_ = nullptr;
  // The first `shared_` elements of the flat buffers are also on stage `shared_peer_`; on the last
  // stage they are the copy.
  Channel* shared_channel_ = nullptr;
  std::int64_t shared_ = 0;
  int shared_peer_ = -1;
  int pipes_peer_ = -1;  // the device with the same stages in the other pipe
  Channel* pipes_channel_ = nullptr;
  std::map<std::pair<int, int>, InFlight> in_flight_;  // by chunk and micro-batch
  Prepared load_, zero_loss_, add_shared_;
  Tensor read_;  // by the passes of this step; empty: the current values
};

}  // namespace orrery
