// ACCO: accumulate while you communicate.
//
// Nabli, Fournier, Erbacher, Serrano, Belilovsky and Oyallon, "ACCO: Accumulate While You
// Communicate for Communication-Overlapped Sharded LLM Training", 2024 (arXiv 2406.02613), section
// 3. Each update takes two rounds; in each, gradients are computed while those of the round before
// are communicated. g are sums over micro-batches, N counts them; theta~ is a prediction of theta.
//
//   theta~^0 <- theta^0;   g~_i^0, N~_i^0 at theta~^0                     on every worker i
//   estimate:  theta~^{t+1} <- Opt(theta^t, sum g~_i^t / sum N~_i^t)       Opt's state is not kept
//              meanwhile  g_i^t, N_i^t at theta^t
//   commit:    theta^{t+1} <- Opt(theta^t, sum (g_i^t + g~_i^t) / sum (N_i^t + N~_i^t))
//              meanwhile  g~_i^{t+1}, N~_i^{t+1} at theta~^{t+1}
//
// Workers compute for as long as the communication lasts, so a fast one takes more micro-batches.
//
// Cost, for P parameters of p bytes and n workers:
//   communication   2 rounds per step, each reduce-scatter and all-gather of p P: 4 (n-1)/n p P
//                   bytes per rank, twice ZeRO-1's, and two counts; hidden behind computation
//   memory          parameters, gradients and a buffer (3 p P with gradients of p bytes) and
//                   12 P / n optimizer state; 12 P / n more while an estimate is under way
#include "algorithms/acco.hpp"

namespace orrery {

// By plan, half of a step's micro-batches are taken in each round.
Acco::Acco(Replica& replica, const DecoupledOptions& options)
    : Decoupled(replica, options, std::max(1, replica.options().micro_batches / 2)) {}

StepEnd Acco::issue(Progress& progress) {
  if (progress.step() == 0) first_gradients(progress);
  round(progress, Update::estimate);  // G = g~^t + g^t;  P = theta~^{t+1}
  hand_over();
  const Tensor loss = clear();
  round(progress, Update::commit);  // G = g~^{t+1};  P = theta^{t+1}
  hand_over();
  return {replica_.compute().record(), loss};
}

}  // namespace orrery

// Differences from the paper: the learning rate advances once per update, and its schedule counts
// updates; with 32-bit parameters everything is communicated in 32 bits; there is no warm-up by
// another algorithm. Fast workers' data weigh more, as in the paper.
