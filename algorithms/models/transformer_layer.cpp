// One layer of a decoder-only transformer.
//
//   x1 = x + Attention(Norm(x)) Wo;   y = x1 + MLP(Norm(x1)),  or a mixture of experts for the MLP
//   with parallel blocks  y = x1 + MLP(Norm(x))
//
// The ranks of a tensor group share heads and widths (tensor_parallel.hpp), those of a context
// group sequences (context_parallel.hpp), those of an expert group experts (mixture.hpp).
#include <algorithm>
#include <cmath>

#include "algorithms/models/attention_core.hpp"
#include "algorithms/models/layer_kernels.hpp"
#include "algorithms/models/mixture.hpp"

namespace orrery {

namespace {

class Layer : public TransformerBlock {
 public:
  explicit Layer(const TransformerShape& s) : TransformerBlock(s) {
    const int t = s.tensor;
    heads_ = s.heads / t;
    kv_heads_ = s.kv_heads / t;
    q_ = heads_ * s.head_size;
    kv_ = kv_heads_ * s.head_size;
    ffn_ = s.ffn / t;
    up_ = ffn_ * (s.gated ? 2 : 1);
    attention_ = make_attention_core(s);
    dropped_ = s.dropout ? own_ * s.hidden : 0;
    const double out_deviation =
        0.02 / std::sqrt(2.0 * s.layers);  // GPT-2: residual projections are scaled by depth
    attention_norm_ = add_norm("attention_norm");
    qkv_ = by_columns("qkv", {{0, q_}, {t * q_, kv_}, {t * (q_ + kv_), kv_}}, s.qkv_bias);
    out_ = by_rows("out", q_, out_deviation, s.output_bias);
    mlp_norm_ = add_norm("mlp_norm");
    if (s.experts > 0) {
      add_mixture();
    } else {
      up_matrix_ = s.gated ? by_columns("up", {{0, ffn_}, {t * ffn_, ffn_}}, s.mlp_bias)
                           : by_columns("up", {{0, ffn_}}, s.mlp_bias);
      down_ = by_rows("down", ffn_, out_deviation, s.mlp_bias);
    }
    output_elements_ = own_ * s.hidden;
    lay_out_saved();
    lay_out_workspace();
    if (!splits()) return;
    weights_read_d_output_ = true;
    deferred_elements_ = own_ * s.hidden + rows_ * (up_ + q_ + 2 * kv_) + 2 * dropped_;
    backward_input_workspace_ =
        rows_ * s.hidden + std::max(rows_ * ffn_, rows_ * q_ + attention_->backward_workspace());
  }

  void prepare(Rank& rank) override {
    if (forward_.built()) return;
    const std::string key = transformer_key("layer", s_);
    prepare_groups(rank, key);
    attention_->open(rank);
    if (mixture_) mixture_->open(rank);
    build_passes(rank, key + "/" + std::to_string(part_.index));
  }
  void forward(const BlockPass& p) const override {
    forward_.run(p.stream, {p.parameters, p.input, p.saved, p.kept, p.workspace, p.output,
                            choices(p.stream, 1, Dtype::fp32), choices(p.stream, 2, Dtype::int32)});
  }
  void backward(const BlockPass& p) const override { run_backward(backward_, p); }
  void backward_input(const BlockPass& p) const override {
    run_backward(splits() ? backward_input_ : backward_, p);
  }
  void backward_weight(const BlockPass& p) const override {
    if (splits()) run_backward(backward_weight_, p);
  }

 private:
  void run_backward(const PassProgram& program, const BlockPass& p) const {
    program.run(p.stream, {p.parameters, p.input, p.saved, p.kept, p.d_output, p.workspace,
                           p.gradients, p.d_input, p.deferred, choices(p.stream, 1, Dtype::fp32),
                           choices(p.stream, 1, Dtype::fp32), choices(p.stream, 2, Dtype::int32)});
  }
  // Experts route again in the backward, and their gradients come with it.
  bool splits() const final { return TransformerBlock::splits() && mixture_ == nullptr; }
  // Every rank of a tensor group has the gradient of the router by its part of the experts.
  void add_mixture() {
    mixture_ = make_mixture(s_, parameters_);
    if (tensor_.alone()) return;
    if (!tensor_.sequence()) whole_.clear();
    whole_.push_back(mixture_->router());
    partial_gradients_ = true;
  }
  // So many numbers for each choice of an expert, for one pass.
  Tensor choices(Stream& stream, std::int64_t numbers, Dtype dtype) const {
    if (!mixture_) return {};
    return stream.rank().allocate(stream, Label::workspace, numbers * mixture_->choices(), dtype,
                                  {.name = "choices of experts"});
  }

  // A matrix from `hidden` whose columns, and their bias, are divided over the tensor group.
  Range by_columns(const std::string& name, std::vector<Division::Columns> columns, bool bias) {
    std::int64_t width = 0;
    for (const Division::Columns& c : columns) width += c.count;
    const Range range{parameter_elements(), s_.hidden * width, bias ? width : 0};
    Division division;
    if (!tensor_.alone()) division = {Axis::tensor, s_.hidden, s_.tensor * width, columns};
    parameters_.push_back({name + ".weight", range.elements, hidden_deviation(0.02), 0, true, width,
                           division, hidden_rates(s_.width()), s_.writes_gradients});
    if (!bias) return range;
    if (!tensor_.alone()) division.rows = 1;
    parameters_.push_back(
        {name + ".bias", width, 0, 0, false, 0, division, input_rates(s_.width())});
    return range;
  }
  double hidden_deviation(double at_base) const { return at_base / std::sqrt(s_.width()); }
  // A matrix to `hidden` whose rows are divided over the tensor group; the bias, added to the sum,
  // is not.
  Range by_rows(const std::string& name, std::int64_t rows, double deviation, bool bias) {
    const Range range{parameter_elements(), rows * s_.hidden, bias ? s_.hidden : 0};
    Division division;
    if (!tensor_.alone()) division = {Axis::tensor, rows, s_.hidden, {}};
    parameters_.push_back({name + ".weight", range.elements, hidden_deviation(deviation), 0, true,
                           s_.hidden, division, hidden_rates(s_.width()), s_.writes_gradients});
    if (!bias) return range;
    parameters_.push_back({name + ".bias", s_.hidden, 0, 0, false, 0, {}, input_rates(s_.width())});
    whole_.push_back({range.begin + range.elements, s_.hidden, 0});
    return range;
  }

  // What the backward needs besides the input. Kept are the outputs of the norms, of attention and
  // of the activation function, and the masks of dropout; saved are q k v and what attention's core
  // keeps, the residual after attention where the MLP reads it, and the inputs of the activation
  // function.
  void lay_out_saved() {
    const auto range = [](std::int64_t& end, std::int64_t elements, bool kept) {
      const Range r{end, elements, 0, kept};
      end += elements;
      return r;
    };
    const auto save = [&](std::int64_t n) { return range(saved_elements_, n, false); };
    const auto keep = [&](std::int64_t n) { return range(kept_elements_, n, true); };
    normed_ = keep(own_ * s_.hidden);
    if (attention_->needs_qkv_again()) qkv_out_ = save(rows_ * (q_ + 2 * kv_));
    attended_ = keep(rows_ * q_);
    kept_ = save(attention_->kept());
    if (!s_.parallel_blocks) residual_ = save(own_ * s_.hidden);
    normed_again_ = keep(own_ * s_.hidden);
    if (mixture_) {
      mixture_kept_ = save(mixture_->kept());
    } else {
      before_activation_ = save(rows_ * up_);
      activated_ = keep(rows_ * ffn_);
    }
    if (dropped_ == 0) return;
    attention_mask_ = keep(mask_elements(dropped_, s_.dtype));
    mlp_mask_ = keep(mask_elements(dropped_, s_.dtype));
  }

  // Forward: a product's or a gather's result for all tokens | its sum for this rank's own | the
  // attention's residual of parallel blocks | q k v if not saved | what attention's core needs.
  // Backward: d residual | d norm output | that of this rank's own tokens, d output of all and a
  // norm's output of all, with sequence parallelism | d activation and d up, later d attention
  // output and d qkv | what attention's core needs. Where the weights' gradients come later: d norm
  // output | d activation, later d attention output and what its core needs; and, deferred, d
  // residual | d up | d qkv. With dropout, behind d residual, the gradient before it; deferred, at
  // the end, that of the MLP and that of attention.
  void lay_out_workspace() {
    const std::int64_t all = rows_ * s_.hidden, own = own_ * s_.hidden;
    const bool divided = tensor_.sequence();
    added_ = all + (divided ? own : 0);
    projected_ = added_ + (s_.parallel_blocks ? own : 0);
    const std::int64_t packed = rows_ * (q_ + 2 * kv_);
    const std::int64_t core =
        (attention_->needs_qkv_again() ? 0 : packed) + attention_->forward_workspace();
    forward_workspace_ = projected_ + std::max(core, mixture_ ? mixture_->forward_workspace() : 0);
    inner_ = own + dropped_ + all + (divided ? own + 2 * all : 0);
    backward_workspace_ =
        inner_ + std::max(mixture_ ? mixture_->backward_workspace() : rows_ * (ffn_ + up_),
                          rows_ * q_ + packed + attention_->backward_workspace());
  }

  // The kernels of the two passes.
  void rotary(Rank& rank, PassProgram& s, const SlotView& qkv, bool inverse) const {
    if (s_.rotary)
      s.add(rank.prepare(Kernel::rotary(s_.micro_batch, s_.length(), heads_ + kv_heads_,
                                        heads_ + 2 * kv_heads_, s_.head_size, s_.rope_theta,
                                        s_.dtype, inverse, part_)),
            {qkv});
  }
  // With dropout, one kernel that writes its mask too.
  void residual(Rank& rank, PassProgram& s, const SlotView& x, const SlotView& y,
                const SlotView& bias, const SlotView& z, const SlotView& mask) const {
    if (dropped_ == 0)
      return s.add(rank.prepare(Kernel::residual_add(own_, s_.hidden, s_.dtype, bias.slot >= 0)),
                   {x, y, bias, z});
    s.add(rank.prepare(
              Kernel::streaming("dropout_add", 2 * dropped_, dropped_ + mask.elements, s_.dtype,
                                {Role::read, Role::read, Role::read, Role::write, Role::write})),
          {x, y, bias, z, mask});
  }
  // The gradient before dropout, in `inner`; without dropout that of its output, `dy`.
  SlotView before_dropout(Rank& rank, PassProgram& s, const SlotView& dy, const SlotView& mask,
                          const SlotView& inner) const {
    if (dropped_ == 0) return dy;
    s.add(rank.prepare(Kernel::streaming("dropout.backward", dropped_ + mask.elements, dropped_,
                                         s_.dtype, {Role::read, Role::read, Role::write})),
          {dy, mask, inner});
    return inner;
  }

  void build_forward(Rank& rank, PassProgram& s) const override {
    const std::int64_t h = s_.hidden, own = own_ * h, all = rows_ * h, n = q_ + 2 * kv_;
    const int p = s.tensor("parameters"), x = s.tensor("input");
    const Activations k{s.tensor("saved"), s.tensor("kept")};
    const int t = s.tensor("workspace"), y = s.tensor("output");
    Mixture::Tensors routed{.parameters = p};
    routed.weights = s.tensor("weights");
    routed.choices = s.tensor("choices");
    const SlotView input{x, 0, own}, everything{t, 0, all}, mine{t, all, own};
    const bool keeps = attention_->needs_qkv_again();
    const SlotView qkv = keeps ? qkv_out_.in(k) : SlotView{t, projected_, rows_ * n};
    const SlotView core{t, forward_workspace_ - attention_->forward_workspace(),
                        attention_->forward_workspace()};
    const SlotView attention_added =
        s_.parallel_blocks ? SlotView{t, added_, own} : residual_.in(k);
    const auto product = [&](const char* label, std::int64_t outputs, std::int64_t depth,
                             const SlotView& in, const SlotView& matrix, const SlotView& out) {
      cast_operand(rank, s, s_, in);
      cast_operand(rank, s, s_, matrix);
      s.add(rank.prepare(
                Kernel::gemm(rows_, outputs, depth, product_dtype(s_), false, false, false, label)),
            {in, matrix, out});
    };
    // What the matrices before an activation read; what those behind it have added up to.
    const auto gathered = [&](const SlotView& normed) {
      const SlotView out = tensor_.gather(s, normed, everything);
      if (tensor_.sequence()) s.wait();
      return out;
    };
    const auto summed = [&] {
      const SlotView out = tensor_.sum(s, everything, mine);
      tensor_.wait(s);
      return out;
    };
    norm(rank, s, input, attention_norm_, p, normed_.in(k));
    const SlotView attention_input = gathered(normed_.in(k));
    if (s_.qkv_bias) {
      for (const SlotView& operand : {attention_input, qkv_.in(p)})
        cast_operand(rank, s, s_, operand);
      s.add(rank.prepare(Kernel::gemm_bias(rows_, n, h, product_dtype(s_), "qkv")),
            {attention_input, qkv_.in(p), qkv, qkv_.bias_in(p)});
    } else {
      product("qkv", n, h, attention_input, qkv_.in(p), qkv);
    }
    rotary(rank, s, qkv, false);
    attention_->forward(rank, s, {qkv, attended_.in(k), kept_.in(k), core});
    product("out", h, q_, attended_.in(k), out_.in(p), everything);
    residual(rank, s, input, summed(), out_.bias_in(p), attention_added, attention_mask_.in(k));
    norm(rank, s, s_.parallel_blocks ? input : attention_added, mlp_norm_, p, normed_again_.in(k));
    const SlotView mlp_input = gathered(normed_again_.in(k));
    if (mixture_) {
      mixture_->forward(rank, s, routed,
                        {mlp_input,
                         mixture_kept_.in(k),
                         everything,
                         {t, projected_, mixture_->forward_workspace()}});
    } else {
      product("up", up_, h, mlp_input, up_matrix_.in(p), before_activation_.in(k));
      s.add(rank.prepare(activation(s_, rows_, ffn_, s_.mlp_bias)),
            {before_activation_.in(k), up_matrix_.bias_in(p), activated_.in(k)});
      product("down", h, ffn_, activated_.in(k), down_.in(p), everything);
    }
    residual(rank, s, attention_added, summed(), down_.bias_in(p), {y, 0, own}, mlp_mask_.in(k));
  }

  // For y = x A + b: d x = d y A^T.
  void input_gradient(Rank& rank, PassProgram& s, const char* label, std::int64_t inputs,
                      std::int64_t outputs, const Range& parameter, int p, const SlotView& dy,
                      const SlotView& dx) const {
    cast_operand(rank, s, s_, dy);
    orrery::input_gradient(rank, s, label, {rows_, inputs, outputs, product_dtype(s_)},
                           parameter.in(p), dy, dx);
  }
  void weight_gradient(Rank& rank, PassProgram& s, const char* label, std::int64_t inputs,
                       std::int64_t outputs, const SlotView& x, const Range& parameter, int g,
                       const SlotView& dy, std::int64_t bias_rows, const SlotView& bias_dy) const {
    orrery::weight_gradient(rank, s, s_.dtype, label, {rows_, inputs, outputs, product_dtype(s_)},
                            x, parameter, g, dy, bias_rows, bias_dy, s_.writes_gradients);
  }

  // Where the gradients of the backward are.
  struct Gradients {
    SlotView residual, norm, my_norm, all_output, all_normed, activated, up, attended, qkv, core;
    SlotView mlp, attention;  // of their outputs, before dropout
  };
  Gradients lay_out_gradients(Part part, int t, int deferred) const {
    const std::int64_t own = own_ * s_.hidden, all = rows_ * s_.hidden,
                       packed = rows_ * (q_ + 2 * kv_);
    const std::int64_t more = attention_->backward_workspace();
    if (part != Part::both) {
      const SlotView none{};
      return {{deferred, 0, own},
              {t, 0, all},
              none,
              none,
              none,
              {t, all, rows_ * ffn_},
              {deferred, own, rows_ * up_},
              {t, all, rows_ * q_},
              {deferred, own + rows_ * up_, packed},
              {t, all + rows_ * q_, more},
              {deferred, deferred_elements_ - 2 * dropped_, dropped_},
              {deferred, deferred_elements_ - dropped_, dropped_}};
    }
    const std::int64_t norm = own + dropped_;
    return {{t, 0, own},
            {t, norm, all},
            {t, norm + all, own},
            {t, norm + own + all, all},
            {t, norm + own + 2 * all, all},
            {t, inner_, rows_ * ffn_},
            {t, inner_ + rows_ * ffn_, rows_ * up_},
            {t, inner_, rows_ * q_},
            {t, inner_ + rows_ * q_, packed},
            {t, inner_ + rows_ * q_ + packed, more},
            {t, own, dropped_},
            {t, own, dropped_}};
  }

  // All but the gradient of the first matrix.
  void mlp_backward(Rank& rank, PassProgram& s, int p, int g, const Activations& k,
                    const Gradients& d, const SlotView& d_sum, bool inputs, bool weights,
                    const SlotView& d_mlp) const {
    const std::int64_t h = s_.hidden;
    if (inputs) input_gradient(rank, s, "down.dgrad", ffn_, h, down_, p, d_sum, d.activated);
    if (weights)
      weight_gradient(rank, s, "down.wgrad", ffn_, h, activated_.in(k), down_, g, d_sum, own_,
                      d_mlp);
    if (!inputs) return;
    s.add(rank.prepare(activation_backward(s_, rows_, ffn_, s_.mlp_bias)),
          {d.activated, before_activation_.in(k), up_matrix_.bias_in(p), d.up});
    input_gradient(rank, s, "up.dgrad", h, up_, up_matrix_, p, d.up, d.norm);
  }

  void build_backward(Rank& rank, PassProgram& s, Part part) const override {
    const std::int64_t h = s_.hidden, own = own_ * h, n = q_ + 2 * kv_;
    const int p = s.tensor("parameters"), x = s.tensor("input");
    const Activations k{s.tensor("saved"), s.tensor("kept")};
    const int dy = s.tensor("d_output"), t = s.tensor("workspace");
    const int g = s.tensor("gradients"), dx = s.tensor("d_input"), later = s.tensor("deferred");
    Mixture::Tensors routed{.parameters = p, .gradients = g};
    routed.weights = s.tensor("weights");
    routed.d_weights = s.tensor("d_weights");
    routed.choices = s.tensor("choices");
    const SlotView input{x, 0, own}, d_output{dy, 0, own};
    const Gradients d = lay_out_gradients(part, t, later);
    const bool inputs = part != Part::weight, weights = part != Part::input;
    const auto gathered_now = [&](const SlotView& mine) {
      const SlotView out = tensor_.gather(s, mine, d.all_output);
      if (tensor_.sequence()) s.wait();
      return out;
    };
    // The sum of d norm output over the group runs beside the gradient of the matrix.
    const auto summed_beside = [&](auto add_weight_gradient) {
      if (tensor_.sequence()) s.wait();  // for the gathered norm output
      const SlotView out = inputs ? tensor_.sum(s, d.norm, d.my_norm) : SlotView{};
      if (weights) add_weight_gradient();
      if (inputs) tensor_.wait(s);
      return out;
    };
    // Of a sum over the group, before dropout: where the weights come later it is there already.
    const auto inner = [&](const SlotView& outer, const Range& mask, const SlotView& dropped) {
      if (inputs) return before_dropout(rank, s, outer, mask.in(k), dropped);
      return dropped_ > 0 ? dropped : outer;
    };
    const SlotView d_mlp = inner(d_output, mlp_mask_, d.mlp);
    SlotView d_sum = gathered_now(d_mlp);
    const SlotView mlp_input = tensor_.gather(s, normed_again_.in(k), d.all_normed);
    SlotView d_mlp_norm;
    if (mixture_) {
      const auto sum = [&] {
        if (tensor_.sequence()) s.wait();
        d_mlp_norm = tensor_.sum(s, d.norm, d.my_norm);
      };
      mixture_->backward(rank, s, routed,
                         {d_sum,
                          mlp_input,
                          mixture_kept_.in(k),
                          d.norm,
                          {t, inner_, mixture_->backward_workspace()},
                          sum});
      tensor_.wait(s);
    } else {
      mlp_backward(rank, s, p, g, k, d, d_sum, inputs, weights, d_mlp);
      d_mlp_norm = summed_beside([&] {
        weight_gradient(rank, s, "up.wgrad", h, up_, mlp_input, up_matrix_, g, d.up, rows_, d.up);
      });
    }
    // Side by side, attention's output gets d output alone; d residual is what reaches the input
    // past attention, in either case.
    if (inputs)
      norm_backward(rank, s, d_mlp_norm, s_.parallel_blocks ? input : residual_.in(k), mlp_norm_, p,
                    g, d_output, d.residual);
    const SlotView d_added =
        inner(s_.parallel_blocks ? d_output : d.residual, attention_mask_, d.attention);
    if (!s_.parallel_blocks || dropped_ > 0) d_sum = gathered_now(d_added);
    const SlotView attention_input = tensor_.gather(s, normed_.in(k), d.all_normed);
    if (inputs) input_gradient(rank, s, "out.dgrad", q_, h, out_, p, d_sum, d.attended);
    if (weights)
      weight_gradient(rank, s, "out.wgrad", q_, h, attended_.in(k), out_, g, d_sum, own_, d_added);
    if (inputs) {
      attention_->backward(
          rank, s, {d.attended, qkv_out_.in(k), attended_.in(k), kept_.in(k), d.qkv, d.core});
      rotary(rank, s, d.qkv, true);
      input_gradient(rank, s, "qkv.dgrad", h, n, qkv_, p, d.qkv, d.norm);
    }
    const SlotView d_attention_norm = summed_beside([&] {
      weight_gradient(rank, s, "qkv.wgrad", h, n, attention_input, qkv_, g, d.qkv, rows_, d.qkv);
    });
    if (inputs)
      norm_backward(rank, s, d_attention_norm, input, attention_norm_, p, g, d.residual,
                    {dx, 0, own});
  }

  std::int64_t heads_ = 0, kv_heads_ = 0, q_ = 0, kv_ = 0, ffn_ = 0, up_ = 0;  // on this rank
  // Where in the workspace the residual of parallel blocks and q k v begin, forward; and, backward,
  // the gradients inside attention and MLP.
  std::int64_t added_ = 0, projected_ = 0, inner_ = 0;
  std::int64_t dropped_ = 0;  // elements that each dropout goes over
  std::unique_ptr<AttentionCore> attention_;
  std::unique_ptr<Mixture> mixture_;  // null: an MLP
  Range mixture_kept_;
  Range attention_norm_, qkv_, out_, mlp_norm_, up_matrix_, down_;
  Range normed_, qkv_out_, attended_, kept_, residual_, normed_again_, before_activation_,
      activated_, attention_mask_, mlp_mask_;
};

}  // namespace

std::shared_ptr<Block> make_transformer_layer(const TransformerShape& shape) {
  return std::make_shared<Layer>(shape);
}

}  // namespace orrery
