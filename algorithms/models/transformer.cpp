#include "algorithms/models/transformer.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "algorithms/models/transformer_layer.hpp"

namespace orrery {

namespace {

// Initial deviation 0.02 throughout, as in GPT-2; gains start at one, biases at zero.
void add_norm(std::vector<ParameterSpec>& parameters, const std::string& name,
              const TransformerShape& s) {
  parameters.push_back({name + ".gain", s.hidden, 0, 1, false});
  if (s.norm_bias) parameters.push_back({name + ".bias", s.hidden, 0, 0, false});
}

// Names what the kernels of a shape depend on.
std::string key(const char* what, const TransformerShape& s) {
  return fmt::format("transformer.{} {}x{} h{} a{}/{}x{} f{} v{} {}{}{}{}{}{}{}{} {} {} {} {} {}",
                     what, s.micro_batch, s.sequence, s.hidden, s.heads, s.kv_heads, s.head_size,
                     s.ffn, s.vocabulary, s.gated ? "g" : "", s.rotary ? "r" : "",
                     s.norm_bias ? "n" : "", s.qkv_bias ? "q" : "", s.output_bias ? "o" : "",
                     s.mlp_bias ? "m" : "", s.causal ? "c" : "", s.parallel_blocks ? "p" : "",
                     s.micro_batches, static_cast<int>(s.activation), s.rope_theta, s.norm_epsilon,
                     name(s.dtype));
}

class TokenEmbedding : public Block {
 public:
  explicit TokenEmbedding(const TransformerShape& s)
      : shape_(s), rows_(std::int64_t{s.micro_batch} * s.sequence) {
    parameters_ = {{"tokens", std::int64_t{s.vocabulary} * s.hidden, 0.02, 0, true}};
    if (!s.rotary && s.learned_positions > 0)
      parameters_.push_back(
          {"positions", std::int64_t{s.learned_positions} * s.hidden, 0.02, 0, true});
    output_elements_ = rows_ * s.hidden;
  }
  void prepare(Rank& rank) override {
    const std::int64_t table = std::int64_t{shape_.vocabulary} * shape_.hidden,
                       all = rows_ * shape_.hidden;
    const std::int64_t positions = parameter_elements() - table;
    forward_ = &rank.sequence(
        key("embedding.forward", shape_) + std::to_string(positions), [&](Sequence& s) {
          const int tokens = s.slot("tokens"), p = s.slot("parameters"), y = s.slot("output");
          s.add(rank.prepare(
                    Kernel::embedding(rows_, shape_.hidden, shape_.vocabulary, shape_.dtype)),
                {{tokens, 0, rows_}, {p, 0, table}, {y, 0, all}});
          if (positions > 0)
            s.add(rank.prepare(
                      Kernel::add_positions(rows_, shape_.hidden, shape_.sequence, shape_.dtype)),
                  {{p, table, positions}, {y, 0, all}});
        });
    backward_ = &rank.sequence(
        key("embedding.backward", shape_) + std::to_string(positions), [&](Sequence& s) {
          const int tokens = s.slot("tokens"), dy = s.slot("d_output"), g = s.slot("gradients");
          s.add(rank.prepare(Kernel::embedding_backward(rows_, shape_.hidden, shape_.vocabulary,
                                                        shape_.dtype)),
                {{tokens, 0, rows_}, {dy, 0, all}, {g, 0, table}});
          if (positions > 0)
            s.add(rank.prepare(Kernel::positions_backward(rows_, shape_.hidden, shape_.sequence,
                                                          shape_.dtype)),
                  {{dy, 0, all}, {g, table, positions}});
        });
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(*forward_, {p.tokens, p.parameters, p.output});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(*backward_, {p.tokens, p.d_output, p.gradients});
  }

 private:
  TransformerShape shape_;
  std::int64_t rows_;
  const Sequence* forward_ = nullptr;
  const Sequence* backward_ = nullptr;
};

// Final norm, logits, cross-entropy. Saved: the norm's output, and d logits in the place of the
// logits.
class LanguageHead : public Block {
 public:
  explicit LanguageHead(const TransformerShape& s)
      : shape_(s), rows_(std::int64_t{s.micro_batch} * s.sequence) {
    add_norm(parameters_, "norm", s);
    norm_ = parameter_elements();
    if (s.tied) {
      shares_with_ = 0;
      shared_elements_ = std::int64_t{s.vocabulary} * s.hidden;
    } else {
      parameters_.push_back({"logits", std::int64_t{s.vocabulary} * s.hidden, 0.02, 0, true});
    }
    saved_elements_ = rows_ * (s.hidden + s.vocabulary);
    backward_workspace_ = rows_ * s.hidden;
    computes_loss_ = true;
  }
  void prepare(Rank& rank) override {
    const std::int64_t h = shape_.hidden, v = shape_.vocabulary, all = rows_ * h,
                       logits = rows_ * v;
    const Dtype t = shape_.dtype;
    const double scale = 1.0 / (static_cast<double>(rows_) * shape_.micro_batches);
    const SlotView weight{
        0, shape_.tied ? 0 : norm_,
        v * h};  // of the slot "table": the embedding's parameters or the head's own
    forward_ = &rank.sequence(
        key(shape_.tied ? "tied_head.forward" : "head.forward", shape_), [&](Sequence& s) {
          s.slot("table");
          const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
                    targets = s.slot("targets"), loss = s.slot("loss");
          s.add(rank.prepare(Kernel::norm(rows_, h, shape_.norm(), shape_.norm_epsilon, t)),
                {{x, 0, all}, {p, 0, h}, norm_bias(p), {k, 0, all}});
          s.add(rank.prepare(Kernel::gemm(rows_, v, h, t, false, true, false, "logits")),
                {{k, 0, all}, weight, {k, all, logits}});
          s.add(rank.prepare(Kernel::cross_entropy(rows_, v, scale, t)),
                {{k, all, logits}, {targets, 0, rows_}, {loss, 0, 1}});
        });
    backward_ = &rank.sequence(
        key(shape_.tied ? "tied_head.backward" : "head.backward", shape_), [&](Sequence& s) {
          s.slot("table");
          const int table_gradient = s.slot("table_gradient"), p = s.slot("parameters"),
                    x = s.slot("input"), k = s.slot("saved");
          const int d = s.slot("workspace"), g = s.slot("gradients"), dx = s.slot("d_input");
          s.add(rank.prepare(Kernel::gemm(rows_, h, v, t, false, false, false, "logits.dgrad")),
                {{k, all, logits}, weight, {d, 0, all}});
          s.add(rank.prepare(Kernel::gemm(v, h, rows_, t, true, false, true, "logits.wgrad")),
                {{k, all, logits}, {k, 0, all}, {table_gradient, weight.begin, v * h}});
          s.add(rank.prepare(
                    Kernel::norm_backward(rows_, h, shape_.norm(), shape_.norm_epsilon, false, t)),
                {{d, 0, all}, {x, 0, all}, {p, 0, h}, {}, {g, 0, h}, norm_bias(g), {dx, 0, all}});
        });
    forward_flops_ = forward_->cost().matrix;
    backward_flops_ = backward_->cost().matrix;
  }
  void forward(const BlockPass& p) const override {
    const Tensor& table = shape_.tied ? p.shared_parameters : p.parameters;
    p.stream.launch(*forward_, {table, p.parameters, p.input, p.saved, p.targets, p.loss});
  }
  void backward(const BlockPass& p) const override {
    const Tensor& table = shape_.tied ? p.shared_parameters : p.parameters;
    const Tensor& table_gradient = shape_.tied ? p.shared_gradients : p.gradients;
    p.stream.launch(*backward_, {table, table_gradient, p.parameters, p.input, p.saved, p.workspace,
                                 p.gradients, p.d_input});
  }

 private:
  SlotView norm_bias(int slot) const {
    return shape_.norm_bias ? SlotView{slot, shape_.hidden, shape_.hidden} : SlotView{};
  }

  TransformerShape shape_;
  std::int64_t rows_, norm_ = 0;
  const Sequence* forward_ = nullptr;
  const Sequence* backward_ = nullptr;
};

}  // namespace

Model make_transformer(const TransformerShape& shape, std::shared_ptr<const std::string> text) {
  if (text != nullptr && shape.vocabulary < 256)
    throw Error(Category::config, "a text has 256 different bytes; the model's vocabulary has " +
                                      std::to_string(shape.vocabulary));
  if (!shape.rotary && shape.learned_positions > 0 && shape.learned_positions < shape.sequence)
    throw Error(Category::config, "a sequence of " + std::to_string(shape.sequence) +
                                      " tokens needs as many learned positions; there are " +
                                      std::to_string(shape.learned_positions));
  Model model;
  model.name = "transformer";
  model.dtype = shape.dtype;
  model.micro_batch = shape.micro_batch;
  model.tokens_per_sample = model.targets_per_sample = shape.sequence;
  model.text = std::move(text);
  model.blocks.push_back(std::make_shared<TokenEmbedding>(shape));
  const std::shared_ptr<Block> layer = make_transformer_layer(shape, key("layer", shape));
  for (int i = 0; i < shape.layers; ++i) model.blocks.push_back(layer);
  model.blocks.push_back(std::make_shared<LanguageHead>(shape));
  return model;
}

}  // namespace orrery
