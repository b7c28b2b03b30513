// The backward of a layer, whole or in two parts.
#include "algorithms/models/transformer_layer.hpp"

namespace orrery {

TransformerLayer::Gradients TransformerLayer::lay_out_gradients(Part part, int t,
                                                                int deferred) const {
  const std::int64_t own = own_ * s_.hidden, all = rows_ * s_.hidden,
                     packed = rows_ * (q_ + 2 * kv_);
  const std::int64_t more = attention_->backward_workspace();
  const std::int64_t places = gradients_largest(), end = deferred_elements_ - places;
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
            {deferred, end - 2 * dropped_, dropped_},
            {deferred, end - dropped_, dropped_},
            {t, all + rows_ * q_ + more, more_},
            {deferred, end, places}};
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
          {t, own, dropped_},
          {t, inner_ + rows_ * q_ + packed + more, more_},
          {t, backward_workspace_ - places, places}};
}

void TransformerLayer::mlp_backward(Rank& rank, PassProgram& s, int p, int g, const Activations& k,
                                    const Gradients& d, const SlotView& d_sum, bool inputs,
                                    bool weights, const SlotView& d_mlp) const {
  const std::int64_t h = s_.hidden;
  const Largest in_down = largest(ProductOf::down, k, d.largest);
  if (inputs) input_gradient(rank, s, "down.dgrad", ffn_, h, down_, p, d_sum, d.activated, in_down);
  if (weights)
    weight_gradient(rank, s, "down.wgrad", ffn_, h, activated_.in(k), down_, g, d_sum, own_, d_mlp,
                    in_down);
  if (!inputs) return;
  s.add(rank.prepare(activation_backward(s_, rows_, ffn_, s_.mlp_bias)),
        {d.activated, before_activation_.in(k), up_matrix_.bias_in(p), d.up});
  input_gradient(rank, s, "up.dgrad", h, up_, up_matrix_, p, d.up, d.norm,
                 largest(ProductOf::up, k, d.largest));
}

// From the gradient of what heads attended to, to that of the norm's output; of latent attention
// those of its parameters too.
void TransformerLayer::projection_backward(Rank& rank, PassProgram& s, int p, int g,
                                           const Activations& k, const Gradients& d,
                                           const SlotView& attention_input) const {
  const SlotView work{d.more.slot, d.more.begin + rows_ * values_width(),
                      more_ - rows_ * values_width()};
  if (latent_)
    latent_->pad(rank, s, {d.more.slot, d.more.begin, rows_ * values_width()}, d.attended);
  attention_->backward(rank, s,
                       {d.attended, qkv_out_.in(k), attended_.in(k), kept_.in(k), d.qkv, d.core});
  if (latent_) {
    if (tensor_.sequence()) s.wait();  // for the gathered norm output
    latent_->backward(rank, s, part_, p, g,
                      {attention_input, d.qkv, latent_kept_.in(k), d.norm, work});
    return;
  }
  rotary(rank, s, d.qkv, true);
  if (head_norms_)
    head_norms_->backward(rank, s, d.qkv, head_gains_.in(p), head_gains_.in(g), before_norm_.in(k),
                          d.attended, d.more);
  input_gradient(rank, s, "qkv.dgrad", s_.hidden, q_ + 2 * kv_, qkv_, p, d.qkv, d.norm,
                 largest(ProductOf::qkv, k, d.largest));
}

// The gradient of the norm's output, whose sum over the group begins before the experts' last
// gradients.
SlotView TransformerLayer::mixture_backward(Rank& rank, PassProgram& s,
                                            const Mixture::Tensors& routed, const Activations& k,
                                            const Gradients& d, const SlotView& d_sum,
                                            const SlotView& mlp_input) const {
  SlotView d_mlp_norm;
  const auto sum = [&] {
    if (tensor_.sequence()) s.wait();
    d_mlp_norm = tensor_.sum(s, d.norm, d.my_norm);
  };
  mixture_->backward(rank, s, routed,
                     {d_sum,
                      mlp_input,
                      mixture_kept_.in(k),
                      d.norm,
                      {d.norm.slot, inner_, mixture_->backward_workspace()},
                      sum});
  tensor_.wait(s);
  return d_mlp_norm;
}

void TransformerLayer::build_backward(Rank& rank, PassProgram& s, Part part) const {
  const std::int64_t h = s_.hidden, own = own_ * h, n = q_ + 2 * kv_;
  const int p = s.tensor("parameters"), x = s.tensor("input");
  Activations k{s.tensor("saved"), s.tensor("kept")};
  const int dy = s.tensor("d_output"), t = s.tensor("workspace");
  const int g = s.tensor("gradients"), dx = s.tensor("d_input"), later = s.tensor("deferred");
  Mixture::Tensors routed{.parameters = p, .gradients = g};
  routed.weights = s.tensor("weights");
  routed.d_weights = s.tensor("d_weights");
  routed.choices = s.tensor("choices");
  k.held = s.tensor("held");
  if (const int bias = s.tensor("bias of experts"); balance_) routed.bias = bias;
  const Fp8GatherSlots narrow{s.tensor("messages"), s.tensor("largest gathered")};
  const SlotView input{x, 0, own}, d_output{dy, 0, own};
  const Gradients d = lay_out_gradients(part, t, later);
  const bool inputs = part != Part::weight, weights = part != Part::input;
  const auto gathered_now = [&](const SlotView& mine, ProductOf product) {
    const SlotView out = gather(rank, s, narrow, mine, d.all_output, Float8::e5m2,
                                largest(product, k, d.largest).dy);
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
  SlotView d_sum = gathered_now(d_mlp, ProductOf::down);
  const SlotView mlp_input =
      gather(rank, s, narrow, normed_again_.in(k), d.all_normed, Float8::e4m3);
  SlotView d_mlp_norm;
  if (mixture_) {
    d_mlp_norm = mixture_backward(rank, s, routed, k, d, d_sum, mlp_input);
  } else {
    mlp_backward(rank, s, p, g, k, d, d_sum, inputs, weights, d_mlp);
    d_mlp_norm = summed_beside([&] {
      weight_gradient(rank, s, "up.wgrad", h, up_, mlp_input, up_matrix_, g, d.up, rows_, d.up,
                      largest(ProductOf::up, k, d.largest));
    });
  }
  // Side by side, attention's output gets d output alone; d residual is what reaches the input
  // past attention, in either case.
  if (inputs)
    norm_backward(rank, s, d_mlp_norm, s_.parallel_blocks ? input : residual_.in(k), mlp_norm_, p,
                  g, d_output, d.residual);
  const SlotView d_added =
      inner(s_.parallel_blocks ? d_output : d.residual, attention_mask_, d.attention);
  if (gathers_twice()) d_sum = gathered_now(d_added, ProductOf::out);
  const SlotView attention_input =
      gather(rank, s, narrow, normed_.in(k), d.all_normed, Float8::e4m3);
  const Range& summed_up = latent_ ? stripped_ : attended_;
  const SlotView d_values =
      latent_ ? SlotView{d.more.slot, d.more.begin, rows_ * values_width()} : d.attended;
  const Largest in_out = largest(ProductOf::out, k, d.largest);
  if (inputs)
    input_gradient(rank, s, "out.dgrad", values_width(), h, out_, p, d_sum, d_values, in_out);
  if (weights)
    weight_gradient(rank, s, "out.wgrad", values_width(), h, summed_up.in(k), out_, g, d_sum, own_,
                    d_added, in_out);
  if (inputs) projection_backward(rank, s, p, g, k, d, attention_input);
  const SlotView d_attention_norm = summed_beside([&] {
    if (!latent_)
      weight_gradient(rank, s, "qkv.wgrad", h, n, attention_input, qkv_, g, d.qkv, rows_, d.qkv,
                      largest(ProductOf::qkv, k, d.largest));
  });
  if (inputs)
    norm_backward(rank, s, d_attention_norm, input, attention_norm_, p, g, d.residual,
                  {dx, 0, own});
}

}  // namespace orrery
