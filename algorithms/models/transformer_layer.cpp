#include "algorithms/models/transformer_layer.hpp"

#include <algorithm>
#include <cmath>

namespace orrery {

namespace {

constexpr Role r = Role::read, w = Role::write, u = Role::update;

// x1 = x + Attention(Norm(x)) Wo;   y = x1 + MLP(Norm(x1))
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
    forward_workspace_ = rows_ * s.hidden;
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
  // A range of the flat parameters or of the saved activations.
  struct Range {
    std::int64_t begin = 0, elements = 0;
    SlotView in(int slot) const { return {slot, begin, elements}; }
  };

  void norm(const std::string& name, Range& range) {
    range = {parameter_elements(), std::int64_t{s_.hidden} * (s_.norm_bias ? 2 : 1)};
    parameters_.push_back({name + ".gain", s_.hidden, 0, 1, false});
    if (s_.norm_bias) parameters_.push_back({name + ".bias", s_.hidden, 0, 0, false});
  }
  void matrix(const std::string& name, std::int64_t elements, double deviation, std::int64_t bias,
              bool with_bias, Range& range) {
    range = {parameter_elements(), elements};
    parameters_.push_back({name + ".weight", elements, deviation, 0, true});
    if (with_bias) parameters_.push_back({name + ".bias", bias, 0, 0, false});
  }

  // What the backward needs besides the input: norm outputs, q k v, attention output and its row
  // statistics (fp32), the residual after attention, the inputs and the output of the activation
  // function.
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
    residual_ = keep(rows_ * s_.hidden);
    normed_again_ = keep(rows_ * s_.hidden);
    before_activation_ = keep(rows_ * up_);
    activated_ = keep(rows_ * s_.ffn);
    saved_elements_ = at;
  }
  SlotView q_view(int slot, std::int64_t at) const { return {slot, at, rows_ * q_}; }
  SlotView k_view(int slot, std::int64_t at) const { return {slot, at + rows_ * q_, rows_ * kv_}; }
  SlotView v_view(int slot, std::int64_t at) const {
    return {slot, at + rows_ * (q_ + kv_), rows_ * kv_};
  }

  Prepared streaming(Rank& rank, const char* label, std::int64_t read, std::int64_t written,
                     std::initializer_list<Role> roles) const {
    return rank.prepare(Kernel::streaming(label, rows_ * read, rows_ * written, s_.dtype, roles));
  }

  void build_forward(Rank& rank, Sequence& s) const {
    const std::int64_t h = s_.hidden, all = rows_ * h;
    const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
              t = s.slot("workspace"), y = s.slot("output");
    const auto gemm = [&](const char* label, std::int64_t n, std::int64_t depth) {
      return rank.prepare(Kernel::gemm(rows_, n, depth, s_.dtype, false, false, false, label));
    };
    s.add(streaming(rank, "norm", h, h, {r, r, w}),
          {{x, 0, all}, attention_norm_.in(p), normed_.in(k)});
    s.add(gemm("qkv", q_ + 2 * kv_, h), {normed_.in(k), qkv_.in(p), qkv_out_.in(k)});
    if (s_.rotary)
      s.add(streaming(rank, "rotary", q_ + kv_, q_ + kv_, {u}),
            {{k, qkv_out_.begin, rows_ * (q_ + kv_)}});
    s.add(rank.prepare(Kernel::attention(s_.micro_batch, s_.heads, s_.kv_heads, s_.sequence,
                                         s_.head_size, s_.causal, s_.dtype)),
          {q_view(k, qkv_out_.begin), k_view(k, qkv_out_.begin), v_view(k, qkv_out_.begin),
           attended_.in(k), statistics_.in(k)});
    s.add(gemm("out", h, q_), {attended_.in(k), out_.in(p), {t, 0, all}});
    s.add(streaming(rank, "residual", 2 * h, h, {r, r, w}),
          {{x, 0, all}, {t, 0, all}, residual_.in(k)});
    s.add(streaming(rank, "norm", h, h, {r, r, w}),
          {residual_.in(k), mlp_norm_.in(p), normed_again_.in(k)});
    s.add(gemm("up", up_, h), {normed_again_.in(k), up_matrix_.in(p), before_activation_.in(k)});
    s.add(streaming(rank, "activation", up_, s_.ffn, {r, w}),
          {before_activation_.in(k), activated_.in(k)});
    s.add(gemm("down", h, s_.ffn), {activated_.in(k), down_.in(p), {t, 0, all}});
    s.add(streaming(rank, "residual", 2 * h, h, {r, r, w}),
          {residual_.in(k), {t, 0, all}, {y, 0, all}});
  }

  // d x for y = x A: d y A^T, then A's gradient x^T d y, added to what is there.
  void gemm_backward(Rank& rank, Sequence& s, const char* dgrad, const char* wgrad,
                     std::int64_t inputs, std::int64_t outputs, const SlotView& x,
                     const SlotView& weight, const SlotView& dy, const SlotView& dx,
                     const SlotView& gradient) const {
    s.add(rank.prepare(Kernel::gemm(rows_, inputs, outputs, s_.dtype, false, true, false, dgrad)),
          {dy, weight, dx});
    s.add(rank.prepare(Kernel::gemm(inputs, outputs, rows_, s_.dtype, true, false, true, wgrad)),
          {x, dy, gradient});
  }

  void build_backward(Rank& rank, Sequence& s) const {
    const std::int64_t h = s_.hidden, all = rows_ * h, f = s_.ffn;
    const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
              dy = s.slot("d_output"), t = s.slot("workspace");
    const int g = s.slot("gradients"), dx = s.slot("d_input");
    // Workspace: d residual | d norm output | d activation and d up, later d attention output and d
    // qkv.
    const SlotView d_residual{t, 0, all}, d_norm{t, all, all};
    const SlotView d_activated{t, 2 * all, rows_ * f}, d_up{t, 2 * all + rows_ * f, rows_ * up_};
    const SlotView d_attended{t, 2 * all, rows_ * q_};
    const std::int64_t d_qkv = 2 * all + rows_ * q_;
    gemm_backward(rank, s, "down.dgrad", "down.wgrad", f, h, activated_.in(k), down_.in(p),
                  {dy, 0, all}, d_activated, down_.in(g));
    s.add(streaming(rank, "activation_backward", up_ + f, up_, {r, r, w}),
          {before_activation_.in(k), d_activated, d_up});
    gemm_backward(rank, s, "up.dgrad", "up.wgrad", h, up_, normed_again_.in(k), up_matrix_.in(p),
                  d_up, d_norm, up_matrix_.in(g));
    s.add(streaming(rank, "norm_backward", 3 * h, h, {r, r, r, r, u, w}),
          {d_norm, residual_.in(k), mlp_norm_.in(p), {dy, 0, all}, mlp_norm_.in(g), d_residual});
    gemm_backward(rank, s, "out.dgrad", "out.wgrad", q_, h, attended_.in(k), out_.in(p), d_residual,
                  d_attended, out_.in(g));
    s.add(rank.prepare(Kernel::attention_backward(s_.micro_batch, s_.heads, s_.kv_heads,
                                                  s_.sequence, s_.head_size, s_.causal, s_.dtype)),
          {d_attended, q_view(k, qkv_out_.begin), k_view(k, qkv_out_.begin),
           v_view(k, qkv_out_.begin), attended_.in(k), statistics_.in(k), q_view(t, d_qkv),
           k_view(t, d_qkv), v_view(t, d_qkv)});
    if (s_.rotary)
      s.add(streaming(rank, "rotary_backward", q_ + kv_, q_ + kv_, {u}),
            {{t, d_qkv, rows_ * (q_ + kv_)}});
    gemm_backward(rank, s, "qkv.dgrad", "qkv.wgrad", h, q_ + 2 * kv_, normed_.in(k), qkv_.in(p),
                  {t, d_qkv, rows_ * (q_ + 2 * kv_)}, d_norm, qkv_.in(g));
    s.add(streaming(rank, "norm_backward", 3 * h, h, {r, r, r, r, u, w}), {d_norm,
                                                                           {x, 0, all},
                                                                           attention_norm_.in(p),
                                                                           d_residual,
                                                                           attention_norm_.in(g),
                                                                           {dx, 0, all}});
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
