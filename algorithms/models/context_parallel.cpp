#include "algorithms/models/context_parallel.hpp"

namespace orrery {

namespace {

// This rank's place: 0 in a run without values, where nothing depends on it.
std::int32_t place(const Rank& rank) {
  return rank.computes_values() ? static_cast<std::int32_t>(rank.coordinate(Axis::context)) : 0;
}

// What all of them do to packed tensors.
class ContextAttention : public AttentionCore {
 public:
  ContextAttention(const AttentionSizes& sizes, int ranks)
      : AttentionCore(sizes), c_(ranks), kv_(2 * s_.rows() * s_.kv()) {}

 protected:
  // Keys and values of a packed tensor, [2, rows, kv], or back to it.
  void keys_of(Rank& rank, PassProgram& pass, const SlotView& packed, const SlotView& kv,
               bool back = false) const {
    const SlotView part{packed.slot, packed.begin + s_.q(), packed.elements - s_.q()};
    pass.add(
        rank.prepare(Kernel::permute(s_.rows(), 2, s_.kv(), s_.packed(), s_.kv(), s_.dtype, back)),
        {part, kv});
  }
  // Gradients of queries into a packed tensor.
  void pack_queries(Rank& rank, PassProgram& pass, const SlotView& packed,
                    const SlotView& dq) const {
    pass.add(
        rank.prepare(Kernel::permute(s_.rows(), 1, s_.q(), s_.packed(), s_.q(), s_.dtype, true)),
        {packed, dq});
  }
  static SlotView half(const SlotView& kv, int which) {
    return {kv.slot, kv.begin + which * kv.elements / 2, kv.elements / 2};
  }
  static SlotView part(const SlotView& view, std::int64_t begin, std::int64_t elements) {
    return {view.slot, view.begin + begin, elements};
  }
  Prepared attention(Rank& rank, AttentionPart which, const SequencePart& where = {}) const {
    return rank.prepare(Kernel::attention(s_.batch, s_.heads, s_.kv_heads, s_.length, s_.head_size,
                                          which, s_.dtype, where));
  }
  Prepared attention_backward(Rank& rank, AttentionPart which,
                              const SequencePart& where = {}) const {
    return rank.prepare(Kernel::attention_backward(s_.batch, s_.heads, s_.kv_heads, s_.length,
                                                   s_.head_size, which, s_.dtype, where));
  }

  int c_;
  std::int64_t kv_;  // elements of keys and values of one rank
};

class RingAttention : public ContextAttention {
 public:
  using ContextAttention::ContextAttention;

  void open(Rank& rank) override {
    index_ = place(rank);
    const auto lines = [&rank](const std::string& lane, Line& send, Line& receive) {
      Channel* edge = &rank.edge(Axis::context, +1, lane);
      send = {edge, &rank.stream("context." + lane + ".out")};
      receive = {edge, &rank.stream("context." + lane + ".in")};
    };
    lines("keys", keys_out_, keys_in_);
    lines("key gradients", gradients_out_, gradients_in_);
  }
  // Two buffers of keys and values, an output and its statistics.
  std::int64_t forward_workspace() const override {
    return 2 * kv_ + s_.rows() * s_.q() + s_.statistics();
  }
  // Two buffers of keys and values; their gradients: own, of this step, of the step before,
  // arriving; the gradients of queries: sum, of this step.
  std::int64_t backward_workspace() const override { return 6 * kv_ + 2 * s_.rows() * s_.q(); }

  void forward(Rank& rank, PassProgram& pass, const Forward& v) const override {
    const SlotView kv[2]{part(v.workspace, 0, kv_), part(v.workspace, kv_, kv_)};
    const SlotView out = part(v.workspace, 2 * kv_, s_.rows() * s_.q());
    const SlotView statistics = part(v.workspace, 2 * kv_ + out.elements, s_.statistics());
    keys_of(rank, pass, v.qkv, kv[0]);
    pass.shift(keys_out_, keys_in_, kv[0], kv[1]);
    pass.add(attention(rank, AttentionPart::causal), {v.qkv, {}, {}, v.out, v.kept});
    for (int step = 1; step < c_; ++step) {
      const SlotView &here = kv[step % 2], &there = kv[(step + 1) % 2];
      wait_for_keys(pass);
      if (step + 1 < c_) pass.shift(keys_out_, keys_in_, here, there);
      pass.add(attention(rank, which(step)),
               {v.qkv, half(here, 0), half(here, 1), out, statistics});
      pass.add(rank.prepare(Kernel::attention_merge(s_.batch, s_.heads, s_.length, s_.head_size,
                                                    which(step), s_.dtype)),
               {v.out, v.kept, out, statistics});
    }
  }

  void backward(Rank& rank, PassProgram& pass, const Backward& v) const override {
    const auto buffer = [&v, this](int number) { return part(v.workspace, number * kv_, kv_); };
    const SlotView kv[2]{buffer(0), buffer(1)}, own = buffer(2), arriving = buffer(5);
    const std::int64_t q = s_.rows() * s_.q();
    const SlotView dq = part(v.workspace, 6 * kv_, q), more_dq = part(v.workspace, 6 * kv_ + q, q);
    const Prepared add_keys = rank.prepare(Kernel::linear_combination(kv_, 1, 1, s_.dtype));
    const Prepared add_queries = rank.prepare(Kernel::linear_combination(q, 1, 1, s_.dtype));
    const auto attend = [&](AttentionPart which, const SlotView& keys, const SlotView& to_queries,
                            const SlotView& to_keys) {
      pass.add(attention_backward(rank, which),
               {v.d_out, v.qkv, half(keys, 0), half(keys, 1), v.out, v.kept, to_queries,
                half(to_keys, 0), half(to_keys, 1)});
    };
    keys_of(rank, pass, v.qkv, kv[0]);
    pass.shift(keys_out_, keys_in_, kv[0], kv[1]);
    attend(AttentionPart::causal, kv[0], dq, own);
    for (int step = 1; step < c_; ++step) {
      const SlotView &here = kv[step % 2], &there = kv[(step + 1) % 2];
      wait_for_keys(pass);
      if (step + 1 < c_) pass.shift(keys_out_, keys_in_, here, there);
      const SlotView fresh = buffer(3 + step % 2);
      attend(which(step), here, more_dq, fresh);
      pass.add(add_queries, {more_dq, dq});
      if (step > 1) {  // the gradients of these keys by the ranks before this one
        wait_for_gradients(pass);
        pass.add(add_keys, {arriving, fresh});
      }
      pass.shift(gradients_out_, gradients_in_, fresh, arriving);
    }
    wait_for_gradients(pass);
    pass.add(add_keys, {arriving, own});
    keys_of(rank, pass, v.d_qkv, own, true);
    pack_queries(rank, pass, v.d_qkv, dq);
  }

 private:
  // At step i a rank has the keys of the rank i before it: earlier ones or, around the end, later.
  // In the parts i and 2c - 1 - i the former are half seen by all queries, the latter whole by half
  // of the queries. Equal work, so that without values all ranks may pass for the first.
  AttentionPart which(int step) const {
    return step <= index_ ? AttentionPart::early_keys : AttentionPart::late_queries;
  }
  void wait_for_keys(PassProgram& pass) const {
    pass.wait(keys_out_);
    pass.wait(keys_in_);
  }
  void wait_for_gradients(PassProgram& pass) const {
    pass.wait(gradients_out_);
    pass.wait(gradients_in_);
  }

  std::int32_t index_ = 0;
  Line keys_out_, keys_in_, gradients_out_, gradients_in_;
};

class UlyssesAttention : public ContextAttention {
 public:
  using ContextAttention::ContextAttention;

  void open(Rank& rank) override {
    line_ = {&rank.channel(Axis::context, "activations"), &rank.stream("context")};
  }
  // Queries, keys and values of whole sequences, their output and statistics.
  std::int64_t kept() const override {
    return s_.rows() * (s_.packed() + s_.q()) + s_.statistics();
  }
  std::int64_t forward_workspace() const override { return 2 * s_.rows() * s_.q(); }
  std::int64_t backward_workspace() const override {
    return s_.rows() * (2 * s_.q() + s_.q() + s_.packed());
  }
  bool needs_qkv_again() const override { return false; }

  void forward(Rank& rank, PassProgram& pass, const Forward& v) const override {
    const Whole whole = whole_of(v.kept, 0);
    const SlotView out = part(v.kept, s_.rows() * s_.packed(), s_.rows() * s_.q());
    to_heads(rank, pass, {v.qkv, 0, s_.packed(), s_.q()}, whole.q, v.workspace);
    to_heads(rank, pass, {v.qkv, s_.q(), s_.packed(), s_.kv()}, whole.k, v.workspace);
    to_heads(rank, pass, {v.qkv, s_.q() + s_.kv(), s_.packed(), s_.kv()}, whole.v, v.workspace);
    pass.add(rank.prepare(Kernel::attention(s_.batch, s_.heads / c_, s_.kv_heads / c_,
                                            s_.length * c_, s_.head_size, s_.causal, s_.dtype)),
             {whole.q, whole.k, whole.v, out, statistics(v.kept)});
    to_tokens(rank, pass, out, {v.out, 0, s_.q(), s_.q()}, v.workspace);
  }

  void backward(Rank& rank, PassProgram& pass, const Backward& v) const override {
    const Whole whole = whole_of(v.kept, 0);
    const std::int64_t q = s_.rows() * s_.q();
    const SlotView out = part(v.kept, s_.rows() * s_.packed(), q);
    const SlotView d_out = part(v.workspace, 2 * q, q);
    const Whole d_whole = whole_of(v.workspace, 3 * q);
    to_heads(rank, pass, {v.d_out, 0, s_.q(), s_.q()}, d_out, v.workspace);
    pass.add(
        rank.prepare(Kernel::attention_backward(s_.batch, s_.heads / c_, s_.kv_heads / c_,
                                                s_.length * c_, s_.head_size, s_.causal, s_.dtype)),
        {d_out, whole.q, whole.k, whole.v, out, statistics(v.kept), d_whole.q, d_whole.k,
         d_whole.v});
    to_tokens(rank, pass, d_whole.q, {v.d_qkv, 0, s_.packed(), s_.q()}, v.workspace);
    to_tokens(rank, pass, d_whole.k, {v.d_qkv, s_.q(), s_.packed(), s_.kv()}, v.workspace);
    to_tokens(rank, pass, d_whole.v, {v.d_qkv, s_.q() + s_.kv(), s_.packed(), s_.kv()},
              v.workspace);
  }

 private:
  struct Whole {
    SlotView q, k, v;
  };
  // `width` columns from `first` on of a matrix whose rows are `stride` elements apart.
  struct Columns {
    SlotView matrix;
    std::int64_t first, stride, width;
    SlotView view() const { return {matrix.slot, matrix.begin + first, matrix.elements - first}; }
  };
  Whole whole_of(const SlotView& view, std::int64_t begin) const {
    const std::int64_t q = s_.rows() * s_.q(), kv = s_.rows() * s_.kv();
    return {part(view, begin, q), part(view, begin + q, kv), part(view, begin + q + kv, kv)};
  }
  SlotView statistics(const SlotView& kept) const {
    return part(kept, kept.elements - s_.statistics(), s_.statistics());
  }
  Prepared columns(Rank& rank, const Columns& c, bool back) const {
    return rank.prepare(
        Kernel::permute(s_.rows(), c_, c.width / c_, c.stride, c.width / c_, s_.dtype, back));
  }
  Prepared order(Rank& rank, std::int64_t width, bool back) const {
    return rank.prepare(
        Kernel::reorder(s_.batch, s_.length, width / c_, s_.dtype, {0, c_, false}, back));
  }
  // This rank's tokens of all heads against all tokens of its heads, and back.
  void to_heads(Rank& rank, PassProgram& pass, const Columns& from, const SlotView& to,
                const SlotView& workspace) const {
    const std::int64_t n = s_.rows() * from.width;
    const SlotView sent = part(workspace, 0, n), received = part(workspace, n, n);
    pass.add(columns(rank, from, false), {from.view(), sent});
    pass.all_to_all(line_, received, sent);
    pass.wait();
    pass.add(order(rank, from.width, false), {received, to});
  }
  void to_tokens(Rank& rank, PassProgram& pass, const SlotView& from, const Columns& to,
                 const SlotView& workspace) const {
    const std::int64_t n = s_.rows() * to.width;
    const SlotView sent = part(workspace, 0, n), received = part(workspace, n, n);
    pass.add(order(rank, to.width, true), {from, sent});
    pass.all_to_all(line_, received, sent);
    pass.wait();
    pass.add(columns(rank, to, true), {to.view(), received});
  }

  Line line_;
};

class GatheredAttention : public ContextAttention {
 public:
  using ContextAttention::ContextAttention;

  void open(Rank& rank) override {
    where_ = {place(rank), c_, true};
    line_ = {&rank.channel(Axis::context, "activations"), &rank.stream("context")};
  }
  // Own keys and values; those of all, as they come and in order.
  std::int64_t forward_workspace() const override { return (1 + 2 * c_) * kv_; }
  // Likewise their gradients; those of queries.
  std::int64_t backward_workspace() const override {
    return (2 + 4 * c_) * kv_ + s_.rows() * s_.q();
  }

  void forward(Rank& rank, PassProgram& pass, const Forward& v) const override {
    const SlotView all = gather(rank, pass, v.qkv, v.workspace);
    pass.add(attention(rank, AttentionPart::prefix, where_),
             {v.qkv, half(all, 0), half(all, 1), v.out, v.kept});
  }
  void backward(Rank& rank, PassProgram& pass, const Backward& v) const override {
    const SlotView all = gather(rank, pass, v.qkv, v.workspace);
    const SlotView gradients = part(v.workspace, forward_workspace(), forward_workspace());
    const SlotView own = part(gradients, 0, kv_), by_rank = part(gradients, kv_, c_ * kv_),
                   in_order = part(gradients, (1 + c_) * kv_, c_ * kv_);
    const SlotView dq = part(v.workspace, 2 * forward_workspace(), s_.rows() * s_.q());
    pass.add(attention_backward(rank, AttentionPart::prefix, where_),
             {v.d_out, v.qkv, half(all, 0), half(all, 1), v.out, v.kept, dq, half(in_order, 0),
              half(in_order, 1)});
    pass.add(order(rank, true), {in_order, by_rank});
    pass.reduce_scatter(line_, own, by_rank);
    pack_queries(rank, pass, v.d_qkv, dq);
    pass.wait();
    keys_of(rank, pass, v.d_qkv, own, true);
  }

 private:
  // Keys, then values, of whole sequences.
  SlotView gather(Rank& rank, PassProgram& pass, const SlotView& qkv,
                  const SlotView& workspace) const {
    const SlotView own = part(workspace, 0, kv_), by_rank = part(workspace, kv_, c_ * kv_),
                   in_order = part(workspace, (1 + c_) * kv_, c_ * kv_);
    keys_of(rank, pass, qkv, own);
    pass.all_gather(line_, by_rank, own);
    pass.wait();
    pass.add(order(rank, false), {by_rank, in_order});
    return in_order;
  }
  Prepared order(Rank& rank, bool back) const {
    return rank.prepare(
        Kernel::reorder(2 * s_.batch, s_.length, s_.kv(), s_.dtype, {0, c_, true}, back));
  }

  SequencePart where_;
  Line line_;
};

}  // namespace

std::unique_ptr<AttentionCore> make_ring_attention(const AttentionSizes& sizes, int ranks) {
  return std::make_unique<RingAttention>(sizes, ranks);
}
std::unique_ptr<AttentionCore> make_ulysses_attention(const AttentionSizes& sizes, int ranks) {
  return std::make_unique<UlyssesAttention>(sizes, ranks);
}
std::unique_ptr<AttentionCore> make_gathered_attention(const AttentionSizes& sizes, int ranks) {
  return std::make_unique<GatheredAttention>(sizes, ranks);
}

}  // namespace orrery
