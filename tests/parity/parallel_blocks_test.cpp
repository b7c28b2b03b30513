// A layer with attention and MLP side by side, as values.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/parity/results.hpp"
#include "tests/parity/training_run.hpp"

namespace orrery {
namespace {

TransformerShape shape_of(bool parallel) {
  TransformerShape s;
  s.layers = 1;
  s.hidden = 8;
  s.heads = s.kv_heads = 2;
  s.head_size = 4;
  s.ffn = 12;
  s.vocabulary = 256;
  s.gated = false;
  s.activation = Activation::gelu;
  s.norm_bias = s.qkv_bias = s.output_bias = s.mlp_bias = true;
  s.parallel_blocks = parallel;
  s.sequence = 5;
  s.micro_batch = 2;
  s.dtype = Dtype::fp32;
  return s;
}

// What the layer adds to its input when the projections out of attention and of the MLP are kept or
// all zero.
std::vector<double> added(Rank& rank, const Block& layer, bool attention, bool mlp) {
  Stream& stream = rank.stream("compute");
  const auto tensor = [&](std::int64_t elements) {
    return rank.allocate(stream, Label::activations, elements, Dtype::fp32);
  };
  const auto random = [&](const Tensor& to, std::uint64_t number) {
    stream.launch(rank.prepare(Kernel::initialise(to.elements(), 0, 0.5, 3, number, Dtype::fp32)),
                  {to});
  };
  BlockPass pass{stream};
  pass.parameters = tensor(layer.parameter_elements());
  std::int64_t begin = 0;
  for (const ParameterSpec& p : layer.parameters()) {
    const Tensor slice = pass.parameters.slice(begin, begin + p.elements);
    const bool kept = p.name.starts_with("out.")    ? attention
                      : p.name.starts_with("down.") ? mlp
                                                    : true;
    if (kept)
      random(slice, static_cast<std::uint64_t>(begin));
    else
      stream.launch(rank.prepare(Kernel::fill(p.elements, 0, Dtype::fp32)), {slice});
    begin += p.elements;
  }
  pass.input = tensor(layer.output_elements());
  random(pass.input, 1'000'000);
  pass.output = tensor(layer.output_elements());
  pass.saved = tensor(layer.saved_elements());
  pass.kept = tensor(layer.kept_elements());
  pass.workspace = tensor(layer.forward_workspace());
  layer.forward(pass);
  const std::vector<double> x = rank.read(pass.input);
  std::vector<double> sum = rank.read(pass.output);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] -= x[i];
  return sum;
}

TEST_CASE("side by side, attention and MLP add what each adds alone; in a row they do not") {
  TrainingCase c;
  for (const bool parallel : {true, false}) {
    make_cpu_world(training_options(c))->run([&](Rank& rank) {
      const Model model = make_transformer(shape_of(parallel));
      Block& layer = *model.blocks[1];
      layer.prepare(rank);
      std::vector<double> both = added(rank, layer, true, true);
      const std::vector<double> attention = added(rank, layer, true, false),
                                mlp = added(rank, layer, false, true);
      CHECK(largest(attention) > 0.1);
      CHECK(largest(mlp) > 0.1);
      for (std::size_t i = 0; i < both.size(); ++i) both[i] -= attention[i] + mlp[i];
      if (parallel)
        CHECK(largest(both) < 1e-5);
      else
        CHECK(largest(both) > 0.1);
    });
  }
}

}  // namespace
}  // namespace orrery
