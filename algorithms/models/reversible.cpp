#include "algorithms/models/reversible.hpp"

#include <algorithm>

#include "algorithms/models/convolution_path.hpp"

namespace orrery {

namespace {

// Saved: what f and g save and, with g, y1.
class Coupling : public Block {
 public:
  Coupling(std::shared_ptr<Block> f, std::shared_ptr<Block> g)
      : f_(std::move(f)), g_(std::move(g)), n_(f_->output_elements()) {
    add("f.", *f_);
    if (g_) {
      g_at_ = BlockPlace{}.after(*f_);
      add("g.", *g_);
    }
    y1_at_ = saved_elements_;
    if (g_) saved_elements_ += n_;
    forward_workspace_ += n_;
    backward_workspace_ += n_;
    output_elements_ = 2 * n_;
    reversible_ = true;
    input_read_again_ = g_ ? -1 : n_;
  }
  void prepare(Rank& rank) override {
    forward_flops_ = backward_flops_ = Flops(0);
    for (Block* block : {f_.get(), g_.get()}) {
      if (block == nullptr) continue;
      block->prepare(rank);
      forward_flops_ += block->forward_flops();
      backward_flops_ += block->backward_flops();
    }
  }

  void forward(const BlockPass& p) const override {
    Rank& rank = p.stream.rank();
    const Tensor x1 = first(p.input), x2 = second(p.input), result = branch_output(p);
    if (!g_) {
      branch(*f_, {}, p, x1, result);
      add(rank, p, x2, result, first(p.output));
      p.stream.copy(x1, second(p.output));
      return;
    }
    branch(*f_, {}, p, x2, result);
    add(rank, p, x1, result, y1(p));
    p.stream.copy(y1(p), first(p.output));
    branch(*g_, g_at_, p, y1(p), result);
    add(rank, p, x2, result, second(p.output));
  }

  void recompute(const BlockPass& p) const override {
    const Tensor result = branch_output(p);
    if (!g_) return branch(*f_, {}, p, first(p.input), result);
    branch(*f_, {}, p, second(p.input), result);
    add(p.stream.rank(), p, first(p.input), result, y1(p));
    branch(*g_, g_at_, p, y1(p), result);
  }

  void reconstruct(const BlockPass& p) const override {
    Rank& rank = p.stream.rank();
    const Tensor x1 = first(p.input), x2 = second(p.input), result = branch_output(p);
    if (!g_) {
      p.stream.copy(second(p.output), x1);
      branch(*f_, {}, p, x1, result);
      subtract(rank, p, first(p.output), result, x2);
      return;
    }
    p.stream.copy(first(p.output), y1(p));
    branch(*g_, g_at_, p, y1(p), result);
    subtract(rank, p, second(p.output), result, x2);
    branch(*f_, {}, p, x2, result);
    subtract(rank, p, y1(p), result, x1);
  }

  // One function:  dx1 = dy2 + f'(x1)^T dy1, dx2 = dy1.  Two: dz = dy1 + g'(y1)^T dy2 = dx1,
  // dx2 = dy2 + f'(x2)^T dz.
  void backward(const BlockPass& p) const override {
    Rank& rank = p.stream.rank();
    const Tensor dy1 = first(p.d_output), dy2 = second(p.d_output), dx1 = first(p.d_input),
                 dx2 = second(p.d_input);
    const Tensor result = part_of(p.workspace, backward_workspace_ - n_, n_);
    if (!g_) {
      branch_backward(*f_, {}, p, first(p.input), dy1, result);
      add(rank, p, dy2, result, dx1);
      p.stream.copy(dy1, dx2);
      return;
    }
    branch_backward(*g_, g_at_, p, y1(p), dy2, result);
    add(rank, p, dy1, result, dx1);
    branch_backward(*f_, {}, p, second(p.input), dx1, result);
    add(rank, p, dy2, result, dx2);
  }

 private:
  void add(const std::string& prefix, const Block& block) {
    for (ParameterSpec spec : block.parameters()) {
      spec.name = prefix + spec.name;
      parameters_.push_back(spec);
    }
    state_.insert(state_.end(), block.state().begin(), block.state().end());
    saved_elements_ += block.saved_elements();
    kept_elements_ += block.kept_elements();
    forward_workspace_ = std::max(forward_workspace_, block.forward_workspace());
    backward_workspace_ = std::max(backward_workspace_, block.backward_workspace());
    forward_flops_ += block.forward_flops();
  }
  Tensor first(const Tensor& both) const { return part_of(both, 0, n_); }
  Tensor second(const Tensor& both) const { return part_of(both, n_, n_); }
  Tensor y1(const BlockPass& p) const { return part_of(p.saved, y1_at_, n_); }
  Tensor branch_output(const BlockPass& p) const {
    return part_of(p.workspace, forward_workspace_ - n_, n_);
  }
  void branch(const Block& block, const BlockPlace& place, const BlockPass& p, const Tensor& x,
              const Tensor& result) const {
    BlockPass pass = pass_of(block, p, place);
    pass.input = x;
    pass.output = result;
    pass.workspace = part_of(p.workspace, 0, block.forward_workspace());
    block.forward(pass);
  }
  void branch_backward(const Block& block, const BlockPlace& place, const BlockPass& p,
                       const Tensor& x, const Tensor& d_result, const Tensor& d_x) const {
    BlockPass pass = pass_of(block, p, place);
    pass.input = x;
    pass.d_output = d_result;
    pass.d_input = d_x;
    pass.workspace = part_of(p.workspace, 0, block.backward_workspace());
    block.backward(pass);
  }
  static void add(Rank& rank, const BlockPass& p, const Tensor& x, const Tensor& y,
                  const Tensor& sum) {
    p.stream.launch(rank.prepare(Kernel::residual_add(1, x.elements(), x.dtype())),
                    {x, y, {}, sum});
  }
  static void subtract(Rank& rank, const BlockPass& p, const Tensor& y, const Tensor& x,
                       const Tensor& difference) {
    p.stream.copy(y, difference);
    p.stream.launch(rank.prepare(Kernel::linear_combination(x.elements(), -1, 1, x.dtype())),
                    {x, difference});
  }

  std::shared_ptr<Block> f_, g_;
  BlockPlace g_at_;
  std::int64_t n_, y1_at_ = 0;
};

class Doubling : public Block {
 public:
  Doubling(std::int64_t n, Dtype dtype) : n_(n), dtype_(dtype) {
    output_elements_ = 2 * n;
    input_read_again_ = 0;
    reversible_ = true;
  }
  void prepare(Rank& rank) override { add_ = rank.prepare(Kernel::residual_add(1, n_, dtype_)); }
  void forward(const BlockPass& p) const override {
    p.stream.copy(p.input, part_of(p.output, 0, n_));
    p.stream.copy(p.input, part_of(p.output, n_, n_));
  }
  void recompute(const BlockPass&) const override {}
  void reconstruct(const BlockPass& p) const override {
    p.stream.copy(part_of(p.output, 0, n_), p.input);
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(add_, {part_of(p.d_output, 0, n_), part_of(p.d_output, n_, n_), {}, p.d_input});
  }

 private:
  std::int64_t n_;
  Dtype dtype_;
  Prepared add_;
};

class Averaging : public Block {
 public:
  Averaging(std::int64_t n, Dtype dtype) : n_(n), dtype_(dtype) {
    output_elements_ = n;
    input_read_again_ = 0;
  }
  void prepare(Rank& rank) override {
    mean_ = rank.prepare(Kernel::linear_combination(n_, 0.5, 0.5, dtype_));
    half_ = rank.prepare(Kernel::linear_combination(n_, 0.25, 0.25, dtype_));
  }
  void forward(const BlockPass& p) const override {
    p.stream.copy(part_of(p.input, 0, n_), p.output);
    p.stream.launch(mean_, {part_of(p.input, n_, n_), p.output});
  }
  void recompute(const BlockPass&) const override {}
  void backward(const BlockPass& p) const override {
    const Tensor first = part_of(p.d_input, 0, n_);
    p.stream.copy(p.d_output, first);
    p.stream.launch(half_, {p.d_output, first});
    p.stream.copy(first, part_of(p.d_input, n_, n_));
  }

 private:
  std::int64_t n_;
  Dtype dtype_;
  Prepared mean_, half_;
};

}  // namespace

std::shared_ptr<Block> make_coupling(std::shared_ptr<Block> f, std::shared_ptr<Block> g) {
  return std::make_shared<Coupling>(std::move(f), std::move(g));
}

std::shared_ptr<Block> make_doubling(std::int64_t elements, Dtype dtype) {
  return std::make_shared<Doubling>(elements, dtype);
}

std::shared_ptr<Block> make_averaging(std::int64_t elements, Dtype dtype) {
  return std::make_shared<Averaging>(elements, dtype);
}

}  // namespace orrery
