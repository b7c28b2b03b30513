// Attention that stores its scores, as before flash attention, and attention that runs again.
#include <algorithm>

#include "algorithms/models/attention_core.hpp"

namespace orrery {

namespace {

// S = Q K^T, P = softmax(S), D = dropout(P), O = D V, each a kernel of its own. Kept, of s^2
// elements per head: P, and with dropout D and its mask of bytes (Korthikanti et al. 2022, arXiv
// 2205.05198, section 4.1). A timing model: its kernels have no values.
class StoredAttention : public AttentionCore {
 public:
  StoredAttention(const AttentionSizes& sizes, bool dropout)
      : AttentionCore(sizes),
        scores_(sizes.batch * sizes.heads * sizes.length * sizes.length),
        mask_(dropout ? scores_ / size_of(sizes.dtype) : 0) {}

  std::int64_t kept() const override { return scores_ + (mask_ > 0 ? scores_ + mask_ : 0); }
  std::int64_t backward_workspace() const override { return scores_; }

  void forward(Rank& rank, PassProgram& pass, const Forward& v) const override {
    const SlotView p = part(v.kept, 0, scores_), d = dropped(v.kept);
    pass.add(product(rank, "scores", s_.length, s_.head_size, s_.q() + s_.kv(), scores_,
                     {Role::read, Role::write}),
             {v.qkv, p});
    pass.add(rank.prepare(Kernel::streaming("softmax", scores_, scores_, s_.dtype, {Role::update})),
             {p});
    if (mask_ > 0)
      pass.add(rank.prepare(Kernel::streaming("dropout", scores_, scores_ + mask_, s_.dtype,
                                              {Role::read, Role::write, Role::write})),
               {p, d, mask(v.kept)});
    pass.add(product(rank, "attend", s_.head_size, s_.length, s_.kv(), s_.q(),
                     {Role::read, Role::read, Role::write}, scores_),
             {d, v.qkv, v.out});
  }

  void backward(Rank& rank, PassProgram& pass, const Backward& v) const override {
    const SlotView p = part(v.kept, 0, scores_), ds = part(v.workspace, 0, scores_);
    pass.add(product(rank, "attend.d_values", s_.head_size, s_.length, s_.q(), s_.kv(),
                     {Role::read, Role::read, Role::write}, scores_),
             {dropped(v.kept), v.d_out, v.d_qkv});
    pass.add(product(rank, "attend.d_scores", s_.length, s_.head_size, s_.q() + s_.kv(), scores_,
                     {Role::read, Role::read, Role::write}),
             {v.d_out, v.qkv, ds});
    if (mask_ > 0)
      pass.add(rank.prepare(Kernel::streaming("dropout.backward", scores_ + mask_, scores_,
                                              s_.dtype, {Role::update, Role::read})),
               {ds, mask(v.kept)});
    pass.add(rank.prepare(Kernel::streaming("softmax.backward", 2 * scores_, scores_, s_.dtype,
                                            {Role::update, Role::read})),
             {ds, p});
    for (const char* label : {"scores.d_queries", "scores.d_keys"})
      pass.add(product(rank, label, s_.head_size, s_.length, s_.kv(), s_.q(),
                       {Role::read, Role::read, Role::update}, scores_),
               {ds, v.qkv, v.d_qkv});
  }

 private:
  // A product for every head and query: `scores` beside `read` other elements are read.
  Prepared product(Rank& rank, const char* label, std::int64_t columns, std::int64_t depth,
                   std::int64_t read, std::int64_t written, std::initializer_list<Role> roles,
                   std::int64_t scores = 0) const {
    return rank.prepare(Kernel::implicit_gemm(label, s_.batch * s_.heads * s_.length, columns,
                                              depth, read * s_.rows() + scores,
                                              written == scores_ ? written : written * s_.rows(),
                                              s_.dtype, roles));
  }
  static SlotView part(const SlotView& view, std::int64_t begin, std::int64_t elements) {
    return {view.slot, view.begin + begin, elements};
  }
  SlotView dropped(const SlotView& kept) const {
    return part(kept, mask_ > 0 ? scores_ : 0, scores_);
  }
  SlotView mask(const SlotView& kept) const { return part(kept, 2 * scores_, mask_); }

  std::int64_t scores_, mask_;  // elements
};

// Selective recomputation (Korthikanti et al. 2022, section 5): what the core keeps is computed
// again in the backward, from q k v.
class RecomputedAttention : public AttentionCore {
 public:
  RecomputedAttention(const AttentionSizes& sizes, std::unique_ptr<AttentionCore> core)
      : AttentionCore(sizes), core_(std::move(core)) {}

  void open(Rank& rank) override { core_->open(rank); }
  std::int64_t kept() const override { return 0; }
  std::int64_t forward_workspace() const override {
    return core_->kept() + core_->forward_workspace();
  }
  std::int64_t backward_workspace() const override {
    return core_->kept() + std::max(core_->forward_workspace(), core_->backward_workspace());
  }
  void forward(Rank& rank, PassProgram& pass, const Forward& v) const override {
    core_->forward(rank, pass, {v.qkv, v.out, kept_in(v.workspace), rest_of(v.workspace)});
  }
  void backward(Rank& rank, PassProgram& pass, const Backward& v) const override {
    const SlotView kept = kept_in(v.workspace), rest = rest_of(v.workspace);
    core_->forward(rank, pass, {v.qkv, v.out, kept, rest});
    core_->backward(rank, pass, {v.d_out, v.qkv, v.out, kept, v.d_qkv, rest});
  }

 private:
  SlotView kept_in(const SlotView& w) const { return {w.slot, w.begin, core_->kept()}; }
  SlotView rest_of(const SlotView& w) const {
    return {w.slot, w.begin + core_->kept(), w.elements - core_->kept()};
  }
  std::unique_ptr<AttentionCore> core_;
};

}  // namespace

std::unique_ptr<AttentionCore> make_stored_attention(const AttentionSizes& sizes, bool dropout) {
  return std::make_unique<StoredAttention>(sizes, dropout);
}

std::unique_ptr<AttentionCore> make_recomputed_attention(const AttentionSizes& sizes,
                                                         std::unique_ptr<AttentionCore> core) {
  return std::make_unique<RecomputedAttention>(sizes, std::move(core));
}

}  // namespace orrery
