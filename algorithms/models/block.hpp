// Models as chains of blocks.
//
// A block is what recomputation, sharding and pipeline stages divide a model by. Its kernels are
// sequences, built once per shape; layers of equal shape share one `Block` object. Activations
// between blocks are flat tensors of one micro-batch.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "algorithms/models/parametrisation.hpp"
#include "backend/rank.hpp"

namespace orrery {

// How a parameter is divided over the ranks of one axis. As a matrix by rows: rank r holds `rows`
// rows from r * rows on. By columns: of every row rank r holds, for each of `columns` in turn,
// `count` columns from first + r * count on.
struct Division {
  struct Columns {
    std::int64_t first = 0, count = 0;
  };
  Axis axis = Axis::tensor;
  std::int64_t rows = 0;            // of this rank's part; 0: the parameter is not divided
  std::int64_t global_columns = 0;  // of the whole parameter
  std::vector<Columns> columns{};   // empty: by rows
  // Experts: rank r of the expert axis holds the r-th of equal runs of the whole parameter, each of
  // so many elements; what is said above divides a run. 0: none.
  std::int64_t run = 0;

  bool divides(Axis over) const {
    return (over == axis && rows > 0) || (over == Axis::expert && run > 0);
  }
};

struct ParameterSpec {
  std::string name;
  std::int64_t elements = 0;  // on this rank
  double deviation = 0;       // of the normal initial values; 0: all `mean`
  double mean = 0;
  bool decay = true;         // subject to weight decay
  std::int64_t columns = 0;  // of a matrix, stored by rows; 0: not a matrix
  Division division{};
  RateFactors rates{};
  bool written = false;  // its gradient, by the backward, which adds to those of others
  bool product = false;  // a matrix of the products that may take their operands in a narrower type
};

// Writes initial values of one rank's part of a parameter, whose number among all of the model is
// `number`: the same elements whatever the division. `values` is of that part the elements from
// `first` on. Asks for the rank's place only in a run with values.
void initialise(Rank& rank, Stream& stream, const ParameterSpec& spec, std::uint64_t number,
                const Tensor& values, std::int64_t first = 0);

// What one pass of one block over one micro-batch works on. Tensors that the block does not use are
// left empty.
struct BlockPass {
  Stream& stream;
  Tensor parameters{}, gradients{};                // of this block, flat, in the order of its specs
  Tensor shared_parameters{}, shared_gradients{};  // what it uses of another block's parameters
  Tensor input{}, output{};  // activations from the block before, to the block after
  Tensor saved{};            // kept from the forward for the backward
  Tensor kept{};             // likewise, and by a split backward until the weight gradients
  Tensor held{};             // from the forward, whether the rest is recomputed or not
  Tensor deferred{};         // left by backward_input for backward_weight
  Tensor d_output{}, d_input{};
  Tensor workspace{};
  Tensor tokens{}, targets{};  // of this micro-batch
  Tensor loss{};               // accumulates the mean loss of the step
  // Of this block, beside the parameters: statistics that a forward moves, unless left empty, and
  // one that `evaluates` uses.
  Tensor state{};
  Tensor settled{};  // the same of every pass, which reads it as it was when the step began
  bool evaluates = false;
  bool paired = false;  // a forward and a backward of one device that run together
};

class Block {
 public:
  virtual ~Block() = default;
  // Builds (or finds) its sequences. Called once per rank before the first pass.
  virtual void prepare(Rank& rank) = 0;
  virtual void forward(const BlockPass& pass) const = 0;
  virtual void backward(const BlockPass& pass) const = 0;  // adds to gradients
  // The same in two parts with the same bits: the gradient of the input, then, at any time later,
  // those of the parameters (some may be ready with the first part). A block that does not divide
  // its backward does all of it in the first.
  virtual void backward_input(const BlockPass& pass) const { backward(pass); }
  virtual void backward_weight(const BlockPass&) const {}
  // What the forward saved and kept, again, from what it holds and the input, or as much of that as
  // is read again.
  // Writes to `output` or leaves it as it is.
  virtual void recompute(const BlockPass& pass) const { forward(pass); }
  // Of a reversible block: from `output` computes `input` and what the forward had saved and kept,
  // so that `backward` can follow. Takes the workspace and the time of a forward.
  virtual void reconstruct(const BlockPass& /*pass*/) const {}
  bool reversible() const { return reversible_; }
  // Once the backward of a step's last micro-batch is issued: sums over ranks inside the replica
  // what each has added a part of, where has_partial_gradients(). Uses the gradients of the pass.
  virtual void complete_gradients(const BlockPass& /*pass*/) const {}
  bool has_partial_gradients() const { return partial_gradients_; }
  // Likewise: moves what is settled until the next step, on the stream "balance", where
  // settles_state().
  virtual void end_step(const BlockPass& /*pass*/) const {}
  bool settles_state() const { return settles_state_; }

  const std::vector<ParameterSpec>& parameters() const { return parameters_; }
  // Initial values as those of parameters; no gradients.
  const std::vector<ParameterSpec>& state() const { return state_; }
  std::int64_t parameter_elements() const;
  std::int64_t state_elements() const;
  // How much of the input, from its first element on, passes behind the forward read; negative:
  // all.
  std::int64_t input_read_again() const { return input_read_again_; }
  std::int64_t output_elements() const {
    return output_elements_;
  }  // per micro-batch; 0 for the last block
  std::int64_t saved_elements() const { return saved_elements_; }
  std::int64_t kept_elements() const { return kept_elements_; }
  std::int64_t held_elements() const { return held_elements_; }
  std::int64_t deferred_elements() const { return deferred_elements_; }
  // What else backward_weight reads.
  bool weights_read_input() const { return weights_read_input_; }
  bool weights_read_d_output() const { return weights_read_d_output_; }
  std::int64_t forward_workspace() const { return forward_workspace_; }  // elements
  std::int64_t backward_workspace() const { return backward_workspace_; }
  std::int64_t backward_input_workspace() const {
    return backward_input_workspace_ < 0 ? backward_workspace_ : backward_input_workspace_;
  }
  int shares_with() const {
    return shares_with_;
  }  // global number of the block whose parameters it uses too, or -1
  // How many of that block's parameters, from its first on; whole parameters.
  std::int64_t shared_elements() const { return shared_elements_; }
  bool computes_loss() const {
    return computes_loss_;
  }  // such a block is never recomputed: its loss would count twice
  Flops forward_flops() const {
    return forward_flops_;
  }  // matrix FLOPs per micro-batch; set by prepare at the latest
  Flops backward_flops() const { return backward_flops_; }
  Flops weight_flops() const { return weight_flops_; }  // those of backward_weight

 protected:
  std::vector<ParameterSpec> parameters_, state_;
  std::int64_t input_read_again_ = -1;
  bool reversible_ = false;
  std::int64_t output_elements_ = 0, saved_elements_ = 0, forward_workspace_ = 0,
               backward_workspace_ = 0, shared_elements_ = 0, kept_elements_ = 0,
               held_elements_ = 0, deferred_elements_ = 0, backward_input_workspace_ = -1;
  bool weights_read_input_ = false, weights_read_d_output_ = false;
  int shares_with_ = -1;
  bool computes_loss_ = false, partial_gradients_ = false, settles_state_ = false;
  Flops forward_flops_{0}, backward_flops_{0}, weight_flops_{0};
};

struct Model {
  std::string name;
  std::vector<std::shared_ptr<Block>> blocks;  // in order of the forward pass
  Dtype dtype = Dtype::fp32;                   // of parameters and activations
  int micro_batch = 1;                         // samples
  std::int64_t tokens_per_sample = 1, targets_per_sample = 1;
  // How samples are divided over the context axis; a rank's own index is its place there.
  SequencePart part{};
  std::shared_ptr<const std::string> text;  // null in a run without values
  // Height and width of samples that are pictures, of which `text` has the records
  // (Kernel::picture_batch); a sample's tokens are its values then. 0: samples are of a text.
  int picture = 0;

  // A head behind a block, which computes a loss of its own; null where a model says none.
  std::function<std::shared_ptr<Block>(int block)> local_head{};

  Dtype token_dtype() const { return picture > 0 ? dtype : Dtype::int32; }
  // Loads a micro-batch of samples drawn from `data`; with a stride, of samples in its order.
  Kernel batch_kernel(std::uint64_t seed, std::shared_ptr<const std::string> data,
                      std::int64_t stride = 0) const;
  std::int64_t parameter_elements() const;
  Flops flops_per_micro_batch()
      const;  // forward and backward, without recomputation; after prepare
};

}  // namespace orrery
