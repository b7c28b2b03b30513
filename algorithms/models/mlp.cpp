#include "algorithms/models/mlp.hpp"

#include <fmt/core.h>

#include <cmath>

#include "algorithms/models/reversible.hpp"

namespace orrery {

namespace {

// Y[b c, e] = E[token]
class Embedding : public Block {
 public:
  explicit Embedding(const MlpShape& s)
      : shape_(s), rows_(std::int64_t{s.micro_batch} * s.context) {
    parameters_ = {
        {"embedding", std::int64_t{s.vocabulary} * s.embedding, 1.0, 0, false, s.embedding}};
    output_elements_ = rows_ * s.embedding;
    weights_read_d_output_ = true;
  }
  void prepare(Rank& rank) override {
    forward_ =
        rank.prepare(Kernel::embedding(rows_, shape_.embedding, shape_.vocabulary, shape_.dtype));
    backward_ = rank.prepare(
        Kernel::embedding_backward(rows_, shape_.embedding, shape_.vocabulary, shape_.dtype));
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(forward_, {p.tokens, p.parameters, p.output});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(backward_, {p.tokens, p.d_output, p.gradients});
  }
  void backward_input(const BlockPass&) const override {}
  void backward_weight(const BlockPass& p) const override { backward(p); }

 private:
  MlpShape shape_;
  std::int64_t rows_;
  Prepared forward_, backward_;
};

// Z = X W, Y = gelu(Z + b); saved: Z
class Hidden : public Block {
 public:
  Hidden(const MlpShape& s, std::int64_t inputs, bool first) : shape_(s), inputs_(inputs) {
    parameters_ = {{"weight", inputs * s.hidden, 1.0 / std::sqrt(static_cast<double>(inputs)), 0,
                    true, s.hidden},
                   {"bias", s.hidden, 0, 0, false}};
    if (s.mu()) {
      parameters_[0].rates = first ? input_rates(s.width()) : hidden_rates(s.width());
      parameters_[1].rates = input_rates(s.width());
    }
    output_elements_ = saved_elements_ = backward_workspace_ = deferred_elements_ =
        std::int64_t{s.micro_batch} * s.hidden;
    backward_input_workspace_ = 0;
    weights_read_input_ = true;
  }
  void prepare(Rank& rank) override {
    const std::int64_t b = shape_.micro_batch, h = shape_.hidden, weights = inputs_ * h;
    const Dtype t = shape_.dtype;
    forward_ = &rank.sequence(
        fmt::format("mlp.hidden.forward {}x{}x{} {}", b, inputs_, h, name(t)), [&](Sequence& s) {
          const int p = s.slot("parameters"), x = s.slot("input"), z = s.slot("saved"),
                    y = s.slot("output");
          s.add(rank.prepare(Kernel::gemm(b, h, inputs_, t)),
                {{x, 0, b * inputs_}, {p, 0, weights}, {z, 0, b * h}});
          s.add(rank.prepare(Kernel::bias_activation(b, h, Activation::gelu, t)),
                {{z, 0, b * h}, {p, weights, h}, {y, 0, b * h}});
        });
    const std::string shape = fmt::format("{}x{}x{} {}", b, inputs_, h, name(t));
    backward_ = &rank.sequence("mlp.hidden.backward " + shape, [&](Sequence& s) {
      const int dz = input_gradient(rank, s);
      weight_gradient(rank, s, dz);
    });
    backward_input_ = &rank.sequence("mlp.hidden.backward_input " + shape,
                                     [&](Sequence& s) { input_gradient(rank, s); });
    backward_weight_ = &rank.sequence("mlp.hidden.backward_weight " + shape, [&](Sequence& s) {
      weight_gradient(rank, s, s.slot("deferred"));
    });
    forward_flops_ = forward_->cost().matrix;
    backward_flops_ = backward_->cost().matrix;
    weight_flops_ = backward_weight_->cost().matrix;
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(*forward_, {p.parameters, p.input, p.saved, p.output});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(*backward_, {p.parameters, p.saved, p.d_output, p.workspace, p.d_input, p.input,
                                 p.gradients});
  }
  void backward_input(const BlockPass& p) const override {
    p.stream.launch(*backward_input_, {p.parameters, p.saved, p.d_output, p.deferred, p.d_input});
  }
  void backward_weight(const BlockPass& p) const override {
    p.stream.launch(*backward_weight_, {p.deferred, p.input, p.gradients});
  }

 private:
  // Returns the slot of d Z.
  int input_gradient(Rank& rank, Sequence& s) const {
    const std::int64_t b = shape_.micro_batch, h = shape_.hidden, weights = inputs_ * h;
    const Dtype t = shape_.dtype;
    const int p = s.slot("parameters"), z = s.slot("saved"), dy = s.slot("d_output"),
              dz = s.slot("d_z"), dx = s.slot("d_input");
    s.add(rank.prepare(Kernel::bias_activation_backward(b, h, Activation::gelu, t)),
          {{dy, 0, b * h}, {z, 0, b * h}, {p, weights, h}, {dz, 0, b * h}});
    s.add(rank.prepare(Kernel::gemm(b, inputs_, h, t, false, true)),
          {{dz, 0, b * h}, {p, 0, weights}, {dx, 0, b * inputs_}});
    return dz;
  }
  void weight_gradient(Rank& rank, Sequence& s, int dz) const {
    const std::int64_t b = shape_.micro_batch, h = shape_.hidden, weights = inputs_ * h;
    const Dtype t = shape_.dtype;
    const int x = s.slot("input"), g = s.slot("gradients");
    s.add(rank.prepare(Kernel::gemm(inputs_, h, b, t, true, false, true)),
          {{x, 0, b * inputs_}, {dz, 0, b * h}, {g, 0, weights}});
    s.add(rank.prepare(Kernel::column_sum(b, h, t)), {{dz, 0, b * h}, {g, weights, h}});
  }

  MlpShape shape_;
  std::int64_t inputs_;
  const Sequence* forward_ = nullptr;
  const Sequence* backward_ = nullptr;
  const Sequence* backward_input_ = nullptr;
  const Sequence* backward_weight_ = nullptr;
};

// logits = X W / n + b, loss = mean cross-entropy; n = 1 but under mu, where it is the width over
// the base width. Kept: d logits, which the loss kernel leaves in their place
class Head : public Block {
 public:
  explicit Head(const MlpShape& s) : shape_(s) {
    parameters_ = {{"weight", std::int64_t{s.hidden} * s.vocabulary,
                    1.0 / std::sqrt(static_cast<double>(s.hidden)), 0, true, s.vocabulary},
                   {"bias", s.vocabulary, 0, 0, false}};
    if (s.mu()) {
      parameters_[0].deviation = 1.0 / std::sqrt(static_cast<double>(s.base_width));
      parameters_[0].rates = output_rates(s.width());
    }
    kept_elements_ = forward_workspace_ = std::int64_t{s.micro_batch} * s.vocabulary;
    weights_read_input_ = true;
    computes_loss_ = true;
  }
  void prepare(Rank& rank) override {
    const std::int64_t b = shape_.micro_batch, h = shape_.hidden, v = shape_.vocabulary,
                       weights = h * v;
    const Dtype t = shape_.dtype;
    const double scale = 1.0 / (static_cast<double>(b) * shape_.micro_batches);
    forward_ = &rank.sequence(
        fmt::format("mlp.head.forward {}x{}x{}/{} {} {}", b, h, v, factor(), scale, name(t)),
        [&](Sequence& s) {
          const int p = s.slot("parameters"), x = s.slot("input"), w = s.slot("workspace"),
                    l = s.slot("kept");
          const int targets = s.slot("targets"), loss = s.slot("loss");
          s.add(rank.prepare(Kernel::gemm(b, v, h, t)),
                {{x, 0, b * h}, {p, 0, weights}, {w, 0, b * v}});
          multiply(rank, s, {w, 0, b * v});
          s.add(rank.prepare(Kernel::bias_activation(b, v, Activation::none, t)),
                {{w, 0, b * v}, {p, weights, v}, {l, 0, b * v}});
          s.add(rank.prepare(Kernel::cross_entropy(b, v, scale, t)),
                {{l, 0, b * v}, {targets, 0, b}, {loss, 0, 1}});
        });
    const std::string shape = fmt::format("{}x{}x{}/{} {}", b, h, v, factor(), name(t));
    backward_ = &rank.sequence("mlp.head.backward " + shape, [&](Sequence& s) {
      const int dl = s.slot("kept");
      input_gradient(rank, s, dl);
      weight_gradient(rank, s, dl);
    });
    backward_input_ = &rank.sequence("mlp.head.backward_input " + shape,
                                     [&](Sequence& s) { input_gradient(rank, s, s.slot("kept")); });
    backward_weight_ = &rank.sequence("mlp.head.backward_weight " + shape, [&](Sequence& s) {
      weight_gradient(rank, s, s.slot("kept"));
    });
    forward_flops_ = forward_->cost().matrix;
    backward_flops_ = backward_->cost().matrix;
    weight_flops_ = backward_weight_->cost().matrix;
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(*forward_, {p.parameters, p.input, p.workspace, p.kept, p.targets, p.loss});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(*backward_, {p.kept, p.parameters, p.d_input, p.input, p.gradients});
  }
  void backward_input(const BlockPass& p) const override {
    p.stream.launch(*backward_input_, {p.kept, p.parameters, p.d_input});
  }
  void backward_weight(const BlockPass& p) const override {
    p.stream.launch(*backward_weight_, {p.kept, p.input, p.gradients});
  }

 private:
  void input_gradient(Rank& rank, Sequence& s, int dl) const {
    const std::int64_t b = shape_.micro_batch, h = shape_.hidden, v = shape_.vocabulary;
    const int p = s.slot("parameters"), dx = s.slot("d_input");
    s.add(rank.prepare(Kernel::gemm(b, h, v, shape_.dtype, false, true)),
          {{dl, 0, b * v}, {p, 0, h * v}, {dx, 0, b * h}});
    multiply(rank, s, {dx, 0, b * h});
  }
  void weight_gradient(Rank& rank, Sequence& s, int dl) const {
    const std::int64_t b = shape_.micro_batch, h = shape_.hidden, v = shape_.vocabulary;
    const int x = s.slot("input"), g = s.slot("gradients");
    s.add(rank.prepare(Kernel::column_sum(b, v, shape_.dtype)), {{dl, 0, b * v}, {g, h * v, v}});
    multiply(rank, s, {dl, 0, b * v});
    s.add(rank.prepare(Kernel::gemm(h, v, b, shape_.dtype, true, false, true)),
          {{x, 0, b * h}, {dl, 0, b * v}, {g, 0, h * v}});
  }
  double factor() const { return shape_.mu() ? 1 / shape_.width() : 1; }
  void multiply(Rank& rank, Sequence& s, const SlotView& x) const {
    if (shape_.mu())
      s.add(rank.prepare(Kernel::linear_combination(x.elements, factor(), 0, shape_.dtype)),
            {x, x});
  }

  MlpShape shape_;
  const Sequence* forward_ = nullptr;
  const Sequence* backward_ = nullptr;
  const Sequence* backward_input_ = nullptr;
  const Sequence* backward_weight_ = nullptr;
};

}  // namespace

Model make_mlp(const MlpShape& shape, std::shared_ptr<const std::string> text) {
  Model model;
  model.name = "mlp";
  model.dtype = shape.dtype;
  model.micro_batch = shape.micro_batch;
  model.tokens_per_sample = shape.context;
  model.targets_per_sample = 1;
  model.text = std::move(text);
  model.blocks.push_back(std::make_shared<Embedding>(shape));
  const auto first =
      std::make_shared<Hidden>(shape, std::int64_t{shape.context} * shape.embedding, true);
  const auto later = std::make_shared<Hidden>(shape, shape.hidden, false);
  const std::int64_t stream = std::int64_t{shape.micro_batch} * shape.hidden;
  const std::shared_ptr<Block> layer = shape.reversible ? make_coupling(later, later) : later;
  model.blocks.push_back(first);
  if (shape.reversible) model.blocks.push_back(make_doubling(stream, shape.dtype));
  for (int i = 1; i < shape.layers; ++i) model.blocks.push_back(layer);
  if (shape.reversible) model.blocks.push_back(make_averaging(stream, shape.dtype));
  model.blocks.push_back(std::make_shared<Head>(shape));
  if (!shape.reversible)  // behind one stream
    model.local_head = [head = model.blocks.back()](int) { return head; };
  return model;
}

}  // namespace orrery
