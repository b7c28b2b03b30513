// Weight prediction: delayed updates, whose gradients are computed where the parameters will be.
//
// Nabli et al., "ACCO: Accumulate While You Communicate for Communication-Overlapped Sharded LLM
// Training", 2024 (arXiv 2406.02613), section 4.1, as ablation; the idea is of Kosson et al.,
// "Pipelined Backpropagation at Scale" (arXiv 2003.11666). The delayed gradient is applied a second
// time, which predicts the next update:
//
//   theta^{t+1} <- Opt(theta^t, sum g_i^{t-1} / sum N_i^{t-1})
//   theta~^{t+1} <- Opt(theta^{t+1}, sum g_i^{t-1} / sum N_i^{t-1})   Opt's state is not kept
//   meanwhile   g_i^t, N_i^t at theta~^t                              on every worker i
//
// Cost, for P parameters of p bytes and n workers:
//   communication   reduce-scatter and all-gather of p P: 2 (n-1)/n p P bytes per rank and step;
//                   and a count; hidden behind computation
//   memory          parameters, gradients and a buffer (3 p P with gradients of p bytes) and
//                   12 P / n optimizer state; 12 P / n more while a prediction is under way
#include "algorithms/weight_prediction.hpp"

namespace orrery {

WeightPrediction::WeightPrediction(Replica& replica, const DecoupledOptions& options)
    : Decoupled(replica, options, replica.options().micro_batches) {}

StepEnd WeightPrediction::issue(Progress& progress) {
  if (progress.step() == 0) {
    first_gradients(progress);
    clear();
  }
  round(progress, Update::predict);  // G = g^t;  P = theta~^{t+1}
  hand_over();
  const Tensor loss = clear();
  return {replica_.compute().record(), loss};
}

}  // namespace orrery

// Differences from the paper: none known; its formulas were rebuilt from its text. On a quadratic
// of curvature l the recursion is theta^{t+1} = theta^t - a theta~^{t-1}, theta~^{t+1} =
// theta^{t+1} - a theta~^{t-1}, a = lr l, stable for a < (sqrt(5) - 1) / 2.
