// The core of attention: from queries, keys and values to what they attend to, on one rank or over
// the ranks that share each sequence.
//
// It is the part of a layer that selective recomputation runs again, and the only one that sees
// tokens of other ranks of the context axis.
#pragma once

#include <memory>

#include "algorithms/models/pass_program.hpp"
#include "algorithms/models/transformer.hpp"

namespace orrery {

// A byte for each of `n` numbers, in elements of a type: the size of a mask.
constexpr std::int64_t mask_elements(std::int64_t n, Dtype dtype) {
  return (n + size_of(dtype) - 1) / size_of(dtype);
}

// Sizes on one rank. Packed tensors hold, token by token, heads, then those of keys, then those of
// values; `out` and `d_out` the heads.
struct AttentionSizes {
  std::int64_t batch = 1, length = 1, heads = 1, kv_heads = 1, head_size = 1;
  bool causal = true;
  Dtype dtype = Dtype::bf16;
  std::int64_t rows() const { return batch * length; }
  std::int64_t q() const { return heads * head_size; }
  std::int64_t kv() const { return kv_heads * head_size; }
  std::int64_t packed() const { return q() + 2 * kv(); }
  // fp32 row statistics, in elements of the type.
  std::int64_t statistics() const { return rows() * heads * 4 / size_of(dtype); }
};

class AttentionCore {
 public:
  explicit AttentionCore(const AttentionSizes& sizes) : s_(sizes) {}
  virtual ~AttentionCore() = default;
  virtual void open(Rank& /*rank*/) {}  // set-up

  // Elements that the forward keeps for the backward, besides qkv and out; and of workspace.
  virtual std::int64_t kept() const { return s_.statistics(); }
  virtual std::int64_t forward_workspace() const { return 0; }
  virtual std::int64_t backward_workspace() const { return 0; }
  // Whether the backward reads qkv; one that does not is given none.
  virtual bool needs_qkv_again() const { return true; }

  struct Forward {
    SlotView qkv, out, kept, workspace;
  };
  struct Backward {
    SlotView d_out, qkv, out, kept, d_qkv, workspace;
  };
  virtual void forward(Rank& rank, PassProgram& pass, const Forward& views) const;
  virtual void backward(Rank& rank, PassProgram& pass, const Backward& views) const;

 protected:
  AttentionSizes s_;
};

// On `shape.context` ranks by `shape.context_algorithm`, of a tensor group member's heads; storing
// its scores, or keeping nothing, as the shape says.
std::unique_ptr<AttentionCore> make_attention_core(const TransformerShape& shape);

}  // namespace orrery
