// The update equation of pipelines that never drain, written down on one rank.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/parity/training_run.hpp"

namespace orrery {

struct Reference {
  std::vector<float> parameters;
  std::vector<double> losses;
};

// w(t+1) = w(t) - lr grad f(w_0(t - delays[0]), …, w_p-1(t - delays[p-1])), versions before the
// first being the first; the gradient is summed over the step's micro-batches.
inline Reference by_equation(const TrainingCase& c, const std::vector<int>& delays) {
  Reference result;
  TrainingCase one = c;
  one.pipeline = 1;
  make_cpu_world(training_options(one))->run([&](Rank& rank) {
    Stream& stream = rank.stream("compute");
    const Model model = c.make(training_text());
    const int blocks = static_cast<int>(model.blocks.size());
    std::vector<int> all(model.blocks.size());
    std::iota(all.begin(), all.end(), 0);
    FlatOptions options;
    options.optimizer = c.replica.optimizer;
    FlatParameters flat(rank, stream, model, all, -1, 0, options);
    for (const auto& block : model.blocks) block->prepare(rank);
    const auto tensor = [&](std::int64_t n, Dtype type = Dtype::fp32, Values v = Values::as_run) {
      return n == 0 ? Tensor() : rank.allocate(stream, Label::activations, n, type, {.values = v});
    };
    const Prepared load =
        rank.prepare(Kernel::text_batch(model.micro_batch, model.tokens_per_sample, rank.seed(),
                                        model.text, model.targets_per_sample));
    const Prepared zero_loss = rank.prepare(Kernel::fill(1, 0, Dtype::fp32));
    const Tensor cursor = tensor(1, Dtype::int64, Values::always);
    const Progress progress(rank, {c.steps, c.global_batch()});
    const auto stages = stage_blocks(blocks, c.pipeline);
    std::vector<Tensor> versions;
    for (std::int64_t t = 0; t < c.steps; ++t) {
      versions.push_back(tensor(flat.all_values().elements()));
      stream.copy(flat.all_values(), versions.back());
      flat.zero_gradients(stream);
      const Tensor loss = tensor(1, Dtype::fp32, Values::always);
      stream.launch(zero_loss, {loss});
      for (int i = 0; i < c.replica.micro_batches; ++i) {
        const Batch batch =
            progress.part(t, std::int64_t{i} * model.micro_batch, model.micro_batch);
        std::vector<BlockPass> passes;
        Tensor x;
        for (int b = 0; b < blocks; ++b) {
          const Block& block = *model.blocks[static_cast<std::size_t>(b)];
          BlockPass pass{stream};
          std::size_t stage = 0;
          while (b >= stages[stage].second) ++stage;
          const std::int64_t version = std::max<std::int64_t>(0, t - delays[stage]);
          pass.parameters = flat.values(b, versions[static_cast<std::size_t>(version)]);
          pass.gradients = flat.gradients(b);
          pass.tokens = b == 0 ? tensor(model.micro_batch * model.tokens_per_sample, Dtype::int32)
                               : passes[0].tokens;
          pass.targets = b == 0 ? tensor(model.micro_batch, Dtype::int32) : passes[0].targets;
          if (b == 0) {
            stream.upload(cursor, {static_cast<double>(batch.first_sample)});
            stream.launch(load, {cursor, pass.tokens, pass.targets});
          }
          pass.loss = loss;
          pass.input = x;
          pass.saved = tensor(block.saved_elements());
          pass.kept = tensor(block.kept_elements());
          pass.output = x = tensor(block.output_elements());
          pass.workspace = tensor(std::max(block.forward_workspace(), block.backward_workspace()));
          BlockPass forward = pass;
          forward.workspace = tensor(block.forward_workspace());
          block.forward(forward);
          passes.push_back(pass);
        }
        Tensor d;
        for (int b = blocks; b-- > 0;) {
          const Block& block = *model.blocks[static_cast<std::size_t>(b)];
          BlockPass& pass = passes[static_cast<std::size_t>(b)];
          pass.d_output = d;
          pass.d_input = d = pass.input ? tensor(pass.input.elements()) : Tensor();
          pass.workspace = tensor(block.backward_workspace());
          block.backward(pass);
        }
      }
      flat.begin_update(stream);
      flat.update(stream, flat.parameters(), {});
      result.losses.push_back(rank.read(loss)[0]);
    }
    for (const double v : rank.read(flat.all_values()))
      result.parameters.push_back(static_cast<float>(v));
  });
  return result;
}

}  // namespace orrery
