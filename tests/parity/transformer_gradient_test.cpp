// The gradient of every parameter of a whole transformer, against finite differences of its loss.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tests/parity/training_run.hpp"
#include "tests/support/near.hpp"
#include "tests/support/parameter_parts.hpp"

namespace orrery {
namespace {

// Two layers with everything a shape can have: grouped heads, biases everywhere, more positions
// than a sequence uses.
TransformerShape shape_of(bool rotary, bool gated, bool layer_norm, bool tied, bool parallel) {
  TransformerShape s;
  s.layers = 2;
  s.hidden = 12;
  s.heads = 4;
  s.kv_heads = 2;
  s.head_size = 4;
  s.ffn = 20;
  s.vocabulary = 256;
  s.rotary = rotary;
  s.learned_positions = rotary ? 0 : 9;
  s.gated = gated;
  s.activation = gated ? Activation::silu : Activation::gelu;
  s.norm_bias = layer_norm;
  s.qkv_bias = s.output_bias = s.mlp_bias = true;
  s.tied = tied;
  s.parallel_blocks = parallel;
  s.sequence = 7;
  s.micro_batch = 3;
  s.dtype = Dtype::fp32;
  return s;
}

void write_values(Rank& rank, const Tensor& tensor, const std::vector<double>& values) {
  const std::vector<float> narrow(values.begin(), values.end());
  rank.write_bytes(tensor, std::as_bytes(std::span(narrow)));
}

double transformer_loss(Rank& rank, Replica& replica) {
  replica.zero_gradients();
  replica.accumulate_micro_batch({5, 3});
  return rank.read(replica.loss())[0];
}

// Along its own gradient g of a parameter, a step h either way must change the loss by 2 h |g|.
void check_derivatives(Rank& rank, Replica& replica) {
  for (const Parameter& p : replica.parameters()) {  // larger weights, so that every layer matters
    std::vector<double> values = rank.read(value_of(replica.flat(), p));
    for (double& v : values) v = p.decay ? 15 * v : v + 0.1;
    write_values(rank, value_of(replica.flat(), p), values);
  }
  transformer_loss(rank, replica);
  std::vector<std::vector<double>> gradients;
  for (const Parameter& p : replica.parameters())
    gradients.push_back(rank.read(gradient_of(replica.flat(), p)));
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const Parameter& p = replica.parameters()[i];
    CAPTURE(name_of(p));
    double square = 0;
    for (const double g : gradients[i]) square += g * g;
    const double norm = std::sqrt(square), h = std::min(0.02, 0.004 / norm);
    REQUIRE(norm > 1e-3);
    const std::vector<double> values = rank.read(value_of(replica.flat(), p));
    const auto loss_at = [&](double step) {
      std::vector<double> moved = values;
      for (std::size_t j = 0; j < moved.size(); ++j) moved[j] += step * gradients[i][j] / norm;
      write_values(rank, value_of(replica.flat(), p), moved);
      return transformer_loss(rank, replica);
    };
    const double difference = (loss_at(h) - loss_at(-h)) / (2 * h);
    CHECK(difference == near(norm, 0.02));
    write_values(rank, value_of(replica.flat(), p), values);
  }
}

TEST_CASE("the gradients of a whole transformer agree with finite differences of its loss") {
  for (const auto& [rotary, gated, layer_norm, tied, parallel] :
       {std::tuple{false, false, true, false, false},
        {true, true, false, true, false},
        {true, false, true, true, false},
        {false, true, false, false, false},
        {true, false, true, false, true},
        {false, true, false, true, true}}) {
    TrainingCase c;
    c.transformer = shape_of(rotary, gated, layer_norm, tied, parallel);
    c.replica.micro_batches = 1;
    make_cpu_world(training_options(c))->run([&](Rank& rank) {
      Replica replica(rank, c.make(training_text()), c.replica);
      check_derivatives(rank, replica);
    });
  }
}

TEST_CASE("the gradients of latent attention agree with finite differences") {
  for (const int q_rank : {0, 7}) {
    TrainingCase c;
    c.transformer = shape_of(true, true, false, false, false);
    c.transformer->qkv_bias = false;
    c.transformer->kv_heads = 4;
    c.transformer->head_size = 6;
    c.transformer->rope_head = 2;
    c.transformer->v_head = 4;
    c.transformer->kv_rank = 5;
    c.transformer->q_rank = q_rank;
    c.replica.micro_batches = 1;
    make_cpu_world(training_options(c))->run([&](Rank& rank) {
      Replica replica(rank, c.make(training_text()), c.replica);
      check_derivatives(rank, replica);
    });
  }
}

TEST_CASE("the gradients of norms of queries and keys agree with finite differences") {
  for (const bool parallel : {false, true}) {
    TrainingCase c;
    c.transformer = shape_of(true, true, false, false, parallel);
    c.transformer->qk_norm = true;
    c.replica.micro_batches = 1;
    make_cpu_world(training_options(c))->run([&](Rank& rank) {
      Replica replica(rank, c.make(training_text()), c.replica);
      CHECK(std::count_if(replica.parameters().begin(), replica.parameters().end(),
                          [](const Parameter& p) {
                            return p.name.ends_with("_norm.gain") && p.elements == 4;
                          }) == 4);
      check_derivatives(rank, replica);
    });
  }
}

}  // namespace
}  // namespace orrery
