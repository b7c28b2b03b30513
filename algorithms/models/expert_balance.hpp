// Balancing experts by a bias of their own, without a loss that asks for it.
//
// Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts" (arXiv
// 2408.15664), algorithm 1; DeepSeek-AI 2024, "DeepSeek-V3" (arXiv 2412.19437), section 2.1.2:
//
//   S = the k experts of each token with the largest sigmoid(x W_r)_i + b_i
//   w_i = sigmoid(x W_r)_i / sum over j in S of sigmoid(x W_r)_j        the bias chooses only
//   after each step:   b_i <- b_i + u sign(mean over j of c_j - c_i)
//                      c_i: tokens of the step's batch that chose expert i
//
// Cost, for E experts, per layer and step: an all-reduce of 4 E bytes over the ranks that share a
// batch, beside the backward of the layers before; 8 E bytes of state on every rank.
#pragma once

#include "algorithms/models/block.hpp"

namespace orrery {

// The bias and the counts of one layer's experts: two runs of `experts` fp32 numbers of its state.
class ExpertBalance {
 public:
  // Adds them to the state of the block.
  ExpertBalance(int experts, double rate, std::vector<ParameterSpec>& state);
  void open(Rank& rank);  // set-up
  Tensor bias(const Tensor& state) const { return state ? state.slice(0, experts_) : Tensor(); }
  Tensor counts(const Tensor& state) const {
    return state ? state.slice(experts_, 2 * experts_) : Tensor();
  }
  // After the last pass of a step, on the stream "balance": the bias of the next step; counts begin
  // from 0.
  void end_step(Stream& compute, const Tensor& state) const;

 private:
  std::int64_t experts_;
  double rate_;
  Stream* stream_ = nullptr;
  Channel* channel_ = nullptr;  // null: nobody shares the batch
  Prepared move_;
};

}  // namespace orrery
