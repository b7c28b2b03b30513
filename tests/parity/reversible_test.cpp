// Networks for pictures and reversible networks: gradients against finite differences of the loss,
// reconstruction, and gradients from reconstructed activations against plain backpropagation.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "algorithms/stage_passes.hpp"
#include "sim/simgrid/engine.hpp"
#include "tests/parity/results.hpp"
#include "tests/parity/training_run.hpp"
#include "tests/support/parameter_parts.hpp"
#include "tests/support/picture_models.hpp"

namespace orrery {
namespace {

void on_one_rank(const std::function<void(Rank&)>& program) {
  make_cpu_world(training_options({}))->run(program);
}

Model picture_network(bool reversible, int depth, int image = 8, int width = 4, int batch = 6,
                      bool small = true) {
  ResnetShape shape = small_pictures(depth, image, width, batch);
  shape.small_images = small;
  const auto pictures = noise_pictures(40, image, 5);
  return reversible ? make_revnet(shape, pictures) : make_resnet(shape, pictures);
}

Model reversible_mlp() {
  return make_mlp({.context = 4,
                   .embedding = 8,
                   .hidden = 24,
                   .layers = 5,
                   .vocabulary = 256,
                   .micro_batch = 6,
                   .micro_batches = 1,
                   .dtype = Dtype::fp32,
                   .reversible = true},
                  training_text());
}

Model reversible_transformer(bool gated) {
  TransformerShape s;
  s.layers = 4;
  s.hidden = 12;
  s.heads = 4;
  s.kv_heads = gated ? 2 : 4;
  s.head_size = 4;
  s.ffn = 20;
  s.vocabulary = 256;
  s.rotary = gated;
  s.learned_positions = gated ? 0 : 9;
  s.gated = gated;
  s.activation = gated ? Activation::silu : Activation::gelu;
  s.norm_bias = s.qkv_bias = s.output_bias = s.mlp_bias = !gated;
  s.sequence = 7;
  s.micro_batch = 3;
  s.dtype = Dtype::fp32;
  s.reversible = true;
  return make_transformer(s, training_text());
}

std::vector<Model> reversible_models() {
  return {reversible_mlp(),          reversible_transformer(true), reversible_transformer(false),
          picture_network(true, 18), picture_network(true, 34),    picture_network(true, 50)};
}

void write(Rank& rank, const Tensor& tensor, const std::vector<double>& values) {
  const std::vector<float> narrow(values.begin(), values.end());
  rank.write_bytes(tensor, std::as_bytes(std::span(narrow)));
}

double loss_of(Rank& rank, Replica& replica) {
  replica.zero_gradients();
  replica.accumulate_micro_batch({5, replica.model().micro_batch});
  return rank.read(replica.loss())[0];
}

// Errors of gradients, over their norms: of half of the parameters, of 19 in 20 and of all at most.
struct GradientErrors {
  double median, most, worst;
};
// ReLUs and pools have kinks, which a step may meet.
constexpr GradientErrors with_kinks{0.03, 0.1, 0.25}, smooth{0.03, 0.03, 0.03};

// A step h either way along a direction of random signs changes the loss by 2 h (g . signs), where
// g is the gradient of a parameter. So every component of it counts, near zero too: an error e of
// it shows as |e . signs|, which is |e| in the mean square. What the rounding of the loss makes of
// nothing is no error. Kinks that lie in a step's way seldom do in that of a sixteenth.
void check_reversed(Rank& rank, Replica& replica, const GradientErrors& allowed) {
  const double loss = loss_of(rank, replica);
  std::vector<std::vector<double>> gradients;
  for (const Parameter& p : replica.parameters())
    gradients.push_back(rank.read(gradient_of(replica.flat(), p)));
  const Philox numbers(11, Purpose::user);
  std::vector<double> errors;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const Parameter& p = replica.parameters()[i];
    std::vector<double> signs;
    double square = 0, expected = 0;
    for (const double g : gradients[i]) {
      signs.push_back(numbers.below(i << 32U | signs.size(), 2) == 0 ? -1 : 1);
      square += g * g;
      expected += g * signs.back();
    }
    const double norm = std::sqrt(square), h = std::min(0.001, 0.0001 / norm);
    const std::vector<double> values = rank.read(value_of(replica.flat(), p));
    const auto loss_at = [&](double step) {
      std::vector<double> moved = values;
      for (std::size_t j = 0; j < moved.size(); ++j) moved[j] += step * signs[j];
      write(rank, value_of(replica.flat(), p), moved);
      return loss_of(rank, replica);
    };
    const auto error_of = [&](double step) {
      const double difference = (loss_at(step) - loss_at(-step)) / (2 * step);
      const double rounding = 4 * std::numeric_limits<float>::epsilon() * loss / (2 * step);
      return std::max(0.0, std::fabs(difference - expected) - rounding);
    };
    double error = error_of(h);
    for (const double shorter : {h / 4, h / 16})
      if (error > allowed.most * norm) error = std::min(error, error_of(shorter));
    CAPTURE(name_of(p));
    CHECK(error <= allowed.worst * norm);
    errors.push_back(error / std::max(norm, std::numeric_limits<double>::min()));
    write(rank, value_of(replica.flat(), p), values);
  }
  std::sort(errors.begin(), errors.end());
  CHECK(errors[errors.size() / 2] <= allowed.median);
  CHECK(errors[errors.size() * 19 / 20] <= allowed.most);
}

TEST_CASE("the gradients of networks for pictures agree with finite differences of their loss") {
  on_one_rank([](Rank& rank) {
    for (const bool reversible : {false, true})
      for (const int depth : {18, 50})
        for (const bool small : {true, false}) {
          if (sim::actors_are_threads && (depth == 50 || !small)) continue;  // minutes there
          CAPTURE(reversible);
          CAPTURE(depth);
          CAPTURE(small);
          Replica replica(rank, picture_network(reversible, depth, small ? 16 : 64, 4, 6, small),
                          {});
          check_reversed(rank, replica, with_kinks);
        }
  });
}

TEST_CASE("the gradients of reversible transformers and MLPs agree with finite differences") {
  on_one_rank([](Rank& rank) {
    for (Model& model : std::vector{reversible_mlp(), reversible_transformer(true),
                                    reversible_transformer(false)}) {
      Replica replica(rank, model, {});
      for (const Parameter& p : replica.parameters()) {  // larger weights: every layer matters
        std::vector<double> values = rank.read(value_of(replica.flat(), p));
        if (replica.model().name == "transformer")
          for (double& v : values) v = p.decay ? 15 * v : v + 0.1;
        write(rank, value_of(replica.flat(), p), values);
      }
      check_reversed(rank, replica, smooth);
    }
  });
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double most = a.size() == b.size() ? 0 : HUGE_VAL;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    most = std::max(most, std::fabs(a[i] - b[i]));
  return most;
}

TEST_CASE("a reversible block computes its input from its output to 1e-5, and saves the same") {
  on_one_rank([](Rank& rank) {
    for (const Model& model : reversible_models()) {
      CAPTURE(model.name);
      Replica replica(rank, model, {});
      Stream& stream = replica.compute();
      int checked = 0;
      for (int b = 1; b < static_cast<int>(model.blocks.size()); ++b) {
        const Block& block = *model.blocks[static_cast<std::size_t>(b)];
        if (!block.reversible()) continue;
        const std::int64_t n = model.blocks[static_cast<std::size_t>(b - 1)]->output_elements();
        const auto tensor = [&](std::int64_t elements) {
          return elements == 0 ? Tensor()
                               : rank.allocate(stream, Label::activations, elements, Dtype::fp32);
        };
        BlockPass pass{stream};
        pass.parameters = replica.flat().values(b);
        pass.input = tensor(n);
        pass.output = tensor(block.output_elements());
        pass.saved = tensor(block.saved_elements());
        pass.kept = tensor(block.kept_elements());
        pass.workspace = tensor(block.forward_workspace());
        stream.launch(rank.prepare(Kernel::initialise(n, 0, 1, 5, 99, Dtype::fp32)), {pass.input});
        block.forward(pass);
        BlockPass back = pass;
        back.input = tensor(n);
        back.saved = tensor(block.saved_elements());
        back.kept = tensor(block.kept_elements());
        block.reconstruct(back);
        const std::vector<double> x = rank.read(pass.input);
        CHECK(distance(rank.read(back.input), x) < 1e-5 * largest(x));
        if (pass.saved) {
          const std::vector<double> saved = rank.read(pass.saved);
          CHECK(distance(rank.read(back.saved), saved) < 1e-5 * largest(saved));
        }
        ++checked;
      }
      CHECK(checked >= 4);
    }
  });
}

TEST_CASE("gradients from reconstructed activations are those of plain backpropagation to 1e-5") {
  on_one_rank([](Rank& rank) {
    for (const Model& model : reversible_models()) {
      CAPTURE(model.name);
      Replica replica(rank, model, {});
      const double loss = loss_of(rank, replica);
      const std::vector<double> plain = rank.read(replica.flat().all_gradients());
      for (const Keep keep : {Keep::graph, Keep::inputs, Keep::nothing}) {
        StagePasses stage(replica, {.keep = keep});
        stage.begin_step(replica.compute());
        stage.forward(replica.compute(), 0, {5, model.micro_batch}, {});
        stage.backward(replica.compute(), 0, {});
        const std::vector<double> gradients = rank.read(replica.flat().all_gradients());
        CHECK(rank.read(stage.loss())[0] == loss);
        if (keep == Keep::nothing)
          CHECK(distance(gradients, plain) < 1e-5 * largest(plain));
        else
          CHECK(gradients == plain);
      }
    }
  });
}

TEST_CASE("recomputing a network for pictures moves its running statistics once") {
  on_one_rank([](Rank& rank) {
    const auto statistics = [&](Recompute recompute) {
      ReplicaOptions options;
      options.recompute = recompute;
      Replica replica(rank, picture_network(true, 18), options);
      loss_of(rank, replica);
      std::vector<double> all = rank.read(replica.flat().all_gradients());
      for (int b = 0; b + 1 < static_cast<int>(replica.model().blocks.size()); ++b)
        for (const double v : rank.read(replica.state_of(b))) all.push_back(v);
      return all;
    };
    CHECK(statistics(Recompute::none) == statistics(Recompute::full));
  });
}

TEST_CASE("reversible networks have the published numbers of parameters") {
  const auto parameters = [](int depth, bool small) {
    return make_revnet({depth, small ? 32 : 224, small ? 10 : 1000, small}).parameter_elements();
  };
  // 12.2, 22.3 and 30.4 million (Rivaud et al. 2024, section 4.1).
  CHECK(std::llround(static_cast<double>(parameters(18, false)) / 1e5) == 122);
  CHECK(std::llround(static_cast<double>(parameters(34, false)) / 1e5) == 223);
  CHECK(std::llround(static_cast<double>(parameters(50, false)) / 1e5) == 304);
  CHECK(make_revnet({18}).blocks.size() == 10);
  CHECK(make_revnet({34}).blocks.size() == 18);
  CHECK(make_revnet({50}).blocks.size() == 18);
}

}  // namespace
}  // namespace orrery
