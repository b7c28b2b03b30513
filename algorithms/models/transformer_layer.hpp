// One layer of a decoder-only transformer.
//
//   x1 = x + Attention(Norm(x)) Wo;   y = x1 + MLP(Norm(x1)),  or a mixture of experts for the MLP
//   with parallel blocks  y = x1 + MLP(Norm(x))
//
// The ranks of a tensor group share heads and widths (tensor_parallel.hpp), those of a context
// group sequences (context_parallel.hpp), those of an expert group experts (mixture.hpp).
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "algorithms/models/attention_core.hpp"
#include "algorithms/models/expert_balance.hpp"
#include "algorithms/models/fp8_gather.hpp"
#include "algorithms/models/head_norms.hpp"
#include "algorithms/models/latent_attention.hpp"
#include "algorithms/models/layer_kernels.hpp"
#include "algorithms/models/mixture.hpp"

namespace orrery {

class TransformerLayer : public TransformerBlock {
 public:
  explicit TransformerLayer(const TransformerShape& s);

  void prepare(Rank& rank) override;
  void forward(const BlockPass& p) const override {
    forward_.run(p.stream, {p.parameters, p.input, p.saved, p.kept, p.workspace, p.output,
                            choices(p.stream, 1, Dtype::fp32), choices(p.stream, 2, Dtype::int32),
                            p.held, balance_ ? balance_->bias(p.settled) : Tensor(),
                            balance_ && !p.evaluates ? balance_->counts(p.state) : Tensor(),
                            messages(p.stream), largest_gathered(p.stream)});
  }
  void end_step(const BlockPass& p) const override { balance_->end_step(p.stream, p.settled); }
  void recompute(const BlockPass& p) const override {
    if (!again_.built()) return forward(p);
    again_.run(p.stream, {p.parameters, p.input, p.saved, p.kept, p.workspace, p.held,
                          messages(p.stream), largest_gathered(p.stream)});
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
                           choices(p.stream, 1, Dtype::fp32), choices(p.stream, 2, Dtype::int32),
                           p.held, balance_ ? balance_->bias(p.settled) : Tensor(),
                           messages(p.stream), largest_gathered(p.stream)});
  }
  // For gathers in fp8, for one pass.
  Tensor messages(Stream& stream) const {
    if (!s_.gathers_fp8) return {};
    return stream.rank().allocate(stream, Label::workspace, (rows_ + own_) * s_.hidden,
                                  Dtype::uint8, {.name = "tokens in fp8"});
  }
  Tensor largest_gathered(Stream& stream) const {
    if (!s_.gathers_fp8) return {};
    return stream.rank().allocate(stream, Label::workspace, 1, Dtype::fp32,
                                  {.name = "largest of tokens"});
  }
  // Experts route again in the backward, and their gradients come with it, as do those of latent
  // vectors.
  bool splits() const final {
    return TransformerBlock::splits() && mixture_ == nullptr && latent_ == nullptr;
  }
  // Every rank of a tensor group has the gradient of the router by its part of the experts, and of
  // the norms of queries and keys by its heads.
  void add_mixture() {
    mixture_ = make_mixture(s_, parameters_);
    partial_.push_back(mixture_->router());
    settles_state_ = s_.balance_rate > 0;
    if (settles_state_) balance_.emplace(s_.experts, s_.balance_rate, state_);
  }
  void add_head_norms() {
    head_norms_.emplace(AttentionSizes{s_.micro_batch, s_.length(), heads_, kv_heads_, s_.head_size,
                                       s_.causal, s_.dtype},
                        s_.norm_epsilon);
    head_gains_ = {parameter_elements(), head_norms_->gains()};
    for (const char* name : {"query_norm.gain", "key_norm.gain"})
      parameters_.push_back({name, s_.head_size, 0, 1, false, 0, {}, input_rates(s_.width())});
    partial_.push_back(head_gains_);
  }
  void add_latent() {
    latent_ = std::make_unique<LatentAttention>(s_, parameters_);
    partial_.insert(partial_.end(), latent_->partial().begin(), latent_->partial().end());
  }
  // Elements of a head's values, of all heads: what the matrix behind attention reads.
  std::int64_t values_width() const { return latent_ ? latent_->values() : q_; }
  // Without sequence parallelism these alone are partial.
  void sum_partial() {
    if (tensor_.alone() || partial_.empty()) return;
    if (!tensor_.sequence()) whole_.clear();
    whole_.insert(whole_.end(), partial_.begin(), partial_.end());
    partial_gradients_ = true;
  }
  // So many numbers for each choice of an expert, for one pass.
  Tensor choices(Stream& stream, std::int64_t numbers, Dtype dtype) const {
    if (!mixture_) return {};
    return stream.rank().allocate(stream, Label::workspace, numbers * mixture_->choices(), dtype,
                                  {.name = "choices of experts"});
  }

  // What the backward needs besides the input. Kept are the outputs of the norms, of attention and
  // of the activation function, and the masks of dropout; saved are q k v and what attention's core
  // keeps, the residual after attention where the MLP reads it, and the inputs of the activation
  // function. Where every second product runs again, what it starts from is held
  // (every_second.hpp).
  void lay_out_saved();

  // Forward: a product's or a gather's result for all tokens | its sum for this rank's own | the
  // attention's residual of parallel blocks | q k v if not saved | what attention's core needs.
  // Backward: d residual | d norm output | that of this rank's own tokens, d output of all and a
  // norm's output of all, with sequence parallelism | d activation and d up, later d attention
  // output and d qkv | what attention's core needs. Where the weights' gradients come later: d norm
  // output | d activation, later d attention output and what its core needs; and, deferred, d
  // residual | d up | d qkv. With dropout, behind d residual, the gradient before it; deferred, at
  // the end, that of the MLP and that of attention.
  void lay_out_workspace();

  // The kernels of the two passes.
  void rotary(Rank& rank, PassProgram& s, const SlotView& qkv, bool inverse) const {
    if (s_.rotary && !latent_)
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

  void build_forward(Rank& rank, PassProgram& s) const override;

  // All tokens of `own`, after the next wait.
  SlotView gather(Rank& rank, PassProgram& s, const Fp8GatherSlots& narrow, const SlotView& own,
                  const SlotView& all, Float8 type, const SlotView& largest = {}) const {
    if (!s_.gathers_fp8) return tensor_.gather(s, own, all);
    gather_in_fp8(rank, s, tensor_.line(), narrow, own, all, type, s_.dtype, largest);
    return all;
  }
  // What the matrices before an activation read.
  SlotView gathered(Rank& rank, PassProgram& s, const Fp8GatherSlots& narrow,
                    const SlotView& normed, const SlotView& everything,
                    const SlotView& largest) const {
    const SlotView out = gather(rank, s, narrow, normed, everything, Float8::e4m3, largest);
    if (tensor_.sequence()) s.wait();
    return out;
  }
  // Where every second product runs again: what is kept of products that are one with others, and
  // what comes back.
  std::int64_t packed() const { return q_ + 2 * kv_; }
  ColumnRange query_columns() const { return {rows_, q_, 0, packed()}; }
  ColumnRange key_columns() const { return {rows_, kv_, q_, packed()}; }
  ColumnRange value_columns() const { return {rows_, kv_, q_ + kv_, packed()}; }
  ColumnRange gate_columns() const { return {rows_, ffn_, 0, up_}; }
  ColumnRange ungated_columns() const { return {rows_, ffn_, ffn_, up_}; }
  // The product with some columns of a matrix only, into the same columns of `wide`.
  void product_of_columns(Rank& rank, PassProgram& s, const char* label, ColumnRange columns,
                          const SlotView& in, const SlotView& matrix, const SlotView& bias, int t,
                          const SlotView& wide) const;
  void build_again(Rank& rank, PassProgram& s) const;

  // For y = x A + b: d x = d y A^T.
  void input_gradient(Rank& rank, PassProgram& s, const char* label, std::int64_t inputs,
                      std::int64_t outputs, const Range& parameter, int p, const SlotView& dy,
                      const SlotView& dx, const Largest& largest) const {
    if (!largest.dy_is_cast) cast_operand(rank, s, s_, dy, largest.dy);
    orrery::input_gradient(rank, s, label, {rows_, inputs, outputs, s_.dtype, s_.products},
                           parameter.in(p), dy, dx, false, largest);
  }
  void weight_gradient(Rank& rank, PassProgram& s, const char* label, std::int64_t inputs,
                       std::int64_t outputs, const SlotView& x, const Range& parameter, int g,
                       const SlotView& dy, std::int64_t bias_rows, const SlotView& bias_dy,
                       const Largest& largest) const {
    orrery::weight_gradient(rank, s, label, {rows_, inputs, outputs, s_.dtype, s_.products}, x,
                            parameter, g, dy, bias_rows, bias_dy, s_.writes_gradients, largest);
  }

  // Places for the largest magnitudes of what a product's scales are for: of inputs and matrices
  // they are kept, of gradients they are beside these, at `of_gradients`.
  enum class ProductOf : std::uint8_t { qkv, out, up, down };
  static constexpr std::int64_t largest_kept = 16, largest_of_gradients = 8;  // with what aligns
  bool keeps_largest() const {
    return s_.products == Products::fp8_tensor && !s_.recompute_every_second;
  }
  // The gradients of the outputs of MLP and attention are not the same.
  bool gathers_twice() const { return !s_.parallel_blocks || dropped_ > 0; }
  std::int64_t gradients_largest() const { return keeps_largest() ? largest_of_gradients : 0; }
  Largest largest(ProductOf product, const Activations& k,
                  const SlotView& of_gradients = {}) const {
    const bool reads_gathered = product == ProductOf::qkv || product == ProductOf::up;
    Largest all;
    all.x_is_cast = s_.gathers_fp8 && reads_gathered;
    all.dy_is_cast = s_.gathers_fp8 &&
                     (product == ProductOf::down || (product == ProductOf::out && gathers_twice()));
    if (!keeps_largest()) return all;
    const auto i = static_cast<std::int64_t>(product);
    const SlotView kept = largest_.in(k);
    all.x = {kept.slot, kept.begin + 2 * i, 1};
    all.matrix = {kept.slot, kept.begin + 2 * i + 1, 1};
    if (of_gradients.slot >= 0) all.dy = {of_gradients.slot, of_gradients.begin + i, 1};
    return all;
  }

  // Where the gradients of the backward are.
  struct Gradients {
    SlotView residual, norm, my_norm, all_output, all_normed, activated, up, attended, qkv, core;
    SlotView mlp, attention;  // of their outputs, before dropout
    SlotView more;            // for the norms of queries and keys, or latent attention
    SlotView largest;         // of gradients, see there
  };
  Gradients lay_out_gradients(Part part, int t, int deferred) const;

  // All but the gradient of the first matrix.
  void mlp_backward(Rank& rank, PassProgram& s, int p, int g, const Activations& k,
                    const Gradients& d, const SlotView& d_sum, bool inputs, bool weights,
                    const SlotView& d_mlp) const;

  void projection_backward(Rank& rank, PassProgram& s, int p, int g, const Activations& k,
                           const Gradients& d, const SlotView& attention_input) const;
  SlotView mixture_backward(Rank& rank, PassProgram& s, const Mixture::Tensors& routed,
                            const Activations& k, const Gradients& d, const SlotView& d_sum,
                            const SlotView& mlp_input) const;
  void build_backward(Rank& rank, PassProgram& s, Part part) const override;

  std::int64_t heads_ = 0, kv_heads_ = 0, q_ = 0, kv_ = 0, ffn_ = 0, up_ = 0;  // on this rank
  // Where in the workspace the residual of parallel blocks and q k v begin, forward; and, backward,
  // the gradients inside attention and MLP.
  std::int64_t added_ = 0, projected_ = 0, inner_ = 0;
  std::int64_t more_ = 0;     // elements of Gradients::more
  std::int64_t dropped_ = 0;  // elements that each dropout goes over
  std::unique_ptr<AttentionCore> attention_;
  std::optional<HeadNorms> head_norms_;
  Range head_gains_, before_norm_;
  std::unique_ptr<LatentAttention> latent_;  // null: queries, keys and values by one matrix
  Range latent_kept_, stripped_;             // its own; the values that heads attended to
  std::vector<Range> partial_;  // whole on every tensor rank, gradients by its part of the work
  std::unique_ptr<Mixture> mixture_;  // null: an MLP
  Range mixture_kept_;
  std::optional<ExpertBalance> balance_;
  Range attention_norm_, qkv_, out_, mlp_norm_, up_matrix_, down_;
  Range normed_, qkv_out_, attended_, kept_, residual_, normed_again_, before_activation_,
      activated_, attention_mask_, mlp_mask_;
  Range largest_;
  Range queries_, values_, gate_, attention_sum_;  // held where every second product runs again
  PassProgram again_;
};

}  // namespace orrery
