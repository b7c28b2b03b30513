// Under the mu parametrisation an update changes activations by the same whatever the width: the
// coordinate check of Yang et al. 2022 (arXiv 2203.03466, appendix D.1), and that of learned
// optimizers (arXiv 2406.00153).
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <numeric>

#include "algorithms/learned/learned_optimizer.hpp"
#include "algorithms/models/mlp.hpp"
#include "algorithms/models/transformer.hpp"
#include "algorithms/progress.hpp"
#include "backend/core/text.hpp"
#include "backend/cpu/bodies.hpp"
#include "backend/cpu/world.hpp"
#include "tests/support/parameter_parts.hpp"

namespace orrery {
namespace {

constexpr int layers = 3, batch = 16;
constexpr double rate = 2e-4;

// A network that trains by itself, pass by pass.
class Probe {
 public:
  using Update = std::function<void(Stream&, FlatParameters&)>;
  Probe(Rank& rank, const Model& model, const OptimizerOptions& optimizer)
      : rank_(rank), stream_(rank.stream("compute")), model_(model) {
    std::vector<int> all(model.blocks.size());
    std::iota(all.begin(), all.end(), 0);
    FlatOptions options;
    options.optimizer = optimizer;
    flat_ = std::make_unique<FlatParameters>(rank, stream_, model_, all, -1, 0, options);
    for (const auto& block : model.blocks) block->prepare(rank);
    // As the paper advises (appendix D.2): random output weights alone change the logits by
    // something that vanishes with the width.
    const Parameter& head = flat_->parameters()[head_weight()];
    stream_.launch(rank.prepare(Kernel::fill(head.elements, 0, Dtype::fp32)),
                   {value_of(*flat_, head)});
    tokens_ = tensor(model.micro_batch * model.tokens_per_sample, Dtype::int32);
    targets_ = tensor(model.micro_batch * model.targets_per_sample, Dtype::int32);
    const Tensor cursor = tensor(1, Dtype::int64, Values::always);
    stream_.upload(cursor, {0});
    stream_.launch(rank.prepare(model.batch_kernel(1, model.text)), {cursor, tokens_, targets_});
  }
  // Of an MLP what each hidden layer gives its activation, then the logits less their bias; of a
  // transformer what each layer adds to, then the logits.
  std::vector<std::vector<double>> forward() {
    passes_.clear();
    std::vector<std::vector<double>> z;
    Tensor x;
    const Tensor loss = tensor(1, Dtype::fp32, Values::always);
    stream_.launch(rank_.prepare(Kernel::fill(1, 0, Dtype::fp32)), {loss});
    for (int b = 0; b < std::ssize(model_.blocks); ++b) {
      const Block& block = *model_.blocks[static_cast<std::size_t>(b)];
      BlockPass pass{stream_};
      pass.parameters = flat_->values(b);
      pass.gradients = flat_->gradients(b);
      pass.tokens = tokens_;
      pass.targets = targets_;
      pass.loss = loss;
      pass.input = x;
      pass.saved = tensor(block.saved_elements());
      pass.kept = tensor(block.kept_elements());
      pass.output = x = tensor(block.output_elements());
      pass.workspace = tensor(block.forward_workspace());
      block.forward(pass);
      if (model_.targets_per_sample > 1)
        z.push_back(block.computes_loss() ? logits(pass) : rank_.read(pass.output));
      else if (const Tensor& here = block.computes_loss() ? pass.workspace : pass.saved)
        z.push_back(rank_.read(here));
      passes_.push_back(pass);
    }
    return z;
  }
  void step(const Update& update) {
    forward();
    flat_->zero_gradients(stream_);
    Tensor d;
    for (std::size_t b = passes_.size(); b-- > 0;) {
      BlockPass& pass = passes_[b];
      const Block& block = *model_.blocks[b];
      pass.d_output = d;
      pass.d_input = d = pass.input ? tensor(pass.input.elements()) : Tensor();
      pass.workspace = tensor(block.backward_workspace());
      block.backward(pass);
    }
    update(stream_, *flat_);
  }
  FlatParameters& flat() { return *flat_; }
  Stream& stream() { return stream_; }

 private:
  std::size_t head_weight() const {  // the last matrix
    std::size_t i = flat_->parameters().size() - 1;
    while (flat_->parameters()[i].columns == 0) --i;
    return i;
  }
  // A transformer's, which its head turns into their gradients: of every 8th token.
  std::vector<double> logits(const BlockPass& head) {
    const Parameter& table = flat_->parameters()[head_weight()];
    const std::vector<double> w = rank_.read(value_of(*flat_, table));
    const auto h = static_cast<std::size_t>(table.columns);
    const std::vector<double> x = rank_.read(head.kept);
    std::vector<double> all;
    for (std::size_t token = 0; token < static_cast<std::size_t>(tokens_.elements()); token += 8)
      for (std::size_t v = 0; v < w.size() / h; ++v)
        all.push_back(std::inner_product(&x[token * h], &x[token * h] + h, &w[v * h], 0.0));
    return all;
  }
  Tensor tensor(std::int64_t n, Dtype type = Dtype::fp32, Values values = Values::as_run) {
    return n == 0 ? Tensor()
                  : rank_.allocate(stream_, Label::activations, n, type, {.values = values});
  }
  Rank& rank_;
  Stream& stream_;
  const Model& model_;
  std::unique_ptr<FlatParameters> flat_;
  std::vector<BlockPass> passes_;
  Tensor tokens_, targets_;
};

std::shared_ptr<const std::string> text() {
  static const auto all = std::make_shared<const std::string>(
      read_file(std::string(ORRERY_SOURCE_DIR) + "/scenarios/texts/gpl-3.txt"));
  return all;
}

Model network(Parametrisation parametrisation, int width) {
  return make_mlp({.context = 4,
                   .embedding = 8,
                   .hidden = width,
                   .layers = layers,
                   .micro_batch = batch,
                   .parametrisation = parametrisation},
                  text());
}

// Wider by more heads.
Model transformer(Parametrisation parametrisation, int width) {
  TransformerShape shape;
  shape.layers = 2;
  shape.hidden = width;
  shape.head_size = 16;
  shape.heads = shape.kv_heads = width / shape.head_size;
  shape.ffn = 2 * width;
  shape.vocabulary = 256;
  shape.sequence = 16;
  shape.micro_batch = 4;
  shape.dtype = Dtype::fp32;
  shape.parametrisation = parametrisation;
  return make_transformer(shape, text());
}

// The root mean square of what five updates change of each pre-activation and of the logits.
using Changes = std::vector<double>;
Changes changes(const Model& model, const OptimizerOptions& optimizer,
                const std::function<Probe::Update(Probe&)>& make_update) {
  Changes out;
  WorldOptions options;
  options.real_values = true;
  options.seed = 3;
  options.bodies = &cpu_bodies();
  make_cpu_world(options)->run([&](Rank& rank) {
    Probe probe(rank, model, optimizer);
    const Probe::Update update = make_update(probe);
    const auto before = probe.forward();
    for (int t = 0; t < 5; ++t) probe.step(update);
    const auto after = probe.forward();
    for (std::size_t layer = 0; layer < before.size(); ++layer) {
      double squares = 0;
      for (std::size_t i = 0; i < before[layer].size(); ++i)
        squares += std::pow(after[layer][i] - before[layer][i], 2);
      out.push_back(std::sqrt(squares / static_cast<double>(before[layer].size())));
    }
  });
  return out;
}

// By how many octaves a change grows per octave of the width, layer by layer.
std::vector<double> slopes(Parametrisation parametrisation, const OptimizerOptions& optimizer,
                           const std::function<Probe::Update(Probe&)>& make_update,
                           int widest = 1024, Model (*make)(Parametrisation, int width) = network) {
  std::vector<double> octaves, slope;
  std::vector<Changes> all;
  for (int width = 64; width <= widest; width *= 2) {
    octaves.push_back(std::log2(width));
    all.push_back(changes(make(parametrisation, width), optimizer, make_update));
    slope.resize(all.back().size());
  }
  const double middle = (octaves.front() + octaves.back()) / 2;
  for (std::size_t layer = 0; layer < slope.size(); ++layer) {  // least squares
    double products = 0, squares = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      products += (octaves[i] - middle) * std::log2(all[i][layer]);
      squares += (octaves[i] - middle) * (octaves[i] - middle);
    }
    slope[layer] = products / squares;
  }
  return slope;
}

Probe::Update by_optimizer(Probe&) {
  return [](Stream& stream, FlatParameters& flat) {
    flat.begin_update(stream);
    flat.update(stream, flat.parameters(), {});
  };
}

// Steps as long in every tensor: by the gradient over its root mean square.
Probe::Update by_learned_optimizer(Probe& probe) {
  LearnedWeights weights;
  weights.step = rate;
  weights.layers = {{std::vector<std::vector<double>>(39, {0, 0}), {0, 0}}};
  weights.layers[0].weights[0] = {-1, 0};
  const auto learned = std::make_shared<LearnedOptimizer>(
      probe.stream(), probe.flat(), std::make_shared<const LearnedWeights>(std::move(weights)));
  return [learned](Stream& stream, FlatParameters& flat) {
    const Tensor& g = flat.all_gradients();
    stream.launch(
        stream.rank().prepare(Kernel::linear_combination(g.elements(), -1e12, 0, Dtype::fp32)),
        {g, g});  // as a Delta
    learned->update(flat.all_values(), g);
  };
}

const OptimizerOptions adam{.name = "adamw", .lr = rate, .epsilon = 1e-15, .weight_decay = 0};

}  // namespace

TEST_CASE("under mu what Adam changes of activations does not grow with the width") {
  for (const double slope : slopes(Parametrisation::mu, adam, by_optimizer))
    CHECK(std::fabs(slope) < 0.1);
}

TEST_CASE("under the standard parametrisation it grows in every layer behind the first") {
  const std::vector<double> slope = slopes(Parametrisation::standard, adam, by_optimizer);
  for (std::size_t layer = 1; layer < slope.size(); ++layer) CHECK(slope[layer] > 0.5);
}

TEST_CASE("under mu what SGD changes of activations does not grow with the width") {
  const OptimizerOptions sgd{.name = "sgd", .lr = 0.05, .weight_decay = 0};
  for (const double slope : slopes(Parametrisation::mu, sgd, by_optimizer))
    CHECK(std::fabs(slope) < 0.1);
}

TEST_CASE("under mu what a learned optimizer changes of activations does not grow with the width") {
  for (const double slope : slopes(Parametrisation::mu, adam, by_learned_optimizer, 512))
    CHECK(std::fabs(slope) < 0.1);
  const std::vector<double> standard =
      slopes(Parametrisation::standard, adam, by_learned_optimizer, 256);
  for (std::size_t layer = 1; layer < standard.size(); ++layer) CHECK(standard[layer] > 0.5);
}

TEST_CASE("under mu what Adam changes in a transformer does not grow with the number of heads") {
  for (const double slope : slopes(Parametrisation::mu, adam, by_optimizer, 512, transformer))
    CHECK(std::fabs(slope) < 0.1);
  const std::vector<double> standard =
      slopes(Parametrisation::standard, adam, by_optimizer, 512, transformer);
  REQUIRE(standard.size() == 4);  // embedding, two layers, logits
  for (std::size_t layer = 1; layer < standard.size(); ++layer) CHECK(standard[layer] > 0.3);
}

TEST_CASE("under mu what SGD changes in a transformer does not grow with the number of heads") {
  const OptimizerOptions sgd{.name = "sgd", .lr = 0.05, .weight_decay = 0};
  for (const double slope : slopes(Parametrisation::mu, sgd, by_optimizer, 512, transformer))
    CHECK(std::fabs(slope) < 0.1);
}

TEST_CASE("at the base width mu is the standard parametrisation") {
  const auto trained = [](const MlpShape& shape) {
    std::vector<double> values;
    WorldOptions options;
    options.real_values = true;
    options.bodies = &cpu_bodies();
    const auto text = std::make_shared<const std::string>(std::string(1000, 'a') + "bcd");
    const Model model = make_mlp(shape, text);
    make_cpu_world(options)->run([&](Rank& rank) {
      Probe probe(rank, model, {});
      for (int t = 0; t < 3; ++t) probe.step(by_optimizer(probe));
      values = rank.read(probe.flat().all_values());
    });
    return values;
  };
  MlpShape shape{.context = 4, .embedding = 8, .hidden = 64, .layers = 2, .micro_batch = batch};
  const std::vector<double> standard = trained(shape);
  shape.parametrisation = Parametrisation::mu;
  shape.base_width = 64;
  CHECK(trained(shape) == standard);
  const auto deviation = [&] {
    return make_mlp(shape, nullptr).blocks.back()->parameters()[0].deviation;
  };
  CHECK(deviation() == 1.0 / 8);  // of the output, as in the standard one
  shape.base_width = 32;
  CHECK(trained(shape) != standard);
  CHECK(deviation() == 1 / std::sqrt(32.0));
}

TEST_CASE("decoupled weight decay under mu shrinks all weights alike") {
  WorldOptions options;
  options.real_values = true;
  options.bodies = &cpu_bodies();
  for (const char* name : {"adamw", "sgd"}) {
    OptimizerOptions decaying{.name = name, .lr = 0.125, .weight_decay = 0.5};
    const Model model = network(Parametrisation::mu, 64);
    make_cpu_world(options)->run([&](Rank& rank) {
      Probe probe(rank, model, decaying);
      const std::vector<double> before = rank.read(probe.flat().all_values());
      probe.flat().zero_gradients(probe.stream());
      by_optimizer(probe)(probe.stream(), probe.flat());
      const std::vector<double> after = rank.read(probe.flat().all_values());
      for (const Parameter& p : probe.flat().parameters())
        for (std::int64_t i = p.begin; i < p.begin + p.elements; i += 17) {
          const auto at = static_cast<std::size_t>(i);
          CHECK(after[at] == doctest::Approx(before[at] * (p.decay ? 1 - 0.125 * 0.5 : 1)));
        }
    });
  }
}

}  // namespace orrery
