// Mixtures of experts, and expert parallelism: ranks that divide the experts of every layer.
//
// Shazeer et al. 2017 (arXiv 1701.06538); Lepikhin et al. 2020, "GShard" (arXiv 2006.16668):
// experts on different ranks, reached by an all-to-all, each with a fixed number of places; Fedus
// et al. 2021, "Switch Transformers" (arXiv 2101.03961), section 2.2: the capacity factor;
// DeepSeek-AI 2024, "DeepSeekMoE" (arXiv 2401.06066): shared experts, which all tokens pass.
//
//   w, S = route(X W_r)                     S: the k experts of each token with the largest logits,
//                                           or those that a bias chooses (expert_balance.hpp)
//   Y = sum over i in S of w_i E_i(X)  +  E_shared(X)             E(X) = (act(X G) * X U) D
//   An expert has C = ceil(f T k / E) places for the tokens T of each rank; who finds none is
//   dropped. Rank r < e holds the experts [r E / e, (r + 1) E / e):
//   D = dispatch(X, S) [E, C, h];  R = all_to_all(D);  O = all_to_all(E(R));  Y = combine(O, w, S)
//
// Cost, for e ranks, P = E C places on each, a hidden size h and B bytes, per layer and
// micro-batch:
//   sent by each rank    4 (e-1)/e P h B: two all-to-alls forward, two backward;
//                        with f = 1 and even routing 4 (e-1)/e T k h B
//   kept on each rank    P (2 h + (3 or 2) f_e) elements for the experts: their inputs, outputs
//                        and the activation's; T E logits
// Over a tensor group each expert's width is divided like an MLP's, and the ranks of a group route
// alike; what reaches the router's gradient on each is a part, summed once a step.
// An expert's gradient is that of the tokens of all e ranks, divided by e: averaging it over the
// replicas of the expert gives the mean over all ranks.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "algorithms/models/transformer_blocks.hpp"

namespace orrery {

// The second half of a layer: from a norm's output to what is added to the residual. Sizes are
// elements. Over a tensor group `out` and `d_input` are partial: their sums over it are meant.
class Mixture {
 public:
  virtual ~Mixture() = default;
  virtual void open(Rank& rank) = 0;      // set-up
  virtual std::int64_t kept() const = 0;  // from forward to backward
  virtual std::int64_t forward_workspace() const = 0;
  virtual std::int64_t backward_workspace() const = 0;
  // Choices of experts that a pass makes: as many fp32 weights and twice as many int32 numbers.
  virtual std::int64_t choices() const = 0;
  // Whole on every rank of a tensor group, with a part of its gradient on each.
  virtual Range router() const = 0;

  // Tensors of a pass by number: parameters, weights, and their gradients; choices.
  struct Tensors {
    int parameters = -1, gradients = -1, weights = -1, d_weights = -1, choices = -1;
    int bias = -1, counts = -1;  // of balanced experts
  };
  // `out` may be where a gathered `input` is: it is written once the input is no longer needed.
  struct Forward {
    SlotView input, kept, out, workspace;
  };
  virtual void forward(Rank& rank, PassProgram& pass, const Tensors& t, const Forward& v) const = 0;

  struct Backward {
    SlotView d_out, input, kept, d_input, workspace;
    std::function<void()>
        sum;  // starts once d_input is complete; what is added behind it runs beside
  };
  virtual void backward(Rank& rank, PassProgram& pass, const Tensors& t,
                        const Backward& v) const = 0;
};

// Adds its parameters to those of the block.
std::unique_ptr<Mixture> make_mixture(const TransformerShape& shape,
                                      std::vector<ParameterSpec>& parameters);

// Places of each expert for the tokens of one rank.
std::int64_t expert_capacity(const TransformerShape& shape);

}  // namespace orrery
