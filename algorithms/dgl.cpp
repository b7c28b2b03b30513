// Decoupled greedy learning.
//
// Belilovsky, Eickenberg and Oyallon 2020, ICML, "Decoupled Greedy Learning of CNNs" (arXiv
// 1901.08164, algorithm 1): every stage has an auxiliary head and learns from its own loss. Nothing
// comes back from the stages above, so none waits for them.
//
//   stage j, for each batch:   x_j <- F_j(x_{j-1}, theta_j);   send x_j up
//                              loss_j <- head_j(x_j)
//                              theta_j, head_j <- optimizer(their gradients of loss_j)
//
// Cost of stage j per batch, F being its forward, H its head's and X the elements of its boundary:
//   time            3 (F + H); the slowest stage's between batches
//   communication   X up, nothing down
//   memory          parameters, gradients and optimizer state of the stage and its head; the graph
//                   of one batch
#include "algorithms/dgl.hpp"

namespace orrery {

void describe(Fields<DglOptions>& f) { f.section("optimizer", &DglOptions::optimizer); }

void add_local_heads(Model& model, ReplicaOptions& options, int stages) {
  if (stages == 1) return;
  if (!model.local_head)
    throw Error(Category::config, "not available yet: local heads of " + model.name);
  const auto ranges = stage_blocks(static_cast<int>(model.blocks.size()), stages, options.layers);
  std::vector<std::shared_ptr<Block>> blocks;
  options.layers.clear();
  for (int stage = 0; stage < stages; ++stage) {
    const auto [first, last] = ranges[static_cast<std::size_t>(stage)];
    for (int b = first; b < last; ++b) blocks.push_back(model.blocks[static_cast<std::size_t>(b)]);
    const bool end = stage + 1 == stages;
    if (!end) blocks.push_back(model.local_head(last - 1));
    options.layers.push_back(last - first + (end ? 0 : 1) - (stage == 0 ? 1 : 0) - (end ? 1 : 0));
  }
  model.blocks = std::move(blocks);
}

Dgl::Dgl(Replica& replica, const DglOptions&)
    : Petra(replica, DecouplingRules{.stage = {.keep = Keep::graph}, .local_losses = true}) {}

}  // namespace orrery

// Differences from the paper: heads are the model's own kind of head, where the paper's have
// convolutions in between; a stage's gradient of its input, which nobody takes, is computed.
