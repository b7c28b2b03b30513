#include "algorithms/models/resnet.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace orrery {

namespace {

constexpr Role r = Role::read, w = Role::write, u = Role::update;

// A convolution of `in` channels over a size x size picture, padded so that stride 1 keeps it.
struct Convolution {
  std::int64_t in, out, kernel, stride, size;

  std::int64_t out_size() const { return (size + stride - 1) / stride; }
  std::int64_t inputs() const { return in * size * size; }  // per picture
  std::int64_t outputs() const { return out * out_size() * out_size(); }
  std::int64_t window() const { return in * kernel * kernel; }
  std::int64_t weights() const { return window() * out; }
};

// What the blocks have in common: convolutions followed by a batch norm, and their kernels.
class PictureBlock : public Block {
 public:
  PictureBlock(const ResnetShape& s, std::string key) : shape_(s), key_(std::move(key)) {}

  void prepare(Rank& rank) override {
    forward_ = &rank.sequence(key_ + ".forward", [&](Sequence& s) { build_forward(rank, s); });
    backward_ = &rank.sequence(key_ + ".backward", [&](Sequence& s) { build_backward(rank, s); });
    forward_flops_ = forward_->cost().matrix;
    backward_flops_ = backward_->cost().matrix;
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(*forward_, {p.parameters, first(p), p.saved, p.output});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(*backward_, {p.parameters, first(p), p.saved, p.d_output, p.workspace,
                                 p.gradients, p.d_input});
  }

 protected:
  virtual void build_forward(Rank& rank, Sequence& s) const = 0;
  virtual void build_backward(Rank& rank, Sequence& s) const = 0;
  virtual const Tensor& first(const BlockPass& p) const { return p.input; }

  void add_convolution(const std::string& name, const Convolution& c) {
    const double fan_out = static_cast<double>(c.out * c.kernel * c.kernel);
    parameters_.push_back({name + ".weight", c.weights(), std::sqrt(2 / fan_out), 0, true});
    parameters_.push_back({name + ".norm.gain", c.out, 0, 1, false});
    parameters_.push_back({name + ".norm.bias", c.out, 0, 0, false});
    forward_flops_ +=
        Flops(2.0 * shape_.micro_batch * static_cast<double>(c.window() * c.outputs()));
  }
  Prepared streaming(Rank& rank, const char* label, std::int64_t read, std::int64_t written,
                     std::initializer_list<Role> roles) const {
    const std::int64_t b = shape_.micro_batch;
    return rank.prepare(Kernel::streaming(label, b * read, b * written, shape_.dtype, roles));
  }
  // The product, then the norm, which reads its input for the statistics and again to apply them.
  void convolve(Rank& rank, Sequence& s, const Convolution& c, const SlotView& x,
                const SlotView& weight, const SlotView& y) const {
    const std::int64_t b = shape_.micro_batch, pixels = b * c.out_size() * c.out_size();
    s.add(rank.prepare(Kernel::implicit_gemm("convolution", pixels, c.out, c.window(),
                                             b * c.inputs() + c.weights(), b * c.outputs(),
                                             shape_.dtype, {r, r, w})),
          {x, weight, y});
    s.add(streaming(rank, "batch_norm", 2 * c.outputs(), c.outputs(), {u}), {y});
  }
  // d y becomes the gradient of the convolution's output; then d x, where it is wanted, and the
  // gradient of the weights: as many FLOPs each as the forward's product.
  void convolve_backward(Rank& rank, Sequence& s, const Convolution& c, const SlotView& x,
                         const SlotView& weight, const SlotView& gradient, const SlotView& dy,
                         const SlotView& dx) const {
    const std::int64_t b = shape_.micro_batch, pixels = b * c.out_size() * c.out_size();
    s.add(streaming(rank, "batch_norm_backward", 4 * c.outputs(), c.outputs(), {u}), {dy});
    if (dx.slot >= 0)
      s.add(rank.prepare(Kernel::implicit_gemm("convolution.dgrad", pixels, c.window(), c.out,
                                               b * c.outputs() + c.weights(), b * c.inputs(),
                                               shape_.dtype, {r, r, w})),
            {dy, weight, dx});
    s.add(rank.prepare(Kernel::implicit_gemm("convolution.wgrad", c.window(), c.out, pixels,
                                             b * (c.inputs() + c.outputs()) + c.weights(),
                                             c.weights(), shape_.dtype, {r, r, u})),
          {x, dy, gradient});
  }

  ResnetShape shape_;
  std::string key_;
  const Sequence* forward_ = nullptr;
  const Sequence* backward_ = nullptr;
};

// A convolution of the picture, ReLU, and for large pictures a maximum over 3 x 3 with stride 2.
class Stem : public PictureBlock {
 public:
  Stem(const ResnetShape& s, const std::string& key)
      : PictureBlock(s, key),
        c_(s.small_images ? Convolution{3, 64, 3, 1, s.image} : Convolution{3, 64, 7, 2, s.image}) {
    add_convolution("stem", c_);
    pooled_ =
        s.small_images ? c_.outputs() : 64 * ((c_.out_size() + 1) / 2) * ((c_.out_size() + 1) / 2);
    output_elements_ = s.micro_batch * pooled_;
    saved_elements_ = backward_workspace_ = s.micro_batch * c_.outputs();
  }

 private:
  const Tensor& first(const BlockPass& p) const override { return p.tokens; }
  void build_forward(Rank& rank, Sequence& s) const override {
    const int p = s.slot("parameters"), x = s.slot("tokens"), k = s.slot("saved"),
              y = s.slot("output");
    const SlotView all{k, 0, saved_elements_}, out{y, 0, output_elements_};
    convolve(rank, s, c_, {x, 0, picture()}, {p, 0, c_.weights()}, all);
    s.add(streaming(rank, "relu", c_.outputs(), c_.outputs(), {u}), {all});
    s.add(streaming(rank, shape_.small_images ? "copy" : "max_pool", c_.outputs(), pooled_, {r, w}),
          {all, out});
  }
  void build_backward(Rank& rank, Sequence& s) const override {
    s.slot("parameters");
    const int x = s.slot("tokens"), k = s.slot("saved"), dy = s.slot("d_output"),
              t = s.slot("workspace"), g = s.slot("gradients");
    s.slot("d_input");
    const SlotView all{k, 0, saved_elements_}, d{t, 0, saved_elements_};
    s.add(streaming(rank, "max_pool_backward", pooled_ + c_.outputs(), c_.outputs(), {r, r, w}),
          {all, {dy, 0, output_elements_}, d});
    s.add(streaming(rank, "relu_backward", 2 * c_.outputs(), c_.outputs(), {r, u}), {all, d});
    convolve_backward(rank, s, c_, {x, 0, picture()}, {}, {g, 0, c_.weights()}, d, {});
  }
  std::int64_t picture() const {  // in words of four bytes
    return shape_.micro_batch * c_.inputs() * size_of(shape_.dtype) / 4;
  }

  Convolution c_;
  std::int64_t pooled_ = 0;
};

// y = relu(F(x) + shortcut(x)), F two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1 with four times
// the channels at the end; the shortcut is a 1 x 1 convolution where the shape changes. Saved: each
// convolution's output, on which norm and ReLU work in place. The sign of y, which the last ReLU's
// backward needs, is kept by the block behind as its input.
class Residual : public PictureBlock {
 public:
  Residual(const ResnetShape& s, const std::string& key, std::vector<Convolution> path,
           bool projected)
      : PictureBlock(s, key), path_(std::move(path)), projected_(projected) {
    for (std::size_t i = 0; i < path_.size(); ++i) {
      add_convolution(fmt::format("conv{}", i + 1), path_[i]);
      saved_elements_ += s.micro_batch * path_[i].outputs();
    }
    const Convolution &from = path_.front(), &to = path_.back();
    shortcut_ = {from.in, to.out, 1, from.size / to.out_size(), from.size};
    if (projected_) {
      add_convolution("shortcut", shortcut_);
      saved_elements_ += s.micro_batch * shortcut_.outputs();
    }
    output_elements_ = s.micro_batch * to.outputs();
    std::int64_t largest = from.inputs();
    for (const Convolution& c : path_) largest = std::max({largest, c.inputs(), c.outputs()});
    part_ = s.micro_batch * largest;
    backward_workspace_ = 3 * part_;
  }

 private:
  // Where the weights of convolution i begin, or those of the shortcut.
  std::int64_t weight_at(std::size_t i) const {
    std::int64_t at = 0;
    for (std::size_t j = 0; j < i; ++j) at += path_[j].weights() + 2 * path_[j].out;
    return at;
  }
  SlotView saved(int slot, std::size_t i) const {
    std::int64_t at = 0;
    for (std::size_t j = 0; j < i; ++j) at += shape_.micro_batch * path_[j].outputs();
    const Convolution& c = i < path_.size() ? path_[i] : shortcut_;
    return {slot, at, shape_.micro_batch * c.outputs()};
  }
  SlotView input(int slot) const { return {slot, 0, shape_.micro_batch * path_[0].inputs()}; }

  void build_forward(Rank& rank, Sequence& s) const override {
    const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
              y = s.slot("output");
    for (std::size_t i = 0; i < path_.size(); ++i) {
      convolve(rank, s, path_[i], i == 0 ? input(x) : saved(k, i - 1),
               {p, weight_at(i), path_[i].weights()}, saved(k, i));
      if (i + 1 < path_.size())
        s.add(streaming(rank, "relu", path_[i].outputs(), path_[i].outputs(), {u}), {saved(k, i)});
    }
    const std::size_t last = path_.size();
    if (projected_)
      convolve(rank, s, shortcut_, input(x), {p, weight_at(last), shortcut_.weights()},
               saved(k, last));
    const std::int64_t all = path_.back().outputs();
    s.add(streaming(rank, "residual_relu", 2 * all, all, {r, r, w}),
          {saved(k, last - 1), projected_ ? saved(k, last) : input(x), {y, 0, output_elements_}});
  }

  void build_backward(Rank& rank, Sequence& s) const override {
    const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
              dy = s.slot("d_output"), t = s.slot("workspace");
    const int g = s.slot("gradients"), dx = s.slot("d_input");
    const auto part = [&](std::int64_t which, std::int64_t elements) {
      return SlotView{t, which * part_, shape_.micro_batch * elements};
    };
    const std::int64_t all = path_.back().outputs();
    // Workspace: the gradient of the sum, then two that take turns along the path.
    s.add(streaming(rank, "relu_backward", 2 * all, all, {r, w}),
          {{dy, 0, output_elements_}, part(0, all)});
    s.add(streaming(rank, "copy", all, all, {r, w}), {part(0, all), part(1, all)});
    for (std::size_t i = path_.size(); i-- > 0;) {
      const auto turn = static_cast<std::int64_t>(path_.size() - 1 - i) % 2;
      const Convolution& c = path_[i];
      const SlotView d = part(1 + turn, c.outputs());
      if (i + 1 < path_.size())
        s.add(streaming(rank, "relu_backward", 2 * c.outputs(), c.outputs(), {r, u}),
              {saved(k, i), d});
      convolve_backward(rank, s, c, i == 0 ? input(x) : saved(k, i - 1),
                        {p, weight_at(i), c.weights()}, {g, weight_at(i), c.weights()}, d,
                        i == 0 ? input(dx) : part(2 - turn, c.inputs()));
    }
    const std::size_t last = path_.size();
    const std::int64_t inputs = path_[0].inputs();
    if (projected_)
      convolve_backward(rank, s, shortcut_, input(x), {p, weight_at(last), shortcut_.weights()},
                        {g, weight_at(last), shortcut_.weights()}, part(0, all), part(1, inputs));
    s.add(streaming(rank, "residual_backward", 2 * inputs, inputs, {r, u}),
          {projected_ ? part(1, inputs) : part(0, inputs), input(dx)});
  }

  std::vector<Convolution> path_;
  Convolution shortcut_{};
  bool projected_;
  std::int64_t part_ = 0;  // elements of one of the three parts of the workspace
};

// Average over the pixels, one linear layer, cross-entropy.
class Classifier : public PictureBlock {
 public:
  Classifier(const ResnetShape& s, const std::string& key, std::int64_t channels,
             std::int64_t pixels)
      : PictureBlock(s, key), channels_(channels), pixels_(pixels) {
    parameters_ = {
        {"weight", channels * s.classes, 1.0 / std::sqrt(static_cast<double>(channels)), 0, true},
        {"bias", s.classes, 0, 0, false}};
    forward_flops_ = Flops(2.0 * s.micro_batch * static_cast<double>(channels * s.classes));
    saved_elements_ = s.micro_batch * (channels + s.classes);
    backward_workspace_ = s.micro_batch * channels;
    computes_loss_ = true;
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(*forward_, {p.parameters, p.input, p.saved, p.targets, p.loss});
  }

 private:
  void build_forward(Rank& rank, Sequence& s) const override {
    const std::int64_t b = shape_.micro_batch, n = shape_.classes;
    const Dtype t = shape_.dtype;
    const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
              targets = s.slot("targets"), loss = s.slot("loss");
    const SlotView mean{k, 0, b * channels_}, logits{k, b * channels_, b * n};
    s.add(streaming(rank, "average_pool", channels_ * pixels_, channels_, {r, w}),
          {{x, 0, b * channels_ * pixels_}, mean});
    s.add(rank.prepare(Kernel::gemm_bias(b, n, channels_, t, "classes")),
          {mean, {p, 0, channels_ * n}, logits, {p, channels_ * n, n}});
    s.add(rank.prepare(Kernel::cross_entropy(
              b, n, 1.0 / (static_cast<double>(b) * shape_.micro_batches), t)),
          {logits, {targets, 0, b}, {loss, 0, 1}});
  }
  void build_backward(Rank& rank, Sequence& s) const override {
    const std::int64_t b = shape_.micro_batch, n = shape_.classes;
    const Dtype type = shape_.dtype;
    const int p = s.slot("parameters");
    s.slot("input");
    const int k = s.slot("saved");
    s.slot("d_output");
    const int t = s.slot("workspace"), g = s.slot("gradients"), dx = s.slot("d_input");
    const SlotView mean{k, 0, b * channels_}, d_logits{k, b * channels_, b * n},
        d_mean{t, 0, b * channels_};
    s.add(rank.prepare(Kernel::gemm(b, channels_, n, type, false, true, false, "classes.dgrad")),
          {d_logits, {p, 0, channels_ * n}, d_mean});
    s.add(rank.prepare(Kernel::gemm(channels_, n, b, type, true, false, true, "classes.wgrad")),
          {mean, d_logits, {g, 0, channels_ * n}});
    s.add(rank.prepare(Kernel::column_sum(b, n, type)), {d_logits, {g, channels_ * n, n}});
    s.add(streaming(rank, "average_pool_backward", channels_, channels_ * pixels_, {r, w}),
          {d_mean, {dx, 0, b * channels_ * pixels_}});
  }

  std::int64_t channels_, pixels_;
};

struct Stages {
  std::array<int, 4> blocks;
  bool bottleneck;
};

Stages stages_of(int depth) {
  switch (depth) {
    case 18:
      return {{2, 2, 2, 2}, false};
    case 34:
      return {{3, 4, 6, 3}, false};
    case 50:
      return {{3, 4, 6, 3}, true};
    case 101:
      return {{3, 4, 23, 3}, true};
    case 152:
      return {{3, 8, 36, 3}, true};
    default:
      throw Error(Category::config, "there is no ResNet of depth " + std::to_string(depth) +
                                        ", only 18, 34, 50, 101 and 152");
  }
}

}  // namespace

Model make_resnet(const ResnetShape& shape) {
  const Stages stages = stages_of(shape.depth);
  const std::string key = fmt::format("resnet{} {}x{} {} {}{} {}", shape.depth, shape.micro_batch,
                                      shape.image, shape.classes, shape.small_images ? "s" : "",
                                      shape.micro_batches, name(shape.dtype));
  Model model;
  model.name = fmt::format("resnet-{}", shape.depth);
  model.dtype = shape.dtype;
  model.micro_batch = shape.micro_batch;
  model.tokens_per_sample = std::int64_t{3} * shape.image * shape.image * size_of(shape.dtype) / 4;
  model.blocks.push_back(std::make_shared<Stem>(shape, key + " stem"));
  std::int64_t channels = 64, size = shape.image;
  if (!shape.small_images) size = ((size + 1) / 2 + 1) / 2;
  for (std::size_t stage = 0; stage < 4; ++stage) {
    const std::int64_t width = std::int64_t{64} << stage,
                       out = stages.bottleneck ? 4 * width : width;
    for (int i = 0; i < stages.blocks[stage]; ++i) {
      const std::int64_t stride = stage > 0 && i == 0 ? 2 : 1, next = (size + stride - 1) / stride;
      std::vector<Convolution> path;
      if (stages.bottleneck)
        path = {{channels, width, 1, 1, size},
                {width, width, 3, stride, size},
                {width, out, 1, 1, next}};
      else
        path = {{channels, width, 3, stride, size}, {width, width, 3, 1, next}};
      const bool projected = stride != 1 || channels != out;
      model.blocks.push_back(std::make_shared<Residual>(
          shape, fmt::format("{} stage {} {}", key, stage, projected), path, projected));
      channels = out;
      size = next;
    }
  }
  model.blocks.push_back(
      std::make_shared<Classifier>(shape, key + " classes", channels, size * size));
  return model;
}

}  // namespace orrery
