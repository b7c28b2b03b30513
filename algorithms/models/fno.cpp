#include "algorithms/models/fno.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

namespace orrery {

std::int64_t FnoShape::points() const {
  std::int64_t n = 1;
  for (const std::int64_t g : grid) n *= g;
  return n;
}

std::int64_t FnoShape::kept_modes() const {
  std::int64_t n = 1;
  for (std::size_t i = 0; i < modes.size(); ++i) n *= modes[i] * (i + 1 < modes.size() ? 2 : 1);
  return n;
}

namespace {

// A field of `channels` values at each point of the grid, for each sample of the micro-batch.
class FieldBlock : public Block {
 public:
  FieldBlock(const FnoShape& s, std::string key)
      : shape_(s), key_(std::move(key)), rows_(s.micro_batch * s.points()) {}
  void prepare(Rank& rank) override {
    forward_ = &rank.sequence(key_ + ".forward", [&](Sequence& s) { build_forward(rank, s); });
    backward_ = &rank.sequence(key_ + ".backward", [&](Sequence& s) { build_backward(rank, s); });
    forward_flops_ = forward_->cost().matrix;
    backward_flops_ = backward_->cost().matrix;
  }

 protected:
  virtual void build_forward(Rank& rank, Sequence& s) const = 0;
  virtual void build_backward(Rank& rank, Sequence& s) const = 0;

  // A linear map of the channels at each point.
  void add_linear(std::int64_t in, std::int64_t out) {
    parameters_.push_back({"weight", in * out, 1.0 / std::sqrt(static_cast<double>(in)), 0, true});
    parameters_.push_back({"bias", out, 0, 0, false});
    forward_flops_ += Flops(2.0 * static_cast<double>(rows_ * in * out));
  }
  void linear(Rank& rank, Sequence& s, std::int64_t in, std::int64_t out, const SlotView& x, int p,
              std::int64_t at, const SlotView& y) const {
    s.add(rank.prepare(Kernel::gemm_bias(rows_, out, in, shape_.dtype, "pointwise")),
          {x, {p, at, in * out}, y, {p, at + in * out, out}});
  }
  // dx may be empty where nothing asks for it.
  void linear_backward(Rank& rank, Sequence& s, std::int64_t in, std::int64_t out,
                       const SlotView& x, int p, int g, std::int64_t at, const SlotView& dy,
                       const SlotView& dx) const {
    const Dtype t = shape_.dtype;
    if (dx.slot >= 0)
      s.add(rank.prepare(Kernel::gemm(rows_, in, out, t, false, true, false, "pointwise.dgrad")),
            {dy, {p, at, in * out}, dx});
    s.add(rank.prepare(Kernel::gemm(in, out, rows_, t, true, false, true, "pointwise.wgrad")),
          {x, dy, {g, at, in * out}});
    s.add(rank.prepare(Kernel::column_sum(rows_, out, t)), {dy, {g, at + in * out, out}});
  }

  FnoShape shape_;
  std::string key_;
  std::int64_t rows_;
  const Sequence* forward_ = nullptr;
  const Sequence* backward_ = nullptr;
};

class Lifting : public FieldBlock {
 public:
  Lifting(const FnoShape& s, const std::string& key) : FieldBlock(s, key) {
    add_linear(s.in_channels, s.width);
    output_elements_ = rows_ * s.width;
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(*forward_, {p.parameters, p.tokens, p.output});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(*backward_, {p.parameters, p.tokens, p.d_output, p.gradients});
  }

 private:
  SlotView field(int slot) const {
    return {slot, 0, rows_ * shape_.in_channels * size_of(shape_.dtype) / 4};
  }
  void build_forward(Rank& rank, Sequence& s) const override {
    const int p = s.slot("parameters"), x = s.slot("tokens"), y = s.slot("output");
    linear(rank, s, shape_.in_channels, shape_.width, field(x), p, 0, {y, 0, output_elements_});
  }
  void build_backward(Rank& rank, Sequence& s) const override {
    const int p = s.slot("parameters"), x = s.slot("tokens"), dy = s.slot("d_output"),
              g = s.slot("gradients");
    linear_backward(rank, s, shape_.in_channels, shape_.width, field(x), p, g, 0,
                    {dy, 0, output_elements_}, {});
  }
};

// Saved: the kept modes of the input, and the sum before the activation.
class FourierLayer : public FieldBlock {
 public:
  FourierLayer(const FnoShape& s, const std::string& key)
      : FieldBlock(s, key),
        all_(rows_ * s.width),
        kept_(s.micro_batch * std::int64_t{s.width} * 2 * s.kept_modes()),
        spectrum_(s.micro_batch * std::int64_t{s.width} * 2 * (s.points() / 2 + 1)) {
    weights_ = 2 * std::int64_t{s.width} * s.width * s.kept_modes();
    parameters_ = {{"modes", weights_, 1.0 / s.width, 0, true}};
    add_linear(s.width, s.width);
    forward_flops_ += Flops(8.0 * s.micro_batch * static_cast<double>(weights_ / 2));
    output_elements_ = all_;
    saved_elements_ = kept_ + all_;
    forward_workspace_ = backward_workspace_ = spectrum_ + 2 * all_ + kept_;
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(*forward_, {p.parameters, p.input, p.saved, p.workspace, p.output});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(*backward_, {p.parameters, p.input, p.saved, p.d_output, p.workspace,
                                 p.gradients, p.d_input});
  }

 private:
  Prepared transform(Rank& rank, bool inverse) const {
    return rank.prepare(Kernel::fft(inverse ? "irfft" : "rfft",
                                    std::int64_t{shape_.micro_batch} * shape_.width,
                                    shape_.points(), shape_.dtype, inverse));
  }
  // 8 B K width^2 real FLOPs: complex rows of the batch by a complex matrix for each mode.
  Prepared per_mode(Rank& rank, const char* label, Role result) const {
    const std::int64_t two = 2 * std::int64_t{shape_.width};
    const bool gradient = result == Role::update;
    return rank.prepare(Kernel::implicit_gemm(
        label, shape_.micro_batch * shape_.kept_modes(), two, two,
        gradient ? 2 * kept_ + weights_ : kept_ + weights_, gradient ? weights_ : kept_,
        shape_.dtype, {Role::read, Role::read, result}));
  }
  Prepared move(Rank& rank, const char* label, std::int64_t read, std::int64_t written,
                std::initializer_list<Role> roles) const {
    return rank.prepare(Kernel::streaming(label, read, written, shape_.dtype, roles));
  }

  void build_forward(Rank& rank, Sequence& s) const override {
    const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
              t = s.slot("workspace"), y = s.slot("output");
    const SlotView input{x, 0, all_}, kept{k, 0, kept_}, sum{k, kept_, all_};
    const SlotView spectrum{t, 0, spectrum_}, field{t, spectrum_, all_},
        mixed{t, spectrum_ + 2 * all_, kept_};
    s.add(transform(rank, false), {input, spectrum});
    s.add(move(rank, "truncate", kept_, kept_, {Role::read, Role::write}), {spectrum, kept});
    s.add(per_mode(rank, "modes", Role::write), {kept, {p, 0, weights_}, mixed});
    s.add(move(rank, "pad", kept_, spectrum_, {Role::read, Role::write}), {mixed, spectrum});
    s.add(transform(rank, true), {spectrum, field});
    linear(rank, s, shape_.width, shape_.width, input, p, weights_, sum);
    s.add(move(rank, "add", 2 * all_, all_, {Role::read, Role::update}), {field, sum});
    s.add(rank.prepare(
              Kernel::bias_activation(rows_, shape_.width, Activation::gelu, shape_.dtype, false)),
          {sum, {}, {y, 0, all_}});
  }

  // The gradient of a real transform is one of the other kind.
  void build_backward(Rank& rank, Sequence& s) const override {
    const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
              dy = s.slot("d_output"), t = s.slot("workspace");
    const int g = s.slot("gradients"), dx = s.slot("d_input");
    const SlotView kept{k, 0, kept_}, sum{k, kept_, all_}, d_input{dx, 0, all_};
    const SlotView spectrum{t, 0, spectrum_}, d_sum{t, spectrum_, all_},
        d_field{t, spectrum_ + all_, all_}, d_mixed{t, spectrum_ + 2 * all_, kept_};
    s.add(rank.prepare(Kernel::bias_activation_backward(rows_, shape_.width, Activation::gelu,
                                                        shape_.dtype, false)),
          {{dy, 0, all_}, sum, {}, d_sum});
    linear_backward(rank, s, shape_.width, shape_.width, {x, 0, all_}, p, g, weights_, d_sum,
                    d_input);
    s.add(transform(rank, false), {d_sum, spectrum});
    s.add(move(rank, "truncate", kept_, kept_, {Role::read, Role::write}), {spectrum, d_mixed});
    s.add(per_mode(rank, "modes.wgrad", Role::update), {kept, d_mixed, {g, 0, weights_}});
    s.add(per_mode(rank, "modes.dgrad", Role::write),
          {d_mixed, {p, 0, weights_}, {t, spectrum_ + all_, kept_}});
    s.add(move(rank, "pad", kept_, spectrum_, {Role::read, Role::write}),
          {{t, spectrum_ + all_, kept_}, spectrum});
    s.add(transform(rank, true), {spectrum, d_field});
    s.add(move(rank, "add", 2 * all_, all_, {Role::read, Role::update}), {d_field, d_input});
  }

  std::int64_t all_, kept_, spectrum_, weights_ = 0;
};

class Projection : public FieldBlock {
 public:
  Projection(const FnoShape& s, const std::string& key) : FieldBlock(s, key) {
    add_linear(s.width, s.out_channels);
    saved_elements_ = backward_workspace_ = rows_ * s.out_channels;
    computes_loss_ = true;
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(*forward_, {p.parameters, p.input, p.saved, p.targets, p.loss});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(*backward_, {p.parameters, p.input, p.saved, p.gradients, p.d_input});
  }

 private:
  void build_forward(Rank& rank, Sequence& s) const override {
    const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
              targets = s.slot("targets"), loss = s.slot("loss");
    const std::int64_t out = rows_ * shape_.out_channels;
    linear(rank, s, shape_.width, shape_.out_channels, {x, 0, rows_ * shape_.width}, p, 0,
           {k, 0, out});
    s.add(rank.prepare(Kernel::streaming("mean_square", 2 * out, out, shape_.dtype,
                                         {Role::update, Role::read, Role::update})),
          {{k, 0, out}, {targets, 0, out * size_of(shape_.dtype) / 4}, {loss, 0, 1}});
  }
  void build_backward(Rank& rank, Sequence& s) const override {
    const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
              g = s.slot("gradients"), dx = s.slot("d_input");
    linear_backward(rank, s, shape_.width, shape_.out_channels, {x, 0, rows_ * shape_.width}, p, g,
                    0, {k, 0, rows_ * shape_.out_channels}, {dx, 0, rows_ * shape_.width});
  }
};

}  // namespace

Model make_fno(const FnoShape& shape) {
  if (shape.grid.empty() || shape.grid.size() != shape.modes.size())
    throw Error(Category::config,
                "a Fourier neural operator keeps modes in each dimension of its grid");
  for (std::size_t i = 0; i < shape.grid.size(); ++i)
    if (shape.modes[i] < 1 || 2 * shape.modes[i] > shape.grid[i])
      throw Error(Category::config, fmt::format("{} points have 1 to {} modes, not {}",
                                                shape.grid[i], shape.grid[i] / 2, shape.modes[i]));
  const std::string key =
      fmt::format("fno {}x{} m{} w{} c{}/{} {} {}", shape.micro_batch, fmt::join(shape.grid, "x"),
                  fmt::join(shape.modes, "x"), shape.width, shape.in_channels, shape.out_channels,
                  shape.micro_batches, name(shape.dtype));
  Model model;
  model.name = "fno";
  model.dtype = shape.dtype;
  model.micro_batch = shape.micro_batch;
  model.tokens_per_sample = shape.points() * shape.in_channels * size_of(shape.dtype) / 4;
  model.targets_per_sample = shape.points() * shape.out_channels * size_of(shape.dtype) / 4;
  model.blocks.push_back(std::make_shared<Lifting>(shape, key + " lifting"));
  const auto layer = std::make_shared<FourierLayer>(shape, key + " layer");
  for (int i = 0; i < shape.layers; ++i) model.blocks.push_back(layer);
  model.blocks.push_back(std::make_shared<Projection>(shape, key + " projection"));
  return model;
}

}  // namespace orrery
