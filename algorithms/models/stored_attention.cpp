#include "algorithms/models/stored_attention.hpp"

#include <algorithm>
#include <utility>

namespace orrery {

namespace {

SlotView part(const SlotView& view, std::int64_t begin, std::int64_t elements) {
  return {view.slot, view.begin + begin, elements};
}

class StoredAttention : public AttentionCore {
 public:
  StoredAttention(const AttentionSizes& sizes, bool dropout)
      : AttentionCore(sizes),
        scores_(sizes.batch * sizes.heads * sizes.length * sizes.length),
        mask_(dropout ? mask_elements(scores_, sizes.dtype) : 0) {}

  std::int64_t kept() const override { return scores_ + (mask_ > 0 ? scores_ + mask_ : 0); }
  std::int64_t backward_workspace() const override { return scores_; }

  void forward(Rank& rank, PassProgram& pass, const Forward& v) const override {
    const SlotView p = part(v.kept, 0, scores_), d = dropped(v.kept);
    pass.add(to_scores(rank, "scores"), {v.qkv, v.qkv, p});
    pass.add(rank.prepare(Kernel::streaming("softmax", scores_, scores_, s_.dtype, {Role::update})),
             {p});
    if (mask_ > 0)
      pass.add(rank.prepare(Kernel::streaming("dropout", scores_, scores_ + mask_, s_.dtype,
                                              {Role::read, Role::write, Role::write})),
               {p, d, mask(v.kept)});
    pass.add(from_scores(rank, "attend", Role::write), {d, v.qkv, v.out});
  }

  void backward(Rank& rank, PassProgram& pass, const Backward& v) const override {
    const SlotView p = part(v.kept, 0, scores_), ds = part(v.workspace, 0, scores_);
    pass.add(from_scores(rank, "attend.d_values", Role::write),
             {dropped(v.kept), v.d_out, v.d_qkv});
    pass.add(to_scores(rank, "attend.d_scores"), {v.d_out, v.qkv, ds});
    if (mask_ > 0)
      pass.add(rank.prepare(Kernel::streaming("dropout.backward", scores_ + mask_, scores_,
                                              s_.dtype, {Role::update, Role::read})),
               {ds, mask(v.kept)});
    pass.add(rank.prepare(Kernel::streaming("softmax.backward", 2 * scores_, scores_, s_.dtype,
                                            {Role::update, Role::read})),
             {ds, p});
    for (const char* label : {"scores.d_queries", "scores.d_keys"})
      pass.add(from_scores(rank, label, Role::update), {ds, v.qkv, v.d_qkv});
  }

 private:
  // Products for every head: of two matrices of s x head size to scores; of scores and one such to
  // another.
  Prepared to_scores(Rank& rank, const char* label) const {
    return rank.prepare(Kernel::implicit_gemm(label, s_.batch * s_.heads * s_.length, s_.length,
                                              s_.head_size, s_.rows() * (s_.q() + s_.kv()), scores_,
                                              s_.dtype, {Role::read, Role::read, Role::write}));
  }
  Prepared from_scores(Rank& rank, const char* label, Role result) const {
    return rank.prepare(Kernel::implicit_gemm(label, s_.batch * s_.heads * s_.length, s_.head_size,
                                              s_.length, scores_ + s_.rows() * s_.kv(),
                                              s_.rows() * s_.q(), s_.dtype,
                                              {Role::read, Role::read, result}));
  }
  SlotView dropped(const SlotView& kept) const {
    return part(kept, mask_ > 0 ? scores_ : 0, scores_);
  }
  SlotView mask(const SlotView& kept) const { return part(kept, 2 * scores_, mask_); }

  std::int64_t scores_, mask_;  // elements
};

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
  SlotView kept_in(const SlotView& w) const { return part(w, 0, core_->kept()); }
  SlotView rest_of(const SlotView& w) const {
    return part(w, core_->kept(), w.elements - core_->kept());
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
