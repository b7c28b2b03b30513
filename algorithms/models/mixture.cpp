#include "algorithms/models/mixture.hpp"

#include <algorithm>
#include <cmath>

#include "algorithms/models/layer_kernels.hpp"

namespace orrery {

std::int64_t expert_capacity(const TransformerShape& s) {
  const double even = static_cast<double>(s.tokens()) * s.experts_per_token / s.experts;
  return std::min(static_cast<std::int64_t>(std::ceil(s.capacity * even)), s.tokens());
}

namespace {

class ExpertMixture : public Mixture {
 public:
  ExpertMixture(const TransformerShape& s, std::vector<ParameterSpec>& parameters)
      : s_(s),
        rows_(s.tokens()),
        local_(s.experts / s.expert),
        capacity_(expert_capacity(s)),
        places_(s.experts * capacity_),
        ffn_(s.expert_ffn / s.tensor),
        up_(ffn_ * (s.gated ? 2 : 1)),
        shared_(s.shared_ffn / s.tensor),
        shared_up_(shared_ * (s.gated ? 2 : 1)) {
    add_parameters(parameters);
    logits_ = keep(rows_ * s.experts);
    inputs_ = keep_places(s.hidden);
    before_ = keep_places(up_);
    activated_ = keep_places(ffn_);
    outputs_ = keep_places(s.hidden);
    shared_before_ = keep(rows_ * shared_up_);
    shared_activated_ = keep(rows_ * shared_);
  }

  void open(Rank& rank) override {
    if (apart()) line_ = {&rank.channel(Axis::expert, "activations"), &rank.stream("expert")};
  }
  Range router() const override { return router_; }
  std::int64_t kept() const override { return kept_; }
  std::int64_t choices() const override { return rows_ * s_.experts_per_token; }
  // Two buffers of places.
  std::int64_t forward_workspace() const override { return 2 * room(places_ * s_.hidden); }
  // Likewise, and the gradients inside the experts, of the logits, inside the shared experts.
  std::int64_t backward_workspace() const override {
    return 2 * room(places_ * s_.hidden) + room(places_ * ffn_) + room(places_ * up_) +
           rows_ * s_.experts + rows_ * (shared_ + shared_up_);
  }

  void forward(Rank& rank, PassProgram& s, const Tensors& t, const Forward& v) const override {
    const std::int64_t h = s_.hidden;
    const SlotView one = place(v.workspace, 0), two = place(v.workspace, 1);
    const SlotView inputs = in(v.kept, inputs_), outputs = in(v.kept, outputs_);
    s.add(rank.prepare(Kernel::gemm(rows_, s_.experts, h, s_.dtype, false, false, false, "router")),
          {v.input, router_.in(t.parameters), in(v.kept, logits_)});
    route(rank, s, t, v.kept);
    s.add(rank.prepare(Kernel::dispatch(rows_, h, s_.experts_per_token, places_, s_.dtype)),
          {v.input, choices_of(t), apart() ? one : inputs});
    if (apart()) s.all_to_all(line_, two, one);
    shared_forward(rank, s, t, v);  // beside the transfer
    if (apart()) {
      s.wait(line_);
      s.add(by_expert(rank, false), {two, inputs});
    }
    grouped(rank, s, "experts.up", {up_, h}, inputs, experts_up_.in(t.parameters),
            in(v.kept, before_));
    s.add(rank.prepare(activation(s_, places_, ffn_, false)),
          {in(v.kept, before_), {}, in(v.kept, activated_)});
    grouped(rank, s, "experts.down", {h, ffn_}, in(v.kept, activated_),
            experts_down_.in(t.parameters), apart() ? one : outputs);
    if (apart()) {
      s.add(by_expert(rank, true), {two, one});
      s.all_to_all(line_, outputs, two);
      s.wait(line_);
    }
    s.add(rank.prepare(Kernel::combine(rows_, h, s_.experts_per_token, places_, s_.dtype)),
          {outputs, weights_of(t.weights), choices_of(t), v.out});
  }

  void backward(Rank& rank, PassProgram& s, const Tensors& t, const Backward& v) const override {
    const std::int64_t h = s_.hidden, k = s_.experts_per_token;
    const SlotView one = place(v.workspace, 0), two = place(v.workspace, 1);
    const Inner d = inner(v.workspace);
    route(rank, s, t, v.kept);  // again: the choices are not kept
    s.add(rank.prepare(Kernel::combine_backward(rows_, h, k, places_, 1.0 / s_.expert, s_.dtype)),
          {v.d_out, in(v.kept, outputs_), weights_of(t.weights), choices_of(t), one,
           weights_of(t.d_weights)});
    if (apart()) s.all_to_all(line_, two, one);
    s.add(rank.prepare(Kernel::route_backward(rows_, s_.experts, k, s_.router, s_.dtype)),
          {weights_of(t.d_weights), in(v.kept, logits_), weights_of(t.weights), choices_of(t),
           d.logits});
    shared_inner_gradients(rank, s, t, v, d);
    if (apart()) {
      s.wait(line_);
      s.add(by_expert(rank, false), {two, one});
    }
    grouped(rank, s, "experts.down.dgrad", {ffn_, h}, one, experts_down_.in(t.parameters),
            d.activated, true);
    s.add(rank.prepare(activation_backward(s_, places_, ffn_, false)),
          {d.activated, in(v.kept, before_), {}, d.up});
    grouped(rank, s, "experts.down.wgrad", in(v.kept, activated_), one, {ffn_, h},
            experts_down_.in(t.gradients));
    grouped(rank, s, "experts.up.dgrad", {h, up_}, d.up, experts_up_.in(t.parameters), two, true);
    if (apart()) {
      s.add(by_expert(rank, true), {one, two});
      s.all_to_all(line_, two, one);
    }
    grouped(rank, s, "experts.up.wgrad", in(v.kept, inputs_), d.up, {h, up_},
            experts_up_.in(t.gradients));
    if (apart()) s.wait(line_);
    s.add(rank.prepare(Kernel::dispatch_backward(rows_, h, k, places_, s_.expert, s_.dtype)),
          {two, choices_of(t), v.d_input});
    const ProductSizes router{rows_, h, s_.experts, s_.dtype};
    input_gradient(rank, s, "router.dgrad", router, router_.in(t.parameters), d.logits, v.d_input,
                   true);
    const ProductSizes up{rows_, h, shared_up_, s_.dtype, s_.products};
    if (shared_ > 0) {
      cast_operand(rank, s, s_, d.shared_up);
      input_gradient(rank, s, "shared.up.dgrad", up, shared_up_matrix_.in(t.parameters),
                     d.shared_up, v.d_input, true);
    }
    v.sum();
    weight_gradient(rank, s, "router.wgrad", router, v.input, router_, t.gradients, d.logits, rows_,
                    d.logits);
    if (shared_ > 0)
      weight_gradient(rank, s, "shared.up.wgrad", up, v.input, shared_up_matrix_, t.gradients,
                      d.shared_up, rows_, d.shared_up);
  }

 private:
  struct Inner {
    SlotView activated, up, logits, shared_activated, shared_up;
  };
  struct Matrix {
    std::int64_t outputs, inputs;
  };

  bool apart() const { return s_.expert > 1; }
  // All ranks take the time and the memory of the fullest, and send and compute what they do in the
  // mean. One that holds all experts has all of its tokens' work, however they are spread.
  double load() const { return apart() ? s_.imbalance : 1; }
  std::int64_t room(std::int64_t elements) const {
    return static_cast<std::int64_t>(std::ceil(load() * static_cast<double>(elements)));
  }

  // Widths are divided over the tensor group, experts over the expert group.
  void add_parameters(std::vector<ParameterSpec>& all) {
    const std::int64_t h = s_.hidden, t = s_.tensor;
    const double out_deviation = 0.02 / std::sqrt(2.0 * s_.layers);
    const auto add = [&all](ParameterSpec spec) {
      std::int64_t begin = 0;
      for (const ParameterSpec& p : all) begin += p.elements;
      const Range range{begin, spec.elements};
      all.push_back(std::move(spec));
      return range;
    };
    // `matrices` of h x width, whose columns are divided; of width x h, whose rows are.
    const auto up = [&](const char* name, std::int64_t matrices, std::int64_t whole,
                        std::int64_t width, std::int64_t run) {
      std::vector<Division::Columns> columns{{0, width}};
      if (s_.gated) columns.push_back({whole, width});
      const std::int64_t all_columns = width * (s_.gated ? 2 : 1);
      Division division;
      if (t > 1) division = {Axis::tensor, matrices * h, t * all_columns, columns};
      division.run = run;
      return add({name,
                  matrices * h * all_columns,
                  0.02,
                  0,
                  true,
                  all_columns,
                  division,
                  {},
                  false,
                  true});
    };
    const auto down = [&](const char* name, std::int64_t matrices, std::int64_t width,
                          std::int64_t run) {
      const std::int64_t each = width * h;
      Division division;
      if (t > 1) division = {Axis::tensor, matrices, t * each, {{0, each}}};
      division.run = run;
      return add({name, matrices * each, out_deviation, 0, true, h, division, {}, false, true});
    };
    router_ = add({"router.weight", h * s_.experts, 0.02, 0, true, s_.experts});
    if (shared_ > 0) {
      shared_up_matrix_ = up("shared.up.weight", 1, s_.shared_ffn, shared_, 0);
      shared_down_ = down("shared.down.weight", 1, shared_, 0);
    }
    // Last, as what fewer ranks hold alike is (flat_parameters.hpp).
    experts_up_ =
        up("experts.up.weight", local_, s_.expert_ffn, ffn_, apart() ? local_ * h * up_ * t : 0);
    experts_down_ = down("experts.down.weight", local_, ffn_, apart() ? local_ * h * ffn_ * t : 0);
  }
  Range keep(std::int64_t elements) {
    const Range range{kept_, elements};
    kept_ += elements;
    return range;
  }
  Range keep_places(std::int64_t width) {
    const Range range = keep(places_ * width);
    kept_ += room(range.elements) - range.elements;
    return range;
  }
  static SlotView in(const SlotView& view, const Range& range) {
    return {view.slot, view.begin + range.begin, range.elements};
  }
  SlotView place(const SlotView& workspace, int number) const {
    const std::int64_t elements = places_ * s_.hidden;
    return {workspace.slot, workspace.begin + number * room(elements), elements};
  }
  Inner inner(const SlotView& workspace) const {
    std::int64_t at = workspace.begin + 2 * room(places_ * s_.hidden);
    const auto next = [&](std::int64_t elements, std::int64_t room) {
      const SlotView view{workspace.slot, at, elements};
      at += room;
      return view;
    };
    const auto own = [&](std::int64_t elements) { return next(elements, elements); };
    const auto filled = [&](std::int64_t elements) { return next(elements, room(elements)); };
    const SlotView activated = filled(places_ * ffn_), up = filled(places_ * up_),
                   logits = own(rows_ * s_.experts), shared = own(rows_ * shared_);
    return {activated, up, logits, shared, own(rows_ * shared_up_)};
  }
  SlotView weights_of(int tensor) const { return {tensor, 0, choices()}; }
  SlotView of_experts(int tensor) const {
    return tensor < 0 ? SlotView{} : SlotView{tensor, 0, s_.experts};
  }
  SlotView choices_of(const Tensors& t) const { return {t.choices, 0, 2 * choices()}; }

  void route(Rank& rank, PassProgram& s, const Tensors& t, const SlotView& kept) const {
    s.add(rank.prepare(Kernel::route(rows_, s_.experts, s_.experts_per_token, capacity_, s_.router,
                                     s_.dtype)),
          {in(kept, logits_), weights_of(t.weights), choices_of(t), of_experts(t.bias),
           of_experts(t.counts)});
  }
  // From [ranks, experts here, places] as they come to [experts here, ranks, places], or back.
  Prepared by_expert(Rank& rank, bool back) const {
    const std::int64_t each = capacity_ * s_.hidden;
    return rank.prepare(
        Kernel::permute(s_.expert, local_, each, local_ * each, each, s_.dtype, back));
  }
  // Of each expert here: X A, or with `transpose` X A^T where `matrix` says what A^T is.
  void grouped(Rank& rank, PassProgram& s, const char* label, const Matrix& matrix,
               const SlotView& x, const SlotView& weights, const SlotView& y,
               bool transpose = false) const {
    cast_operand(rank, s, s_, x);
    if (!transpose) cast_operand(rank, s, s_, weights);
    Kernel kernel = Kernel::grouped_gemm(local_, s_.expert * capacity_, matrix.outputs,
                                         matrix.inputs, s_.dtype, false, transpose, false, label);
    kernel.scalars[grouped_load] = load();
    add_product(rank, s, s_.products,
                transpose ? ProductPass::input_gradient : ProductPass::forward, kernel,
                {x, weights, y});
  }
  // Of each expert here: + X^T d Y, [rows, columns].
  void grouped(Rank& rank, PassProgram& s, const char* label, const SlotView& x, const SlotView& dy,
               const Matrix& matrix, const SlotView& gradient) const {
    Kernel kernel = Kernel::grouped_gemm(local_, matrix.outputs, matrix.inputs,
                                         s_.expert * capacity_, s_.dtype, true, false, true, label);
    kernel.scalars[grouped_load] = load();
    add_product(rank, s, s_.products, ProductPass::weight_gradient, kernel, {x, dy, gradient});
  }

  void shared_forward(Rank& rank, PassProgram& s, const Tensors& t, const Forward& v) const {
    if (shared_ == 0) {
      s.add(rank.prepare(Kernel::fill(v.out.elements, 0, s_.dtype)), {v.out});
      return;
    }
    const auto product = [&](const char* label, std::int64_t outputs, std::int64_t inputs,
                             const SlotView& x, const SlotView& matrix, const SlotView& y) {
      orrery::product(rank, s, s_, rows_, label, outputs, inputs, x, matrix, y);
    };
    product("shared.up", shared_up_, s_.hidden, v.input, shared_up_matrix_.in(t.parameters),
            in(v.kept, shared_before_));
    s.add(rank.prepare(activation(s_, rows_, shared_, false)),
          {in(v.kept, shared_before_), {}, in(v.kept, shared_activated_)});
    product("shared.down", s_.hidden, shared_, in(v.kept, shared_activated_),
            shared_down_.in(t.parameters), v.out);
  }
  void shared_inner_gradients(Rank& rank, PassProgram& s, const Tensors& t, const Backward& v,
                              const Inner& d) const {
    if (shared_ == 0) return;
    const ProductSizes down{rows_, shared_, s_.hidden, s_.dtype, s_.products};
    cast_operand(rank, s, s_, v.d_out);
    input_gradient(rank, s, "shared.down.dgrad", down, shared_down_.in(t.parameters), v.d_out,
                   d.shared_activated);
    weight_gradient(rank, s, "shared.down.wgrad", down, in(v.kept, shared_activated_), shared_down_,
                    t.gradients, v.d_out, rows_, v.d_out);
    s.add(rank.prepare(activation_backward(s_, rows_, shared_, false)),
          {d.shared_activated, in(v.kept, shared_before_), {}, d.shared_up});
  }

  TransformerShape s_;
  std::int64_t rows_, local_, capacity_, places_;  // tokens; experts here; places of an expert, all
  std::int64_t ffn_, up_, shared_, shared_up_;     // widths on this rank
  std::int64_t kept_ = 0;
  Range router_, experts_up_, experts_down_, shared_up_matrix_, shared_down_;
  Range logits_, inputs_, before_, activated_, outputs_, shared_before_, shared_activated_;
  Line line_;
};

}  // namespace

std::unique_ptr<Mixture> make_mixture(const TransformerShape& shape,
                                      std::vector<ParameterSpec>& parameters) {
  return std::make_unique<ExpertMixture>(shape, parameters);
}

}  // namespace orrery
