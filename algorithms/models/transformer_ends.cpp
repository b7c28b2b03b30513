// What a decoder-only transformer begins and ends with: embedding, and logits with their loss. The
// ranks of a tensor group share the vocabulary (tensor_parallel.hpp).
#include <vector>

#include "algorithms/models/transformer_blocks.hpp"

namespace orrery {

namespace {

// This rank's rows of a table of the vocabulary.
ParameterSpec table(const char* name, const TransformerShape& s) {
  const std::int64_t rows = s.vocabulary / s.tensor;
  ParameterSpec spec{name, rows * s.hidden, 0.02, 0, true, s.hidden};
  spec.rates = input_rates(s.width());  // and of the head, whose fan-in is the embedding's fan-out
  if (s.tensor > 1) spec.division = {Axis::tensor, rows, s.hidden, {}};
  return spec;
}

class TokenEmbedding : public TransformerBlock {
 public:
  explicit TokenEmbedding(const TransformerShape& s)
      : TransformerBlock(s), vocabulary_(s.vocabulary / s.tensor) {
    parameters_ = {table("tokens", s)};
    parameters_[0].written = s.writes_gradients && s.tied;  // by the head, before this block adds
    tokens_ = parameter_elements();
    if (!s.rotary && s.learned_positions > 0) {
      positions_ = std::int64_t{s.learned_positions} * s.hidden;
      parameters_.push_back(
          {"positions", positions_, 0.02, 0, true, s.hidden, {}, input_rates(s.width())});
      whole_.push_back({tokens_, positions_, 0});
    }
    partial_gradients_ = tensor_.sequence() && positions_ > 0;
    output_elements_ = own_ * s.hidden;
    if (tensor_.sequence()) forward_workspace_ = backward_workspace_ = rows_ * s.hidden;
    weights_read_d_output_ = splits();
  }
  void prepare(Rank& rank) override {
    if (forward_.built()) return;
    // Apart from shapes: the positions in the table, this rank's part of the vocabulary.
    std::string key = transformer_key("embedding", s_) + " " + std::to_string(positions_);
    prepare_groups(rank, key);
    key += "/" + std::to_string(tensor_.index()) + "/" + std::to_string(part_.index);
    build_forward(rank, forward_);
    build_backward(rank, backward_, Part::both);
    forward_.build(rank, key + ".forward");
    backward_.build(rank, key + ".backward");
  }
  void forward(const BlockPass& p) const override {
    forward_.run(p.stream, {p.tokens, p.parameters, p.workspace, p.output});
  }
  void backward(const BlockPass& p) const override {
    backward_.run(p.stream, {p.tokens, p.d_output, p.workspace, p.gradients});
  }
  void backward_input(const BlockPass& p) const override {
    if (!splits()) backward(p);
  }
  void backward_weight(const BlockPass& p) const override {
    if (splits()) backward(p);
  }

 private:
  void build_forward(Rank& rank, PassProgram& s) const override {
    const int tokens = s.tensor("tokens"), p = s.tensor("parameters"), t = s.tensor("workspace"),
              y = s.tensor("output");
    const SlotView output{y, 0, own_ * s_.hidden};
    const SlotView found = tensor_.sequence() ? SlotView{t, 0, rows_ * s_.hidden} : output;
    s.add(rank.prepare(Kernel::embedding(rows_, s_.hidden, vocabulary_, s_.dtype,
                                         tensor_.index() * vocabulary_, !tensor_.alone())),
          {{tokens, 0, rows_}, {p, 0, tokens_}, found});
    tensor_.sum(s, found, output);
    tensor_.wait(s);
    if (positions_ > 0)
      s.add(rank.prepare(Kernel::add_positions(own_, s_.hidden, s_.length(), s_.dtype,
                                               own_ * first_share(), part_)),
            {{p, tokens_, positions_}, output});
  }
  void build_backward(Rank& rank, PassProgram& s, Part) const override {
    const int tokens = s.tensor("tokens"), dy = s.tensor("d_output"), t = s.tensor("workspace"),
              g = s.tensor("gradients");
    const SlotView mine{dy, 0, own_ * s_.hidden};
    const SlotView d_output = tensor_.gather(s, mine, {t, 0, rows_ * s_.hidden});
    if (tensor_.sequence()) s.wait();
    s.add(rank.prepare(Kernel::embedding_backward(rows_, s_.hidden, vocabulary_, s_.dtype,
                                                  tensor_.index() * vocabulary_, !tensor_.alone())),
          {{tokens, 0, rows_}, d_output, {g, 0, tokens_}});
    if (positions_ > 0)
      s.add(rank.prepare(Kernel::positions_backward(own_, s_.hidden, s_.length(), s_.dtype,
                                                    own_ * first_share(), part_)),
            {mine, {g, tokens_, positions_}});
  }
  std::int64_t first_share() const { return tensor_.sequence() ? tensor_.index() : 0; }

  std::int64_t vocabulary_, tokens_ = 0, positions_ = 0;  // rows here; elements of the tables
};

// Final norm, logits, cross-entropy; under mu the norm's output is divided by the width over the
// base width. Kept: that output, and d logits in the place of the
// logits. Over a divided vocabulary the loss takes three steps, between which ranks agree on each
// row's maximum, then on its sum of exponentials and its target's logit (as Megatron-LM's
// megatron/core/fusions/fused_cross_entropy.py does).
//
// An eager loss computes the same, but has in memory what PyTorch's cross_entropy of logits cast to
// fp32 has: bytes per logit of b bytes, beside the input of the head,
//   forward        b + 4 + 4   logits, in fp32, log softmax        (fp32: no cast, 8)
//   in between     4           log softmax
//   backward       4 + 4 + 4   and the gradients of it and of its input
// and over a tensor group 4 more in either pass: logits less their maximum; exponentials
// (pytorch/pytorch, torch/distributed/tensor/parallel/loss.py, _log_softmax and
// _nll_loss_and_log_softmax_backward; pytorch/torchtitan frees the logits before the backward,
// train.py). The gradient of the logits takes the place of the log softmax here. A loss whose
// gradient is apart from the logits has 2 b in the backward. Logits that are returned are this
// block's output; a gradient in `kept` is apart from them from the forward on.
class LanguageHead : public TransformerBlock {
 public:
  explicit LanguageHead(const TransformerShape& s)
      : TransformerBlock(s), vocabulary_(s.vocabulary / s.tensor) {
    norm_ = add_norm("norm");
    weight_ = {s.tied ? 0 : parameter_elements(), vocabulary_ * s.hidden};
    if (s.tied) {
      shares_with_ = 0;
      shared_elements_ = weight_.elements;
    } else {
      parameters_.push_back(table("logits", s));
      parameters_.back().written = s.writes_gradients;
    }
    const std::int64_t own = own_ * s.hidden, all = rows_ * s.hidden;
    kept_elements_ =
        own + rows_ * vocabulary_ * (s.loss == LossMemory::eager ? 4 / size_of(s.dtype) : 1);
    if (tensor_.sequence()) forward_workspace_ = all;
    if (s.loss == LossMemory::eager) {
      const std::int64_t wide = 4 / size_of(s.dtype);  // of an fp32 number, in elements
      forward_workspace_ +=
          rows_ * vocabulary_ *
          ((s.returns_logits ? 0 : 1) + (wide > 1 ? wide : 0) + (tensor_.alone() ? 0 : wide));
    }
    if (s.returns_logits) output_elements_ = rows_ * vocabulary_;
    backward_workspace_ = all + (tensor_.sequence() ? own + all : 0);
    computes_loss_ = true;
  }
  void prepare(Rank& rank) override {
    if (forward_.built()) return;
    const std::string key = transformer_key(s_.tied ? "tied_head" : "head", s_);
    prepare_groups(rank, key);
    build_passes(rank, key + "/" + std::to_string(tensor_.index()));
  }
  void forward(const BlockPass& p) const override {
    const auto per_token = [&](std::int64_t numbers) {
      return tensor_.alone() ? Tensor()
                             : p.stream.rank().allocate(p.stream, Label::workspace, numbers * rows_,
                                                        Dtype::fp32, {.name = "loss per token"});
    };
    forward_.run(p.stream, {s_.tied ? p.shared_parameters : p.parameters, p.parameters, p.input,
                            p.kept, p.targets, p.loss, p.workspace, per_token(1), per_token(2)});
  }
  void backward(const BlockPass& p) const override { run_backward(backward_, p); }
  void backward_input(const BlockPass& p) const override {
    run_backward(splits() ? backward_input_ : backward_, p);
  }
  void backward_weight(const BlockPass& p) const override {
    if (splits()) run_backward(backward_weight_, p);
  }

 private:
  // What an operation of the loss leaves behind.
  Tensor of_every_logit(Stream& stream, Dtype dtype) const {
    return stream.rank().allocate(stream, Label::workspace, rows_ * vocabulary_, dtype,
                                  {.name = "result of the loss"});
  }
  void run_backward(const PassProgram& program, const BlockPass& p) const {
    std::vector<Tensor> results;
    if (&program != &backward_weight_) {
      if (s_.loss == LossMemory::apart && !s_.returns_logits)
        results.push_back(of_every_logit(p.stream, s_.dtype));
      if (s_.loss == LossMemory::eager)
        for (int i = tensor_.alone() ? 2 : 3; i > 0; --i)
          results.push_back(of_every_logit(p.stream, Dtype::fp32));
    }
    program.run(p.stream, {s_.tied ? p.shared_parameters : p.parameters,
                           s_.tied ? p.shared_gradients : p.gradients, p.parameters, p.input,
                           p.kept, p.workspace, p.gradients, p.d_input});
  }
  void build_forward(Rank& rank, PassProgram& s) const override {
    const std::int64_t h = s_.hidden, own = own_ * h;
    // Of the embedding's parameters or the head's own.
    const int table = s.tensor("table"), p = s.tensor("parameters"), x = s.tensor("input"),
              k = s.tensor("kept"), target = s.tensor("targets"), sum = s.tensor("loss");
    const int t = s.tensor("workspace"), max = s.tensor("maxima"), sums = s.tensor("sums");
    const SlotView normed{k, 0, own}, logits{k, own, rows_ * vocabulary_};
    const SlotView targets{target, 0, rows_}, loss{sum, 0, 1};
    norm(rank, s, {x, 0, own}, norm_, p, normed);
    multiply(rank, s, normed);
    const SlotView all = tensor_.gather(s, normed, {t, 0, rows_ * h});
    if (tensor_.sequence()) s.wait();
    s.add(rank.prepare(Kernel::gemm(rows_, vocabulary_, h, s_.dtype, false, true, false, "logits")),
          {all, weight_.in(table), logits});
    if (tensor_.alone())
      s.add(rank.prepare(Kernel::cross_entropy(rows_, vocabulary_, scale(), s_.dtype)),
            {logits, targets, loss});
    else
      add_shared_loss(rank, s, logits, targets, {max, 0, rows_}, {sums, 0, 2 * rows_}, loss);
  }
  void add_shared_loss(Rank& rank, PassProgram& s, const SlotView& logits, const SlotView& targets,
                       const SlotView& maxima, const SlotView& sums, const SlotView& loss) const {
    const std::int64_t first = tensor_.index() * vocabulary_;
    s.add(rank.prepare(Kernel::row_maximum(rows_, vocabulary_, s_.dtype)), {logits, maxima});
    s.all_reduce(tensor_.line(), maxima, Reduce::max);
    s.wait();
    s.add(rank.prepare(Kernel::softmax_sums(rows_, vocabulary_, first, s_.dtype)),
          {logits, targets, maxima, sums});
    s.all_reduce(tensor_.line(), sums);
    s.wait();
    s.add(rank.prepare(Kernel::softmax_gradient(rows_, vocabulary_, first, scale(), s_.dtype)),
          {logits, targets, sums, loss});
  }
  void build_backward(Rank& rank, PassProgram& s, Part part) const override {
    const std::int64_t h = s_.hidden, own = own_ * h, all = rows_ * h;
    const int table = s.tensor("table"), table_gradient = s.tensor("table_gradient"),
              p = s.tensor("parameters"), x = s.tensor("input"), k = s.tensor("kept");
    const int t = s.tensor("workspace"), g = s.tensor("gradients"), dx = s.tensor("d_input");
    const SlotView normed{k, 0, own}, d_logits{k, own, rows_ * vocabulary_}, d_norm{t, 0, all},
        my_d_norm{t, all, own}, all_normed{t, all + own, all};
    const SlotView head_input = tensor_.gather(s, normed, all_normed);
    const bool inputs = part != Part::weight;
    if (inputs)
      s.add(rank.prepare(
                Kernel::gemm(rows_, h, vocabulary_, s_.dtype, false, false, false, "logits.dgrad")),
            {d_logits, weight_.in(table), d_norm});
    if (tensor_.sequence()) s.wait();
    const SlotView d_sum = inputs ? tensor_.sum(s, d_norm, my_d_norm) : SlotView{};
    if (part != Part::input)
      s.add(rank.prepare(Kernel::gemm(vocabulary_, h, rows_, s_.dtype, true, false,
                                      !s_.writes_gradients, "logits.wgrad")),
            {d_logits, head_input, weight_.in(table_gradient)});
    if (!inputs) return;
    tensor_.wait(s);
    multiply(rank, s, d_sum);
    norm_backward(rank, s, d_sum, {x, 0, own}, norm_, p, g, {}, {dx, 0, own});
  }
  void multiply(Rank& rank, PassProgram& s, const SlotView& x) const {
    if (s_.mu())
      s.add(rank.prepare(Kernel::linear_combination(x.elements, 1 / s_.width(), 0, s_.dtype)),
            {x, x});
  }
  double scale() const { return 1.0 / (static_cast<double>(rows_) * s_.micro_batches); }

  std::int64_t vocabulary_;  // of this rank
  Range norm_, weight_;
};

}  // namespace

std::shared_ptr<Block> make_transformer_embedding(const TransformerShape& shape) {
  return std::make_shared<TokenEmbedding>(shape);
}
std::shared_ptr<Block> make_transformer_head(const TransformerShape& shape) {
  return std::make_shared<LanguageHead>(shape);
}

}  // namespace orrery
