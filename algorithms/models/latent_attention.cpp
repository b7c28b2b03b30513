#include "algorithms/models/latent_attention.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "algorithms/models/every_second.hpp"
#include "algorithms/models/layer_kernels.hpp"

namespace orrery {

namespace {
SlotView within(const SlotView& view, std::int64_t begin, std::int64_t elements) {
  return {view.slot, view.begin + begin, elements};
}
}  // namespace

LatentAttention::LatentAttention(const TransformerShape& s, std::vector<ParameterSpec>& parameters)
    : s_(s),
      rows_(s.tokens()),
      heads_(s.heads / s.tensor),
      size_(s.head_size),
      rope_(s.rope_head),
      v_(s.v_head),
      q_rank_(s.q_rank),
      kv_rank_(s.kv_rank) {
  std::int64_t end = 0;
  for (const ParameterSpec& spec : parameters) end += spec.elements;
  const auto add = [&](const char* name, std::int64_t rows, std::int64_t columns, bool by_heads) {
    const Range range{end, rows * columns};
    ParameterSpec spec{name, range.elements, 0.02, 0, true, columns};
    spec.rates = hidden_rates(1);
    spec.written = s.writes_gradients;
    spec.product = true;
    if (by_heads && s.tensor > 1)
      spec.division = {Axis::tensor, rows, s.tensor * columns, {{0, columns}}};
    if (!by_heads) partial_.push_back(range);
    parameters.push_back(spec);
    end += range.elements;
    return range;
  };
  const auto add_gain = [&](const char* name, std::int64_t size) {
    const Range range{end, size};
    parameters.push_back({name, size, 0, 1, false, 0, {}, input_rates(1)});
    partial_.push_back(range);
    end += size;
    return range;
  };
  if (q_rank_ > 0) {
    q_down_ = add("query_down.weight", s.hidden, q_rank_, false);
    q_gain_ = add_gain("query_norm.gain", q_rank_);
  }
  q_up_ = add("query_up.weight", q_rank_ > 0 ? q_rank_ : s.hidden, q(), true);
  kv_down_ = add("key_value_down.weight", s.hidden, kv_rank_ + rope_, false);
  kv_gain_ = add_gain("key_value_norm.gain", kv_rank_);
  kv_up_ = add("key_value_up.weight", kv_rank_, up(), true);
}

// Queries | latent vector and shared key | that key alone | keys and values | parts of heads.
std::int64_t LatentAttention::forward_workspace() const {
  return rows_ * (q() + kv_rank_ + rope_ + rope_ + up() + heads_ * std::max(size_, v_));
}
// The gradients of the same, and of the two latent vectors before and behind their norms.
std::int64_t LatentAttention::backward_workspace() const {
  return forward_workspace() + rows_ * 2 * std::max(q_rank_, kv_rank_);
}

void LatentAttention::copy_heads(Rank& rank, PassProgram& pass, const Heads& h,
                                 const SlotView& wide, const SlotView& narrow, bool back) const {
  const std::int64_t span = (heads_ - 1) * h.head + (rows_ - 1) * h.stride + h.size;
  pass.add(rank.prepare(Kernel::permute(heads_, rows_, h.size, h.head, h.stride, s_.dtype, back)),
           {within(wide, h.first, span), within(narrow, 0, rows_ * heads_ * h.size)});
}

void LatentAttention::move_heads(Rank& rank, PassProgram& pass, const Heads& from,
                                 const SlotView& source, const Heads& to, const SlotView& target,
                                 const SlotView& between) const {
  copy_heads(rank, pass, from, source, between, false);
  copy_heads(rank, pass, to, target, between, true);
}

void LatentAttention::rotate(Rank& rank, PassProgram& pass, const SequencePart& part,
                             const SlotView& x, int heads, bool inverse) const {
  pass.add(rank.prepare(Kernel::rotary(s_.micro_batch, s_.length(), heads, heads, rope_,
                                       s_.rope_theta, s_.dtype, inverse, part)),
           {within(x, 0, rows_ * heads * rope_)});
}

void LatentAttention::fill(Rank& rank, PassProgram& pass, const SlotView& x) const {
  pass.add(rank.prepare(Kernel::fill(x.elements, 0, s_.dtype)), {x});
}

void LatentAttention::product(Rank& rank, PassProgram& pass, const char* label,
                              std::int64_t outputs, std::int64_t depth, const SlotView& x,
                              const Range& matrix, int parameters, const SlotView& y) const {
  orrery::product(rank, pass, s_, rows_, label, outputs, depth, x, matrix.in(parameters), y);
}

// Of Y = X A: adds X^T d Y to the gradient of A; d X = d Y A^T, or adds it.
void LatentAttention::gradients_of(Rank& rank, PassProgram& pass, const char* label,
                                   const char* of_input, std::int64_t inputs, std::int64_t outputs,
                                   const SlotView& x, const Range& matrix, int parameters,
                                   int gradients, const SlotView& dy, const SlotView& dx,
                                   bool adds) const {
  const ProductSizes sizes{rows_, inputs, outputs, s_.dtype, s_.products};
  cast_operand(rank, pass, s_, dy);
  input_gradient(rank, pass, of_input, sizes, matrix.in(parameters), dy, dx, adds);
  weight_gradient(rank, pass, label, sizes, x, matrix, gradients, dy, rows_, dy,
                  s_.writes_gradients);
}

void LatentAttention::norm(Rank& rank, PassProgram& pass, std::int64_t size, const SlotView& x,
                           const Range& gain, int parameters, const SlotView& y) const {
  pass.add(rank.prepare(Kernel::norm(rows_, size, Norm::rms, s_.norm_epsilon, s_.dtype)),
           {x, gain.in(parameters), {}, y});
}

void LatentAttention::norm_backward(Rank& rank, PassProgram& pass, std::int64_t size,
                                    const SlotView& dy, const SlotView& x, const Range& gain,
                                    int parameters, int gradients, const SlotView& dx) const {
  pass.add(
      rank.prepare(Kernel::norm_backward(rows_, size, Norm::rms, s_.norm_epsilon, false, s_.dtype)),
      {dy, x, gain.in(parameters), {}, gain.in(gradients), {}, dx});
}

namespace {

// Parts of a workspace, one behind the other.
class Parts {
 public:
  explicit Parts(const SlotView& all) : all_(all) {}
  SlotView next(std::int64_t elements) {
    const SlotView part = within(all_, at_, elements);
    at_ += elements;
    return part;
  }

 private:
  SlotView all_;
  std::int64_t at_ = 0;
};

}  // namespace

LatentAttention::Places LatentAttention::places(const SlotView& all_kept,
                                                const SlotView& workspace) const {
  const std::int64_t n = rows_;
  Parts kept(all_kept), work(workspace);
  const std::int64_t latent = n * std::max(q_rank_, kv_rank_);
  return {.q_before = kept.next(n * q_rank_),
          .q_normed = kept.next(n * q_rank_),
          .before = kept.next(n * kv_rank_),
          .normed = kept.next(n * kv_rank_),
          .queries = work.next(n * q()),
          .down = work.next(n * (kv_rank_ + rope_)),
          .shared = work.next(n * rope_),
          .both = work.next(n * up()),
          .between = work.next(n * heads_ * std::max(size_, v_)),
          .latent = work.next(latent),
          .latent_before = work.next(latent)};
}

void LatentAttention::forward(Rank& rank, PassProgram& pass, const SequencePart& part, int p,
                              const Forward& v) const {
  const std::int64_t n = rows_, h = s_.hidden, d = size_, r = rope_;
  const auto& [q_before, q_normed, before, normed, queries, down, shared, both, between, latent,
               latent_before] = places(v.kept, v.workspace);
  if (q_rank_ > 0) {
    product(rank, pass, "query_down", q_rank_, h, v.x, q_down_, p, q_before);
    norm(rank, pass, q_rank_, q_before, q_gain_, p, q_normed);
    product(rank, pass, "query_up", q(), q_rank_, q_normed, q_up_, p, queries);
  } else {
    product(rank, pass, "query_up", q(), h, v.x, q_up_, p, queries);
  }
  product(rank, pass, "key_value_down", kv_rank_ + r, h, v.x, kv_down_, p, down);
  copy_columns(rank, pass, {n, kv_rank_, 0, kv_rank_ + r}, s_.dtype, down, before);
  copy_columns(rank, pass, {n, r, kv_rank_, kv_rank_ + r}, s_.dtype, down, shared);
  norm(rank, pass, kv_rank_, before, kv_gain_, p, normed);
  product(rank, pass, "key_value_up", up(), kv_rank_, normed, kv_up_, p, both);

  if (v_ < d) fill(rank, pass, v.qkv);
  copy_heads(rank, pass, turned(), queries, between, false);
  rotate(rank, pass, part, between, static_cast<int>(heads_), false);
  copy_columns(rank, pass, {n, q(), 0, 3 * q()}, s_.dtype, v.qkv, queries, true);
  copy_heads(rank, pass, packed(d - r, r), v.qkv, between, true);
  rotate(rank, pass, part, shared, 1, false);
  copy_heads(rank, pass, {0, r, 0, r}, shared, between, false);  // the same for every head
  copy_heads(rank, pass, packed(q() + d - r, r), v.qkv, between, true);
  move_heads(rank, pass, keys_up(), both, packed(q(), d - r), v.qkv, between);
  move_heads(rank, pass, values_up(), both, packed(2 * q(), v_), v.qkv, between);
}

void LatentAttention::backward(Rank& rank, PassProgram& pass, const SequencePart& part, int p,
                               int g, const Backward& v) const {
  const std::int64_t n = rows_, h = s_.hidden, d = size_, r = rope_;
  const auto& [q_before, q_normed, before, normed, queries, down, shared, both, between, latent,
               latent_before] = places(v.kept, v.workspace);

  copy_columns(rank, pass, {n, q(), 0, 3 * q()}, s_.dtype, v.d_qkv, queries);
  copy_heads(rank, pass, turned(), queries, between, false);
  rotate(rank, pass, part, between, static_cast<int>(heads_), true);
  copy_heads(rank, pass, turned(), queries, between, true);
  if (q_rank_ > 0) {
    const SlotView dy = within(latent, 0, n * q_rank_), dx = within(latent_before, 0, n * q_rank_);
    gradients_of(rank, pass, "query_up.wgrad", "query_up.dgrad", q_rank_, q(), q_normed, q_up_, p,
                 g, queries, dy);
    norm_backward(rank, pass, q_rank_, dy, q_before, q_gain_, p, g, dx);
    gradients_of(rank, pass, "query_down.wgrad", "query_down.dgrad", h, q_rank_, v.x, q_down_, p, g,
                 dx, v.d_x);
  } else {
    gradients_of(rank, pass, "query_up.wgrad", "query_up.dgrad", h, q(), v.x, q_up_, p, g, queries,
                 v.d_x);
  }

  move_heads(rank, pass, packed(q(), d - r), v.d_qkv, keys_up(), both, between);
  move_heads(rank, pass, packed(2 * q(), v_), v.d_qkv, values_up(), both, between);
  // Of the shared key: the sum over heads, head by head.
  const SlotView by_heads = within(between, 0, heads_ * n * r);
  pass.add(rank.prepare(Kernel::permute(n, heads_, r, 3 * q(), d, s_.dtype)),
           {within(v.d_qkv, q() + d - r, (n - 1) * 3 * q() + (heads_ - 1) * d + r), by_heads});
  fill(rank, pass, shared);
  pass.add(rank.prepare(Kernel::column_sum(heads_, n * r, s_.dtype)), {by_heads, shared});
  rotate(rank, pass, part, shared, 1, true);
  const SlotView dy = within(latent, 0, n * kv_rank_), dx = within(latent_before, 0, n * kv_rank_);
  gradients_of(rank, pass, "key_value_up.wgrad", "key_value_up.dgrad", kv_rank_, up(), normed,
               kv_up_, p, g, both, dy);
  norm_backward(rank, pass, kv_rank_, dy, before, kv_gain_, p, g, dx);
  copy_columns(rank, pass, {n, kv_rank_, 0, kv_rank_ + r}, s_.dtype, down, dx, true);
  copy_columns(rank, pass, {n, r, kv_rank_, kv_rank_ + r}, s_.dtype, down, shared, true);
  gradients_of(rank, pass, "key_value_down.wgrad", "key_value_down.dgrad", h, kv_rank_ + r, v.x,
               kv_down_, p, g, down, v.d_x, true);
}

void LatentAttention::strip(Rank& rank, PassProgram& pass, const SlotView& padded,
                            const SlotView& values) const {
  copy_heads(rank, pass, {0, v_, size_, q()}, padded, values, false);
}
void LatentAttention::pad(Rank& rank, PassProgram& pass, const SlotView& values,
                          const SlotView& padded) const {
  if (v_ < size_) fill(rank, pass, padded);
  copy_heads(rank, pass, {0, v_, size_, q()}, padded, values, true);
}

}  // namespace orrery
