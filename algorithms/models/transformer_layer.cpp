#include "algorithms/models/transformer_layer.hpp"

#include <algorithm>
#include <cmath>

namespace orrery {

namespace {

// x1 = x + Attention(Norm(x)) Wo;   y = x1 + MLP(Norm(x1)); with parallel blocks y = x1 +
// MLP(Norm(x))
class Layer : public Block {
 public:
  Layer(const TransformerShape& s, const std::string& key)
      : s_(s), key_(key), rows_(std::int64_t{s.micro_batch} * s.sequence) {
    q_ = std::int64_t{s.heads} * s.head_size;
    kv_ = std::int64_t{s.kv_heads} * s.head_size;
    up_ = std::int64_t{s.ffn} * (s.gated ? 2 : 1);
    const double out_deviation =
        0.02 / std::sqrt(2.0 * s.layers);  // GPT-2: residual projections are scaled by depth
    norm("attention_norm", attention_norm_);
    matrix("qkv", std::int64_t{s.hidden} * (q_ + 2 * kv_), 0.02, q_ + 2 * kv_, s.qkv_bias, qkv_);
    matrix("out", q_ * s.hidden, out_deviation, s.hidden, s.output_bias, out_);
    norm("mlp_norm", mlp_norm_);
    matrix("up", s.hidden * up_, 0.02, up_, s.mlp_bias, up_matrix_);
    matrix("down", std::int64_t{s.ffn} * s.hidden, out_deviation, s.hidden, s.mlp_bias, down_);
    output_elements_ = rows_ * s.hidden;
    lay_out_saved();
    forward_workspace_ = (s.parallel_blocks ? 2 : 1) * rows_ * s.hidden;
    backward_workspace_ =
        rows_ * (2 * s.hidden + std::max<std::int64_t>(s.ffn + up_, 2 * q_ + 2 * kv_));
  }

  void prepare(Rank& rank) override {
    forward_ = &rank.sequence(key_ + ".forward", [&](Sequence& s) { build_forward(rank, s); });
    backward_ = &rank.sequence(key_ + ".backward", [&](Sequence& s) { build_backward(rank, s); });
    forward_flops_ = forward_->cost().matrix;
    backward_flops_ = backward_->cost().matrix;
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(*forward_, {p.parameters, p.input, p.saved, p.workspace, p.output});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(*backward_, {p.parameters, p.input, p.saved, p.d_output, p.workspace,
                                 p.gradients, p.d_input});
  }

 private:
  // A range of the flat parameters or of the saved activations; a parameter may have a bias behind
  // it.
  struct Range {
    std::int64_t begin = 0, elements = 0, bias = 0;
    SlotView in(int slot) const { return {slot, begin, elements}; }
    SlotView bias_in(int slot) const {
      return bias > 0 ? SlotView{slot, begin + elements, bias} : SlotView{};
    }
  };

  void norm(const std::string& name, Range& range) {
    range = {parameter_elements(), s_.hidden, s_.norm_bias ? s_.hidden : 0};
    parameters_.push_back({name + ".gain", s_.hidden, 0, 1, false});
    if (s_.norm_bias) parameters_.push_back({name + ".bias", s_.hidden, 0, 0, false});
  }
  void matrix(const std::string& name, std::int64_t elements, double deviation, std::int64_t bias,
              bool with_bias, Range& range) {
    range = {parameter_elements(), elements, with_bias ? bias : 0};
    parameters_.push_back({name + ".weight", elements, deviation, 0, true});
    if (with_bias) parameters_.push_back({name + ".bias", bias, 0, 0, false});
  }

  // What the backward needs besides the input: norm outputs, q k v, attention output and its row
  // statistics (fp32), the residual after attention where the MLP reads it, the inputs and the
  // output of the activation function.
  void lay_out_saved() {
    std::int64_t at = 0;
    const auto keep = [&at](std::int64_t elements) {
      const Range range{at, elements};
      at += elements;
      return range;
    };
    normed_ = keep(rows_ * s_.hidden);
    qkv_out_ = keep(rows_ * (q_ + 2 * kv_));
    attended_ = keep(rows_ * q_);
    statistics_ = keep(rows_ * s_.heads * 4 / size_of(s_.dtype));
    if (!s_.parallel_blocks) residual_ = keep(rows_ * s_.hidden);
    normed_again_ = keep(rows_ * s_.hidden);
    before_activation_ = keep(rows_ * up_);
    activated_ = keep(rows_ * s_.ffn);
    saved_elements_ = at;
  }

  // The kernels of the two passes, in the words of their sequences.
  void norm(Rank& rank, Sequence& s, const SlotView& x, const Range& range, int p,
            const SlotView& y) const {
    s.add(rank.prepare(Kernel::norm(rows_, s_.hidden, s_.norm(), s_.norm_epsilon, s_.dtype)),
          {x, range.in(p), range.bias_in(p), y});
  }
  void norm_backward(Rank& rank, Sequence& s, const SlotView& dy, const SlotView& x,
                     const Range& range, int p, int g, const SlotView& skip,
                     const SlotView& dx) const {
    s.add(rank.prepare(
              Kernel::norm_backward(rows_, s_.hidden, s_.norm(), s_.norm_epsilon, true, s_.dtype)),
          {dy, x, range.in(p), skip, range.in(g), range.bias_in(g), dx});
  }
  void rotary(Rank& rank, Sequence& s, const SlotView& qkv, bool inverse) const {
    if (s_.rotary)
      s.add(rank.prepare(Kernel::rotary(s_.micro_batch, s_.sequence, s_.heads + s_.kv_heads,
                                        s_.heads + 2 * s_.kv_heads, s_.head_size, s_.rope_theta,
                                        s_.dtype, inverse)),
            {qkv});
  }
  void residual(Rank& rank, Sequence& s, const SlotView& x, const SlotView& y, const SlotView& bias,
                const SlotView& z) const {
    s.add(rank.prepare(Kernel::residual_add(rows_, s_.hidden, s_.dtype, bias.slot >= 0)),
          {x, y, bias, z});
  }
  Kernel activation() const {
    return s_.gated ? Kernel::gated_activation(rows_, s_.ffn, s_.activation, s_.dtype, s_.mlp_bias)
                    : Kernel::bias_activation(rows_, s_.ffn, s_.activation, s_.dtype, s_.mlp_bias);
  }
  Kernel activation_backward() const {
    return s_.gated ? Kernel::gated_activation_backward(rows_, s_.ffn, s_.activation, s_.dtype,
                                                        s_.mlp_bias)
                    : Kernel::bias_activation_backward(rows_, s_.ffn, s_.activation, s_.dtype,
                                                       s_.mlp_bias);
  }

  void build_forward(Rank& rank, Sequence& s) const {
    const std::int64_t h = s_.hidden, all = rows_ * h, n = q_ + 2 * kv_;
    const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
              t = s.slot("workspace"), y = s.slot("output");
    const SlotView input{x, 0, all}, projected{t, 0, all}, qkv = qkv_out_.in(k);
    const SlotView attention_added = s_.parallel_blocks ? SlotView{t, all, all} : residual_.in(k);
    const auto gemm = [&](const char* label, std::int64_t outputs, std::int64_t depth) {
      return rank.prepare(
          Kernel::gemm(rows_, outputs, depth, s_.dtype, false, false, false, label));
    };
    norm(rank, s, input, attention_norm_, p, normed_.in(k));
    if (s_.qkv_bias)
      s.add(rank.prepare(Kernel::gemm_bias(rows_, n, h, s_.dtype, "qkv")),
            {normed_.in(k), qkv_.in(p), qkv, qkv_.bias_in(p)});
    else
      s.add(gemm("qkv", n, h), {normed_.in(k), qkv_.in(p), qkv});
    rotary(rank, s, qkv, false);
    s.add(rank.prepare(Kernel::attention(s_.micro_batch, s_.heads, s_.kv_heads, s_.sequence,
                                         s_.head_size, s_.causal, s_.dtype)),
          {qkv, {}, {}, attended_.in(k), statistics_.in(k)});
    s.add(gemm("out", h, q_), {attended_.in(k), out_.in(p), projected});
    residual(rank, s, input, projected, out_.bias_in(p), attention_added);
    norm(rank, s, s_.parallel_blocks ? input : attention_added, mlp_norm_, p, normed_again_.in(k));
    s.add(gemm("up", up_, h), {normed_again_.in(k), up_matrix_.in(p), before_activation_.in(k)});
    s.add(rank.prepare(activation()),
          {before_activation_.in(k), up_matrix_.bias_in(p), activated_.in(k)});
    s.add(gemm("down", h, s_.ffn), {activated_.in(k), down_.in(p), projected});
    residual(rank, s, attention_added, projected, down_.bias_in(p), {y, 0, all});
  }

  // d x for y = x A + b: d y A^T, then the gradients x^T d y of A and, over the rows, d y of b,
  // added to what is there.
  void gemm_backward(Rank& rank, Sequence& s, const char* dgrad, const char* wgrad,
                     std::int64_t inputs, std::int64_t outputs, const SlotView& x,
                     const Range& parameter, int p, int g, const SlotView& dy,
                     const SlotView& dx) const {
    s.add(rank.prepare(Kernel::gemm(rows_, inputs, outputs, s_.dtype, false, true, false, dgrad)),
          {dy, parameter.in(p), dx});
    s.add(rank.prepare(Kernel::gemm(inputs, outputs, rows_, s_.dtype, true, false, true, wgrad)),
          {x, dy, parameter.in(g)});
    if (parameter.bias > 0)
      s.add(rank.prepare(Kernel::column_sum(rows_, outputs, s_.dtype)), {dy, parameter.bias_in(g)});
  }

  void build_backward(Rank& rank, Sequence& s) const {
    const std::int64_t h = s_.hidden, all = rows_ * h, f = s_.ffn, n = q_ + 2 * kv_;
    const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
              dy = s.slot("d_output"), t = s.slot("workspace");
    const int g = s.slot("gradients"), dx = s.slot("d_input");
    // Workspace: d residual | d norm output | d activation and d up, later d attention output and d
    // qkv.
    const SlotView input{x, 0, all}, d_output{dy, 0, all}, d_residual{t, 0, all},
        d_norm{t, all, all};
    const SlotView d_activated{t, 2 * all, rows_ * f}, d_up{t, 2 * all + rows_ * f, rows_ * up_};
    const SlotView d_attended{t, 2 * all, rows_ * q_}, d_qkv{t, 2 * all + rows_ * q_, rows_ * n};
    gemm_backward(rank, s, "down.dgrad", "down.wgrad", f, h, activated_.in(k), down_, p, g,
                  d_output, d_activated);
    s.add(rank.prepare(activation_backward()),
          {d_activated, before_activation_.in(k), up_matrix_.bias_in(p), d_up});
    gemm_backward(rank, s, "up.dgrad", "up.wgrad", h, up_, normed_again_.in(k), up_matrix_, p, g,
                  d_up, d_norm);
    // Side by side, attention's output gets d output alone; d residual is what reaches the input
    // past attention, in either case.
    norm_backward(rank, s, d_norm, s_.parallel_blocks ? input : residual_.in(k), mlp_norm_, p, g,
                  d_output, d_residual);
    gemm_backward(rank, s, "out.dgrad", "out.wgrad", q_, h, attended_.in(k), out_, p, g,
                  s_.parallel_blocks ? d_output : d_residual, d_attended);
    s.add(rank.prepare(Kernel::attention_backward(s_.micro_batch, s_.heads, s_.kv_heads,
                                                  s_.sequence, s_.head_size, s_.causal, s_.dtype)),
          {d_attended, qkv_out_.in(k), {}, {}, attended_.in(k), statistics_.in(k), d_qkv, {}, {}});
    rotary(rank, s, d_qkv, true);
    gemm_backward(rank, s, "qkv.dgrad", "qkv.wgrad", h, n, normed_.in(k), qkv_, p, g, d_qkv,
                  d_norm);
    norm_backward(rank, s, d_norm, input, attention_norm_, p, g, d_residual, {dx, 0, all});
  }

  TransformerShape s_;
  std::string key_;
  std::int64_t rows_, q_ = 0, kv_ = 0, up_ = 0;
  Range attention_norm_, qkv_, out_, mlp_norm_, up_matrix_, down_;
  Range normed_, qkv_out_, attended_, statistics_, residual_, normed_again_, before_activation_,
      activated_;
  const Sequence* forward_ = nullptr;
  const Sequence* backward_ = nullptr;
};

}  // namespace

std::shared_ptr<Block> make_transformer_layer(const TransformerShape& shape,
                                              const std::string& key) {
  return std::make_shared<Layer>(shape, key);
}

}  // namespace orrery
