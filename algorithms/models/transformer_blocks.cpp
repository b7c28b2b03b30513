#include "algorithms/models/transformer_blocks.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace orrery {

std::string transformer_key(const char* what, const TransformerShape& s) {
  std::string key = fmt::format(
      "transformer.{} {}x{} h{} a{}/{}x{} f{} v{} {}{}{}{}{}{}{}{} {} {} {} {} {}", what,
      s.micro_batch, s.sequence, s.hidden, s.heads, s.kv_heads, s.head_size, s.ffn, s.vocabulary,
      s.gated ? "g" : "", s.rotary ? "r" : "", s.norm_bias ? "n" : "", s.qkv_bias ? "q" : "",
      s.output_bias ? "o" : "", s.mlp_bias ? "m" : "", s.causal ? "c" : "",
      s.parallel_blocks ? "p" : "", s.micro_batches, static_cast<int>(s.activation), s.rope_theta,
      s.norm_epsilon, name(s.dtype));
  if (s.products != Products::as_stored)
    key += fmt::format(" products {}", static_cast<int>(s.products));
  if (s.stored_attention || s.recompute_attention || s.dropout)
    key += fmt::format(" {}{}{}", s.stored_attention ? "S" : "", s.recompute_attention ? "R" : "",
                       s.dropout ? "D" : "");
  if (s.writes_gradients) key += " W";
  if (s.recompute_every_second) key += s.keeps_unread ? " 2u" : " 2";
  if (s.loss != LossMemory::in_place) key += fmt::format(" loss {}", static_cast<int>(s.loss));
  if (s.returns_logits) key += " returned";
  if (s.qk_norm) key += " qk";
  if (s.latent()) key += fmt::format(" l{}/{} {}/{}", s.q_rank, s.kv_rank, s.rope_head, s.v_head);
  if (s.mu()) key += fmt::format(" mu {}", s.base_width);
  if (s.tensor > 1)
    key +=
        fmt::format(" t{}{}{}", s.tensor, s.sequence_parallel ? "s" : "", s.gathers_fp8 ? "8" : "");
  if (s.experts > 0)
    key += fmt::format(" e{}/{}x{}+{} {} {} {}", s.experts_per_token, s.experts, s.expert_ffn,
                       s.shared_ffn, static_cast<int>(s.router), s.capacity, s.expert);
  if (s.balance_rate > 0) key += " balanced";
  if (s.context > 1)
    key += fmt::format(" c{} {}", s.context, static_cast<int>(s.context_algorithm));
  return key;
}

Range TransformerBlock::add_norm(const std::string& name) {
  const Range range{parameter_elements(), s_.hidden, s_.norm_bias ? s_.hidden : 0};
  const RateFactors rates = input_rates(s_.width());
  parameters_.push_back({name + ".gain", s_.hidden, 0, 1, false, 0, {}, rates});
  if (s_.norm_bias) parameters_.push_back({name + ".bias", s_.hidden, 0, 0, false, 0, {}, rates});
  whole_.push_back({range.begin, range.elements + range.bias, 0});
  return range;
}

Range TransformerBlock::by_columns(const std::string& name, std::vector<Division::Columns> columns,
                                   bool bias) {
  std::int64_t width = 0;
  for (const Division::Columns& c : columns) width += c.count;
  const Range range{parameter_elements(), s_.hidden * width, bias ? width : 0};
  Division division;
  if (!tensor_.alone()) division = {Axis::tensor, s_.hidden, s_.tensor * width, columns};
  parameters_.push_back({name + ".weight", range.elements, 0.02 / std::sqrt(s_.width()), 0, true,
                         width, division, hidden_rates(s_.width()), s_.writes_gradients, true});
  if (!bias) return range;
  if (!tensor_.alone()) division.rows = 1;
  parameters_.push_back({name + ".bias", width, 0, 0, false, 0, division, input_rates(s_.width())});
  return range;
}
Range TransformerBlock::by_rows(const std::string& name, std::int64_t rows, double deviation,
                                bool bias) {
  const Range range{parameter_elements(), rows * s_.hidden, bias ? s_.hidden : 0};
  Division division;
  if (!tensor_.alone()) division = {Axis::tensor, rows, s_.hidden, {}};
  parameters_.push_back({name + ".weight", range.elements, deviation / std::sqrt(s_.width()), 0,
                         true, s_.hidden, division, hidden_rates(s_.width()), s_.writes_gradients,
                         true});
  if (!bias) return range;
  parameters_.push_back({name + ".bias", s_.hidden, 0, 0, false, 0, {}, input_rates(s_.width())});
  whole_.push_back({range.begin + range.elements, s_.hidden, 0});
  return range;
}

void TransformerBlock::prepare_groups(Rank& rank, const std::string& key) {
  for (const auto& [axis, size, what] :
       {std::tuple{Axis::context, s_.context, "a sequence"}, {Axis::expert, s_.expert, "experts"}})
    if (rank.size(axis) != size)
      throw Error(Category::config, fmt::format("{} divided over {} ranks, on a {} axis of {}",
                                                what, size, orrery::name(axis), rank.size(axis)));
  part_ = s_.part(s_.context > 1 && rank.computes_values() ? rank.coordinate(Axis::context) : 0);
  tensor_.open(rank, partial_gradients_);
  if (!partial_gradients_) return;
  std::sort(whole_.begin(), whole_.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  const int g = complete_.tensor("gradients");
  for (std::size_t i = 0; i < whole_.size();) {
    Range run = whole_[i];
    for (++i; i < whole_.size() && whole_[i].begin == run.begin + run.elements; ++i)
      run.elements += whole_[i].elements;
    complete_.all_reduce(tensor_.gradients(), run.in(g));
  }
  complete_.wait();
  complete_.build(rank, key + ".complete");
}

void TransformerBlock::build_passes(Rank& rank, const std::string& key) {
  build_forward(rank, forward_);
  build_backward(rank, backward_, Part::both);
  forward_.build(rank, key + ".forward");
  backward_.build(rank, key + ".backward");
  forward_flops_ = forward_.matrix_flops();
  backward_flops_ = backward_.matrix_flops();
  if (!splits()) return;
  build_backward(rank, backward_input_, Part::input);
  build_backward(rank, backward_weight_, Part::weight);
  backward_input_.build(rank, key + ".backward_input");
  backward_weight_.build(rank, key + ".backward_weight");
  weight_flops_ = backward_weight_.matrix_flops();
}

void TransformerBlock::norm(Rank& rank, PassProgram& s, const SlotView& x, const Range& range,
                            int p, const SlotView& y) const {
  s.add(rank.prepare(Kernel::norm(own_, s_.hidden, s_.norm(), s_.norm_epsilon, s_.dtype)),
        {x, range.in(p), range.bias_in(p), y});
}

void TransformerBlock::norm_backward(Rank& rank, PassProgram& s, const SlotView& dy,
                                     const SlotView& x, const Range& range, int p, int g,
                                     const SlotView& skip, const SlotView& dx) const {
  s.add(rank.prepare(Kernel::norm_backward(own_, s_.hidden, s_.norm(), s_.norm_epsilon,
                                           skip.slot >= 0, s_.dtype)),
        {dy, x, range.in(p), skip, range.in(g), range.bias_in(g), dx});
}

}  // namespace orrery
