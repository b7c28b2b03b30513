// What a layer has in memory, and its forward.
#include "algorithms/models/transformer_layer.hpp"

#include <algorithm>
#include <cmath>

namespace orrery {

TransformerLayer::TransformerLayer(const TransformerShape& s) : TransformerBlock(s) {
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
  if (s.latent())
    add_latent();
  else
    qkv_ = by_columns("qkv", {{0, q_}, {t * q_, kv_}, {t * (q_ + kv_), kv_}}, s.qkv_bias);
  if (s.qk_norm) add_head_norms();
  out_ = by_rows("out", values_width(), out_deviation, s.output_bias);
  mlp_norm_ = add_norm("mlp_norm");
  if (s.experts > 0) {
    add_mixture();
  } else {
    up_matrix_ = s.gated ? by_columns("up", {{0, ffn_}, {t * ffn_, ffn_}}, s.mlp_bias)
                         : by_columns("up", {{0, ffn_}}, s.mlp_bias);
    down_ = by_rows("down", ffn_, out_deviation, s.mlp_bias);
  }
  sum_partial();
  output_elements_ = own_ * s.hidden;
  lay_out_saved();
  lay_out_workspace();
  if (!splits()) return;
  weights_read_d_output_ = true;
  deferred_elements_ =
      own_ * s.hidden + rows_ * (up_ + q_ + 2 * kv_) + 2 * dropped_ + gradients_largest();
  backward_input_workspace_ =
      rows_ * s.hidden +
      std::max(rows_ * ffn_, rows_ * q_ + attention_->backward_workspace() + more_);
}

void TransformerLayer::prepare(Rank& rank) {
  if (forward_.built()) return;
  const std::string key = transformer_key("layer", s_);
  prepare_groups(rank, key);
  attention_->open(rank);
  if (mixture_) mixture_->open(rank);
  if (balance_) balance_->open(rank);
  build_passes(rank, key + "/" + std::to_string(part_.index));
  if (!s_.recompute_every_second) return;
  build_again(rank, again_);
  again_.build(rank, key + "/" + std::to_string(part_.index) + ".again");
}

void TransformerLayer::lay_out_saved() {
  const auto range = [](std::int64_t& end, std::int64_t elements, bool kept, bool held) {
    const Range r{end, elements, 0, kept, held};
    end += elements;
    return r;
  };
  const auto save = [&](std::int64_t n) { return range(saved_elements_, n, false, false); };
  const auto keep = [&](std::int64_t n) { return range(kept_elements_, n, true, false); };
  const auto hold = [&](std::int64_t n) { return range(held_elements_, n, false, true); };
  const bool holds = s_.recompute_every_second;
  normed_ = keep(own_ * s_.hidden);
  if (attention_->needs_qkv_again()) qkv_out_ = save(rows_ * (q_ + 2 * kv_));
  attended_ = holds ? hold(rows_ * q_) : keep(rows_ * q_);
  kept_ = holds ? hold(attention_->kept()) : save(attention_->kept());
  if (head_norms_) before_norm_ = save(head_norms_->kept());
  if (latent_) {
    latent_kept_ = save(latent_->kept());
    stripped_ = keep(rows_ * values_width());
  }
  if (!s_.parallel_blocks) residual_ = save(own_ * s_.hidden);
  normed_again_ = keep(own_ * s_.hidden);
  if (mixture_) {
    mixture_kept_ = save(mixture_->kept());
  } else {
    before_activation_ = holds && !s_.gated ? hold(rows_ * up_) : save(rows_ * up_);
    activated_ = keep(rows_ * ffn_);
  }
  if (holds) {
    queries_ = hold(rows_ * q_);
    values_ = hold(rows_ * kv_);
    if (s_.gated) gate_ = hold(rows_ * ffn_);
    if (tensor_.sequence()) attention_sum_ = hold(own_ * s_.hidden);
    if (s_.keeps_unread && s_.gated)  // the seventh product; of six, the last runs again
      hold(rows_ * s_.hidden);
    if (s_.keeps_unread && tensor_.sequence()) hold(own_ * s_.hidden);
  }
  if (keeps_largest()) largest_ = keep(largest_kept);
  if (dropped_ == 0) return;
  attention_mask_ = keep(mask_elements(dropped_, s_.dtype));
  mlp_mask_ = keep(mask_elements(dropped_, s_.dtype));
}

void TransformerLayer::lay_out_workspace() {
  const std::int64_t all = rows_ * s_.hidden, own = own_ * s_.hidden;
  const bool divided = tensor_.sequence();
  added_ = all + (divided ? own : 0);
  projected_ = added_ + (s_.parallel_blocks ? own : 0);
  const std::int64_t packed = rows_ * (q_ + 2 * kv_);
  const std::int64_t before_core = attention_->needs_qkv_again() ? 0 : packed;
  const std::int64_t inside = head_norms_ ? head_norms_->workspace()
                              : latent_   ? latent_->forward_workspace()
                                          : 0;
  more_ = latent_ ? rows_ * values_width() + latent_->backward_workspace() : inside;
  forward_workspace_ =
      projected_ + std::max(before_core + std::max(attention_->forward_workspace(), inside),
                            mixture_ ? mixture_->forward_workspace() : 0);
  if (s_.recompute_every_second)  // the columns of a matrix, and their product
    forward_workspace_ = std::max(
        forward_workspace_, projected_ + (s_.hidden + rows_) * std::max(kv_, s_.gated ? ffn_ : 0));
  inner_ = own + dropped_ + all + (divided ? own + 2 * all : 0);
  backward_workspace_ = inner_ +
                        std::max(mixture_ ? mixture_->backward_workspace() : rows_ * (ffn_ + up_),
                                 rows_ * q_ + packed + attention_->backward_workspace() + more_) +
                        gradients_largest();
}

void TransformerLayer::build_forward(Rank& rank, PassProgram& s) const {
  const std::int64_t h = s_.hidden, own = own_ * h, all = rows_ * h, n = q_ + 2 * kv_;
  const int p = s.tensor("parameters"), x = s.tensor("input");
  Activations k{s.tensor("saved"), s.tensor("kept")};
  const int t = s.tensor("workspace"), y = s.tensor("output");
  Mixture::Tensors routed{.parameters = p};
  routed.weights = s.tensor("weights");
  routed.choices = s.tensor("choices");
  k.held = s.tensor("held");
  const int bias = s.tensor("bias of experts"), counts = s.tensor("tokens of experts");
  if (balance_) routed.bias = bias, routed.counts = counts;
  const Fp8GatherSlots narrow{s.tensor("messages"), s.tensor("largest gathered")};
  const SlotView input{x, 0, own}, everything{t, 0, all}, mine{t, all, own};
  const bool keeps = attention_->needs_qkv_again();
  const SlotView qkv = keeps ? qkv_out_.in(k) : SlotView{t, projected_, rows_ * n};
  const SlotView core{t, forward_workspace_ - attention_->forward_workspace(),
                      attention_->forward_workspace()};
  const SlotView attention_added = s_.parallel_blocks ? SlotView{t, added_, own} : residual_.in(k);
  // What the matrices behind an activation have added up to.
  const auto summed = [&](const SlotView& result) {
    const SlotView out = tensor_.sum(s, everything, result);
    tensor_.wait(s);
    return out;
  };
  norm(rank, s, input, attention_norm_, p, normed_.in(k));
  const SlotView attention_input =
      gathered(rank, s, narrow, normed_.in(k), everything, largest(ProductOf::qkv, k).x);
  if (latent_) {
    const std::int64_t work = latent_->forward_workspace();
    latent_->forward(
        rank, s, part_, p,
        {attention_input, qkv, latent_kept_.in(k), {t, forward_workspace_ - work, work}});
  } else {
    product(rank, s, s_, rows_, "qkv", n, h, attention_input, qkv_.in(p), qkv, qkv_.bias_in(p),
            largest(ProductOf::qkv, k));
  }
  if (s_.recompute_every_second) {
    copy_columns(rank, s, query_columns(), s_.dtype, qkv, queries_.in(k));
    copy_columns(rank, s, value_columns(), s_.dtype, qkv, values_.in(k));
  }
  if (head_norms_)
    head_norms_->forward(rank, s, qkv, head_gains_.in(p), before_norm_.in(k),
                         {t, forward_workspace_ - rows_ * q_, rows_ * q_});
  rotary(rank, s, qkv, false);
  attention_->forward(rank, s, {qkv, attended_.in(k), kept_.in(k), core});
  if (latent_) latent_->strip(rank, s, attended_.in(k), stripped_.in(k));
  product(rank, s, s_, rows_, "out", h, values_width(), (latent_ ? stripped_ : attended_).in(k),
          out_.in(p), everything, {}, largest(ProductOf::out, k));
  residual(rank, s, input, summed(attention_sum_.elements > 0 ? attention_sum_.in(k) : mine),
           out_.bias_in(p), attention_added, attention_mask_.in(k));
  norm(rank, s, s_.parallel_blocks ? input : attention_added, mlp_norm_, p, normed_again_.in(k));
  const SlotView mlp_input =
      gathered(rank, s, narrow, normed_again_.in(k), everything, largest(ProductOf::up, k).x);
  if (mixture_) {
    mixture_->forward(rank, s, routed,
                      {mlp_input,
                       mixture_kept_.in(k),
                       everything,
                       {t, projected_, mixture_->forward_workspace()}});
  } else {
    product(rank, s, s_, rows_, "up", up_, h, mlp_input, up_matrix_.in(p), before_activation_.in(k),
            {}, largest(ProductOf::up, k));
    if (gate_.elements > 0)
      copy_columns(rank, s, gate_columns(), s_.dtype, before_activation_.in(k), gate_.in(k));
    s.add(rank.prepare(activation(s_, rows_, ffn_, s_.mlp_bias)),
          {before_activation_.in(k), up_matrix_.bias_in(p), activated_.in(k)});
    product(rank, s, s_, rows_, "down", h, ffn_, activated_.in(k), down_.in(p), everything, {},
            largest(ProductOf::down, k));
  }
  residual(rank, s, attention_added, summed(mine), down_.bias_in(p), {y, 0, own}, mlp_mask_.in(k));
}

void TransformerLayer::product_of_columns(Rank& rank, PassProgram& s, const char* label,
                                          ColumnRange columns, const SlotView& in,
                                          const SlotView& matrix, const SlotView& bias, int t,
                                          const SlotView& wide) const {
  const SlotView narrow{t, projected_, s_.hidden * columns.columns};
  const SlotView result{t, projected_ + narrow.elements, columns.elements()};
  ColumnRange of_matrix = columns;
  of_matrix.rows = s_.hidden;
  copy_columns(rank, s, of_matrix, s_.dtype, matrix, narrow);
  product(rank, s, s_, rows_, label, columns.columns, s_.hidden, in, narrow, result,
          bias.slot < 0 ? SlotView{}
                        : SlotView{bias.slot, bias.begin + columns.first, columns.columns});
  copy_columns(rank, s, columns, s_.dtype, wide, result, true);
}

void TransformerLayer::build_again(Rank& rank, PassProgram& s) const {
  const std::int64_t h = s_.hidden, own = own_ * h, all = rows_ * h;
  const int p = s.tensor("parameters"), x = s.tensor("input");
  Activations k{s.tensor("saved"), s.tensor("kept")};
  const int t = s.tensor("workspace");
  k.held = s.tensor("held");
  const Fp8GatherSlots narrow{s.tensor("messages"), s.tensor("largest gathered")};
  const SlotView input{x, 0, own}, everything{t, 0, all};
  const SlotView qkv = qkv_out_.in(k);
  norm(rank, s, input, attention_norm_, p, normed_.in(k));
  const SlotView attention_input = gathered(rank, s, narrow, normed_.in(k), everything, {});
  product_of_columns(rank, s, "keys", key_columns(), attention_input, qkv_.in(p), qkv_.bias_in(p),
                     t, qkv);
  copy_columns(rank, s, query_columns(), s_.dtype, qkv, queries_.in(k), true);
  copy_columns(rank, s, value_columns(), s_.dtype, qkv, values_.in(k), true);
  rotary(rank, s, qkv, false);
  if (!s_.parallel_blocks) {
    SlotView sum = attention_sum_.in(k);
    if (!tensor_.sequence()) {
      product(rank, s, s_, rows_, "out", h, q_, attended_.in(k), out_.in(p), everything);
      sum = tensor_.sum(s, everything, {});
      tensor_.wait(s);
    }
    residual(rank, s, input, sum, out_.bias_in(p), residual_.in(k), {});
  }
  norm(rank, s, s_.parallel_blocks ? input : residual_.in(k), mlp_norm_, p, normed_again_.in(k));
  if (s_.gated) {
    const SlotView mlp_input = gathered(rank, s, narrow, normed_again_.in(k), everything, {});
    product_of_columns(rank, s, "up", ungated_columns(), mlp_input, up_matrix_.in(p), {}, t,
                       before_activation_.in(k));
    copy_columns(rank, s, gate_columns(), s_.dtype, before_activation_.in(k), gate_.in(k), true);
  }
  s.add(rank.prepare(activation(s_, rows_, ffn_, s_.mlp_bias)),
        {before_activation_.in(k), up_matrix_.bias_in(p), activated_.in(k)});
}

std::shared_ptr<Block> make_transformer_layer(const TransformerShape& shape) {
  return std::make_shared<TransformerLayer>(shape);
}

}  // namespace orrery
