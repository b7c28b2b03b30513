// The passes of a stage of the model over its blocks, for algorithms in which stages do not wait
// for each other: batches are numbered, and several are under way between their forward and their
// backward.
#pragma once

#include <map>
#include <vector>

#include "algorithms/replica.hpp"

namespace orrery {

// What a stage keeps of a batch from its forward to its backward.
enum class Keep : std::uint8_t {
  graph,    // what the backward reads
  inputs,   // inputs of its blocks, from which the backward computes the rest again
  nothing,  // those of blocks that are not reversible; the output comes back with its gradient
};

struct StageRules {
  Keep keep = Keep::nothing;
  bool versions = false;  // a backward uses the parameters of its forward; else the current ones
};

class StagePasses {
 public:
  StagePasses(Replica& replica, const StageRules& rules);

  bool first() const { return first_ == 0; }
  bool has_loss() const { return block(last_ - 1).computes_loss(); }
  // Of a batch: 0 for the first stage; 0 for the last. A loss inside the model is beside the way.
  std::int64_t input_elements() const { return first() ? 0 : output_elements(first_ - 1); }
  std::int64_t output_elements() const { return output_elements(last_ - 1); }
  // What comes back for a batch: the gradient of the output, before it, if nothing is kept, the
  // output.
  std::int64_t returned_elements(std::int64_t boundary) const {
    return rules_.keep == Keep::nothing ? 2 * boundary : boundary;
  }

  // The output of a batch, of which `input` is that of the stage before; empty from the last. A
  // stage with a loss, whose backward follows at once, keeps the graph until then, unless it is the
  // whole model.
  Tensor forward(Stream& stream, std::int64_t number, const Batch& batch, Tensor input);
  // What the stage before takes back; empty from the first one. Adds to the gradients. On another
  // stream than the forward's, if the program likes. `returned`: empty for a stage with a loss.
  Tensor backward(Stream& stream, std::int64_t number, Tensor returned);

  // Zeroes gradients and, where there is one, makes a new loss.
  void begin_step(Stream& stream);
  // One update of the stage's parameters, behind all forwards issued so far.
  void update(Stream& stream);
  Tensor loss() const { return loss_; }
  std::size_t under_way() const { return in_flight_.size(); }

 private:
  struct Kept {
    Tensor input, saved, kept;
  };
  struct InFlight {
    Tensor tokens, targets;
    Tensor weights;  // that its forward read; empty: the current ones
    std::vector<Kept> blocks;
    Event forward_done;
  };
  std::int64_t output_elements(int b) const;
  Tensor allocate(Stream& stream, std::int64_t elements, const char* name) const;
  const Block& block(int b) const { return *replica_.model().blocks[static_cast<std::size_t>(b)]; }
  BlockPass pass_of(Stream& stream, int b, const InFlight& batch, const Kept& kept) const;
  void load(Stream& stream, const Batch& batch, InFlight& state);
  Tensor run_forward(Stream& stream, InFlight& state, Tensor input, Keep keep);
  void keep_input(Stream& stream, int b, Keep keep, Kept& kept) const;
  Tensor run_backward(Stream& stream, InFlight& state, Tensor output, Tensor d_output);
  void refill(Stream& stream, int b, InFlight& state, const Tensor& output,
              const Tensor& place) const;

  Replica& replica_;
  Rank& rank_;
  StageRules rules_;
  int first_, last_;  // blocks
  std::map<std::int64_t, InFlight> in_flight_;
  Event last_update_, last_forward_;
  Tensor loss_, cursor_;
  Prepared load_, zero_loss_;
};

}  // namespace orrery
