// The blocks of a decoder-only transformer, each as two passes of kernels.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "algorithms/models/tensor_parallel.hpp"
#include "algorithms/models/transformer.hpp"

namespace orrery {

// Token table, learned positions.
std::shared_ptr<Block> make_transformer_embedding(const TransformerShape& shape);
// Norm, attention, norm, MLP.
std::shared_ptr<Block> make_transformer_layer(const TransformerShape& shape);
// The same in two streams: x1 + attention of x2, x2 + MLP of that (reversible.hpp). Error{config}
// for a layer that ranks share, and for parallel blocks.
std::shared_ptr<Block> make_reversible_layer(const TransformerShape& shape);
// Final norm, logits, cross-entropy.
std::shared_ptr<Block> make_transformer_head(const TransformerShape& shape);

// Names what the kernels of a shape depend on, apart from a rank's place.
std::string transformer_key(const char* what, const TransformerShape& shape);

// The tensors with what the backward reads of the forward: `kept` are the inputs of products,
// which the gradients of their matrices need, `held` what stays where the others are recomputed.
struct Activations {
  int saved = -1, kept = -1, held = -1;
};
// A range of the flat parameters or of the activations; a parameter may have a bias behind it.
struct Range {
  std::int64_t begin = 0, elements = 0, bias = 0;
  bool kept = false, held = false;
  SlotView in(int slot) const { return {slot, begin, elements}; }
  SlotView in(const Activations& a) const { return in(held ? a.held : kept ? a.kept : a.saved); }
  SlotView bias_in(int slot) const {
    return bias > 0 ? SlotView{slot, begin + elements, bias} : SlotView{};
  }
};

// What the three have in common.
class TransformerBlock : public Block {
 public:
  explicit TransformerBlock(const TransformerShape& s)
      : s_(s), tensor_(s.tensor, s.sequence_parallel), rows_(s.tokens()), own_(tensor_.own(rows_)) {
    partial_gradients_ = tensor_.sequence();
  }
  void complete_gradients(const BlockPass& p) const override {
    if (partial_gradients_) complete_.run(p.stream, {p.gradients});
  }

 protected:
  // Of the backward: the gradient of the input, those of the matrices, or both in a row.
  enum class Part { both, input, weight };

  // Whole on every rank of the tensor group. Their gradients are over this rank's own tokens.
  Range add_norm(const std::string& name);
  // A matrix from `hidden` whose columns, and their bias, are divided over the tensor group.
  Range by_columns(const std::string& name, std::vector<Division::Columns> columns, bool bias);
  // A matrix to `hidden` whose rows are divided over the tensor group; the bias, added to the sum,
  // is not.
  Range by_rows(const std::string& name, std::int64_t rows, double deviation, bool bias);
  // With sequence parallelism the inputs of products are gathered and given up again in the
  // backward, which is not divided then.
  virtual bool splits() const { return !tensor_.sequence(); }
  // Opens the group and finds this rank's part of sequences; sums the gradients of what is whole.
  void prepare_groups(Rank& rank, const std::string& key);
  virtual void build_forward(Rank& rank, PassProgram& s) const = 0;
  virtual void build_backward(Rank& rank, PassProgram& s, Part part) const = 0;
  // All passes of a block with matrices, under keys that begin with `key`, and their FLOPs.
  void build_passes(Rank& rank, const std::string& key);
  void norm(Rank& rank, PassProgram& s, const SlotView& x, const Range& range, int p,
            const SlotView& y) const;
  void norm_backward(Rank& rank, PassProgram& s, const SlotView& dy, const SlotView& x,
                     const Range& range, int p, int g, const SlotView& skip,
                     const SlotView& dx) const;

  TransformerShape s_;
  TensorParallel tensor_;
  std::int64_t rows_, own_;  // tokens of the group; of this rank between matrices
  SequencePart part_;
  std::vector<Range> whole_;
  PassProgram forward_, backward_, backward_input_, backward_weight_, complete_;
};

}  // namespace orrery
