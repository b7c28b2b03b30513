// The two functions of a reversible transformer's layer: attention and the MLP, each behind its
// norm.
//
//   f(x) = Attention(Norm(x)) Wo;   g(x) = MLP(Norm(x))
#include <cmath>

#include "algorithms/models/attention_core.hpp"
#include "algorithms/models/reversible.hpp"
#include "algorithms/models/transformer_blocks.hpp"

namespace orrery {

namespace {

// What both have in common: y = behind(inner(Norm(x) A + a)) B + b. Saved: the norm's output, then
// what is between the matrices.
class Branch : public TransformerBlock {
 public:
  Branch(const TransformerShape& s, std::string what)
      : TransformerBlock(s), what_(std::move(what)) {
    output_elements_ = rows_ * s.hidden;
  }
  void prepare(Rank& rank) override {
    if (forward_.built()) return;
    const std::string key = transformer_key(what_.c_str(), s_);
    prepare_groups(rank, key);
    build_forward(rank, forward_);
    build_backward(rank, backward_, Part::both);
    forward_.build(rank, key + ".forward");
    backward_.build(rank, key + ".backward");
    forward_flops_ = forward_.matrix_flops();
    backward_flops_ = backward_.matrix_flops();
  }
  void forward(const BlockPass& p) const override {
    forward_.run(p.stream, {p.parameters, p.input, p.saved, p.output});
  }
  void backward(const BlockPass& p) const override {
    backward_.run(p.stream, {p.parameters, p.input, p.saved, p.d_output, p.workspace, p.gradients,
                             p.d_input});
  }

 protected:
  Range matrix(const std::string& name, std::int64_t rows, std::int64_t columns, double deviation,
               bool bias) {
    const Range range{parameter_elements(), rows * columns, bias ? columns : 0};
    parameters_.push_back({name + ".weight",
                           range.elements,
                           deviation / std::sqrt(s_.width()),
                           0,
                           true,
                           columns,
                           {},
                           hidden_rates(s_.width())});
    if (bias)
      parameters_.push_back({name + ".bias", columns, 0, 0, false, 0, {}, input_rates(s_.width())});
    return range;
  }
  Range save(std::int64_t elements) {
    const Range range{saved_elements_, elements};
    saved_elements_ += elements;
    return range;
  }
  void product(Rank& rank, PassProgram& s, const char* label, std::int64_t inputs,
               std::int64_t outputs, const SlotView& x, const Range& parameter, int p,
               const SlotView& y, bool adds_bias) const {
    if (adds_bias && parameter.bias > 0)
      s.add(rank.prepare(Kernel::gemm_bias(rows_, outputs, inputs, s_.dtype, label)),
            {x, parameter.in(p), y, parameter.bias_in(p)});
    else
      s.add(
          rank.prepare(Kernel::gemm(rows_, outputs, inputs, s_.dtype, false, false, false, label)),
          {x, parameter.in(p), y});
  }
  // d x = d y A^T, and the gradients x^T d y of A and, over the rows, d y of its bias.
  void product_backward(Rank& rank, PassProgram& s, std::int64_t inputs, std::int64_t outputs,
                        const SlotView& x, const Range& parameter, int p, int g, const SlotView& dy,
                        const SlotView& dx) const {
    s.add(rank.prepare(Kernel::gemm(rows_, inputs, outputs, s_.dtype, false, true, false, "dgrad")),
          {dy, parameter.in(p), dx});
    s.add(rank.prepare(Kernel::gemm(inputs, outputs, rows_, s_.dtype, true, false, true, "wgrad")),
          {x, dy, parameter.in(g)});
    if (parameter.bias > 0)
      s.add(rank.prepare(Kernel::column_sum(rows_, outputs, s_.dtype)), {dy, parameter.bias_in(g)});
  }
  double out_deviation() const { return 0.02 / std::sqrt(2.0 * s_.layers); }

 private:
  std::string what_;
};

class AttentionBranch : public Branch {
 public:
  explicit AttentionBranch(const TransformerShape& s)
      : Branch(s, "attention_branch"),
        q_(std::int64_t{s.heads} * s.head_size),
        packed_(q_ + std::int64_t{2} * s.kv_heads * s.head_size),
        core_(make_attention_core(s)) {
    norm_ = add_norm("attention_norm");
    qkv_ = matrix("qkv", s.hidden, packed_, 0.02, s.qkv_bias);
    out_ = matrix("out", q_, s.hidden, out_deviation(), s.output_bias);
    normed_ = save(rows_ * s.hidden);
    qkv_out_ = save(rows_ * packed_);
    attended_ = save(rows_ * q_);
    kept_ = save(core_->kept());
    backward_workspace_ = rows_ * (q_ + packed_ + s.hidden);
  }

 private:
  void rotary(Rank& rank, PassProgram& s, const SlotView& qkv, bool inverse) const {
    if (s_.rotary)
      s.add(rank.prepare(Kernel::rotary(s_.micro_batch, s_.sequence, s_.heads + s_.kv_heads,
                                        s_.heads + 2 * s_.kv_heads, s_.head_size, s_.rope_theta,
                                        s_.dtype, inverse)),
            {qkv});
  }
  void build_forward(Rank& rank, PassProgram& s) const override {
    const int p = s.tensor("parameters"), x = s.tensor("input"), k = s.tensor("saved"),
              y = s.tensor("output");
    norm(rank, s, {x, 0, output_elements_}, norm_, p, normed_.in(k));
    product(rank, s, "qkv", s_.hidden, packed_, normed_.in(k), qkv_, p, qkv_out_.in(k), true);
    rotary(rank, s, qkv_out_.in(k), false);
    core_->forward(rank, s, {qkv_out_.in(k), attended_.in(k), kept_.in(k), {}});
    product(rank, s, "out", q_, s_.hidden, attended_.in(k), out_, p, {y, 0, output_elements_},
            true);
  }
  void build_backward(Rank& rank, PassProgram& s, Part) const override {
    const int p = s.tensor("parameters"), x = s.tensor("input"), k = s.tensor("saved"),
              dy = s.tensor("d_output"), t = s.tensor("workspace"), g = s.tensor("gradients"),
              dx = s.tensor("d_input");
    const SlotView d_attended{t, 0, rows_ * q_}, d_qkv{t, rows_ * q_, rows_ * packed_},
        d_normed{t, rows_ * (q_ + packed_), output_elements_};
    product_backward(rank, s, q_, s_.hidden, attended_.in(k), out_, p, g, {dy, 0, output_elements_},
                     d_attended);
    core_->backward(rank, s, {d_attended, qkv_out_.in(k), attended_.in(k), kept_.in(k), d_qkv, {}});
    rotary(rank, s, d_qkv, true);
    product_backward(rank, s, s_.hidden, packed_, normed_.in(k), qkv_, p, g, d_qkv, d_normed);
    norm_backward(rank, s, d_normed, {x, 0, output_elements_}, norm_, p, g, {},
                  {dx, 0, output_elements_});
  }

  std::int64_t q_, packed_;
  std::unique_ptr<AttentionCore> core_;
  Range norm_, qkv_, out_, normed_, qkv_out_, attended_, kept_;
};

class MlpBranch : public Branch {
 public:
  explicit MlpBranch(const TransformerShape& s)
      : Branch(s, "mlp_branch"), up_columns_(std::int64_t{s.ffn} * (s.gated ? 2 : 1)) {
    norm_ = add_norm("mlp_norm");
    up_ = matrix("up", s.hidden, up_columns_, 0.02, s.mlp_bias);
    down_ = matrix("down", s.ffn, s.hidden, out_deviation(), s.mlp_bias);
    normed_ = save(rows_ * s.hidden);
    before_ = save(rows_ * up_columns_);
    activated_ = save(rows_ * s.ffn);
    backward_workspace_ = rows_ * (s.ffn + up_columns_ + s.hidden);
  }

 private:
  void build_forward(Rank& rank, PassProgram& s) const override {
    const int p = s.tensor("parameters"), x = s.tensor("input"), k = s.tensor("saved"),
              y = s.tensor("output");
    norm(rank, s, {x, 0, output_elements_}, norm_, p, normed_.in(k));
    product(rank, s, "up", s_.hidden, up_columns_, normed_.in(k), up_, p, before_.in(k), false);
    s.add(rank.prepare(
              s_.gated
                  ? Kernel::gated_activation(rows_, s_.ffn, s_.activation, s_.dtype, s_.mlp_bias)
                  : Kernel::bias_activation(rows_, s_.ffn, s_.activation, s_.dtype, s_.mlp_bias)),
          {before_.in(k), up_.bias_in(p), activated_.in(k)});
    product(rank, s, "down", s_.ffn, s_.hidden, activated_.in(k), down_, p,
            {y, 0, output_elements_}, true);
  }
  void build_backward(Rank& rank, PassProgram& s, Part) const override {
    const int p = s.tensor("parameters"), x = s.tensor("input"), k = s.tensor("saved"),
              dy = s.tensor("d_output"), t = s.tensor("workspace"), g = s.tensor("gradients"),
              dx = s.tensor("d_input");
    const SlotView d_activated{t, 0, rows_ * s_.ffn}, d_up{t, rows_ * s_.ffn, rows_ * up_columns_},
        d_normed{t, rows_ * (s_.ffn + up_columns_), output_elements_};
    product_backward(rank, s, s_.ffn, s_.hidden, activated_.in(k), down_, p, g,
                     {dy, 0, output_elements_}, d_activated);
    s.add(rank.prepare(s_.gated ? Kernel::gated_activation_backward(rows_, s_.ffn, s_.activation,
                                                                    s_.dtype, s_.mlp_bias)
                                : Kernel::bias_activation_backward(rows_, s_.ffn, s_.activation,
                                                                   s_.dtype, s_.mlp_bias)),
          {d_activated, before_.in(k), up_.bias_in(p), d_up});
    product_backward(rank, s, s_.hidden, up_columns_, normed_.in(k), up_, p, g, d_up, d_normed);
    norm_backward(rank, s, d_normed, {x, 0, output_elements_}, norm_, p, g, {},
                  {dx, 0, output_elements_});
  }

  std::int64_t up_columns_;
  Range norm_, up_, down_, normed_, before_, activated_;
};

}  // namespace

std::shared_ptr<Block> make_reversible_layer(const TransformerShape& shape) {
  if (shape.tensor > 1 || shape.context > 1)
    throw Error(Category::config,
                "not available yet: a reversible layer that ranks share by tensor or context");
  if (shape.parallel_blocks)
    throw Error(Category::config,
                "attention and MLP of a reversible layer follow each other, not side by side");
  return make_coupling(std::make_shared<AttentionBranch>(shape),
                       std::make_shared<MlpBranch>(shape));
}

}  // namespace orrery
