// Delayed parameter updates: gradients are applied one step late, and communicated meanwhile.
//
// Ren et al., "ZeRO-Offload: Democratizing Billion-Scale Model Training", USENIX ATC 2021 (arXiv
// 2101.06840), section 5.2; as the baseline of ACCO (arXiv 2406.02613), section 4.1:
//
//   theta^{t+1} <- Opt(theta^t, sum g_i^{t-1} / sum N_i^{t-1})
//   meanwhile   g_i^t, N_i^t at theta^t                             on every worker i
//
// where g^{-1} is computed at theta^0 too.
//
// Cost, for P parameters of p bytes and n workers:
//   communication   reduce-scatter and all-gather of p P: 2 (n-1)/n p P bytes per rank and step;
//                   and a count; hidden behind computation
//   memory          parameters, gradients and a buffer (3 p P with gradients of p bytes) and
//                   12 P / n optimizer state
#include "algorithms/dpu.hpp"

namespace orrery {

Dpu::Dpu(Replica& replica, const DecoupledOptions& options)
    : Decoupled(replica, options, replica.options().micro_batches) {}

StepEnd Dpu::issue(Progress& progress) {
  if (progress.step() == 0) {
    first_gradients(progress);
    clear();
  }
  round(progress, Update::commit);  // G = g^t;  P = theta^{t+1}
  hand_over();
  const Tensor loss = clear();
  return {replica_.compute().record(), loss};
}

}  // namespace orrery

// Differences from the papers: the communication of gradients is what is hidden, not the step of an
// optimizer on the host; workers take micro-batches until it is done, as with ACCO.
