#include "algorithms/models/resnet.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "algorithms/models/convolution_path.hpp"
#include "algorithms/models/picture_blocks.hpp"

namespace orrery {

namespace {

// y = relu(F(x) + shortcut(x)), F two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1 with four times
// the channels at the end; the shortcut is a 1 x 1 convolution where the shape changes. Saved: what
// both paths save, then their outputs.
class Residual : public Block {
 public:
  Residual(const std::string& key, const std::vector<ConvolutionShape>& path, bool projected,
           Dtype dtype)
      : path_(key + " path", path, {"conv1", "conv2", "conv3"}, dtype, {.last_relu = false}),
        dtype_(dtype),
        channels_(path.back().out),
        inputs_(path.front().inputs()) {
    const ConvolutionShape &from = path.front(), &to = path.back();
    add(path_);
    if (projected) {
      const ConvolutionShape c{from.samples, from.size, from.in,
                               to.out,       1,         from.size / to.out_size()};
      shortcut_.emplace(key + " shortcut", std::vector{c}, std::vector<std::string>{"shortcut"},
                        dtype, ConvolutionPath::Options{.last_relu = false});
      shortcut_at_ = BlockPlace{}.after(path_);
      add(*shortcut_);
    }
    output_elements_ = to.outputs();
    sum_at_ = saved_elements_;
    saved_elements_ += (projected ? 2 : 1) * output_elements_;
    path_workspace_ =
        std::max(path_.backward_workspace(), shortcut_ ? shortcut_->backward_workspace() : 0);
    backward_workspace_ = path_workspace_ + output_elements_ + (projected ? inputs_ : 0);
  }
  void prepare(Rank& rank) override {
    path_.prepare(rank);
    backward_flops_ = path_.backward_flops();
    if (shortcut_) {
      shortcut_->prepare(rank);
      backward_flops_ += shortcut_->backward_flops();
    }
    const std::int64_t rows = output_elements_ / channels_;
    sum_ = rank.prepare(Kernel::residual_add(rows, channels_, dtype_, false, Activation::relu));
    sum_backward_ =
        rank.prepare(Kernel::residual_add_backward(rows, channels_, Activation::relu, dtype_));
    add_ = rank.prepare(Kernel::linear_combination(inputs_, 1, 1, dtype_));
  }
  void forward(const BlockPass& p) const override {
    BlockPass path = pass_of(path_, p, {});
    path.input = p.input;
    path.output = path_output(p);
    path_.forward(path);
    if (shortcut_) {
      BlockPass shortcut = pass_of(*shortcut_, p, shortcut_at_);
      shortcut.input = p.input;
      shortcut.output = shortcut_output(p);
      shortcut_->forward(shortcut);
    }
    p.stream.launch(sum_, {path_output(p), shortcut_output(p), {}, p.output});
  }
  void backward(const BlockPass& p) const override {
    const Tensor d_sum = part_of(p.workspace, path_workspace_, output_elements_);
    p.stream.launch(sum_backward_, {p.d_output, path_output(p), shortcut_output(p), d_sum});
    backward_of(path_, {}, p, d_sum, p.d_input);
    Tensor beside = d_sum;
    if (shortcut_) {
      beside = part_of(p.workspace, path_workspace_ + output_elements_, inputs_);
      backward_of(*shortcut_, shortcut_at_, p, d_sum, beside);
    }
    p.stream.launch(add_, {beside, p.d_input});
  }

 private:
  void add(const ConvolutionPath& path) {
    parameters_.insert(parameters_.end(), path.parameters().begin(), path.parameters().end());
    state_.insert(state_.end(), path.state().begin(), path.state().end());
    saved_elements_ += path.saved_elements();
    forward_flops_ += path.forward_flops();
  }
  void backward_of(const ConvolutionPath& path, const BlockPlace& place, const BlockPass& p,
                   const Tensor& d_output, const Tensor& d_input) const {
    BlockPass pass = pass_of(path, p, place);
    pass.input = p.input;
    pass.d_output = d_output;
    pass.d_input = d_input;
    pass.workspace = part_of(p.workspace, 0, path.backward_workspace());
    path.backward(pass);
  }
  Tensor path_output(const BlockPass& p) const {
    return part_of(p.saved, sum_at_, output_elements_);
  }
  Tensor shortcut_output(const BlockPass& p) const {
    return shortcut_ ? part_of(p.saved, sum_at_ + output_elements_, output_elements_) : p.input;
  }

  ConvolutionPath path_;
  std::optional<ConvolutionPath> shortcut_;
  BlockPlace shortcut_at_;
  Dtype dtype_;
  std::int64_t channels_, inputs_;
  std::int64_t sum_at_ = 0, path_workspace_ = 0;
  Prepared sum_, sum_backward_, add_;
};

}  // namespace

std::vector<ConvolutionShape> residual_path(std::int64_t samples, std::int64_t size,
                                            std::int64_t in, std::int64_t width,
                                            std::int64_t stride, bool bottleneck) {
  const std::int64_t next = (size + stride - 1) / stride;
  if (bottleneck)
    return {{samples, size, in, width, 1, 1},
            {samples, size, width, width, 3, stride},
            {samples, next, width, 4 * width, 1, 1}};
  return {{samples, size, in, width, 3, stride}, {samples, next, width, width, 3, 1}};
}

Model picture_model(std::string name, const ResnetShape& shape,
                    std::shared_ptr<const std::string> pictures) {
  Model model;
  model.name = std::move(name);
  model.dtype = shape.dtype;
  model.micro_batch = shape.micro_batch;
  model.picture = shape.image;
  model.tokens_per_sample = std::int64_t{3} * shape.image * shape.image;
  model.text = std::move(pictures);
  return model;
}

namespace {
PictureStages stages_of(int depth) {
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

PictureStages picture_stages(const ResnetShape& shape) {
  PictureStages stages = stages_of(shape.depth);
  if (!shape.blocks.empty()) stages.blocks = shape.blocks;
  return stages;
}

std::string picture_key(const char* what, const ResnetShape& s) {
  return fmt::format("{}{} {} {} {}x{} {} {}{} {}", what, s.depth, fmt::join(s.blocks, "-"),
                     s.width, s.micro_batch, s.image, s.classes, s.small_images ? "s" : "",
                     s.micro_batches, name(s.dtype));
}
Model make_resnet(const ResnetShape& shape, std::shared_ptr<const std::string> pictures) {
  const PictureStages stages = picture_stages(shape);
  const std::string key = picture_key("resnet", shape);
  Model model = picture_model(fmt::format("resnet-{}", shape.depth), shape, std::move(pictures));
  const std::int64_t b = shape.micro_batch;
  std::int64_t channels = shape.width, size = shape.image;
  const ConvolutionShape stem = shape.small_images ? ConvolutionShape{b, size, 3, channels, 3, 1}
                                                   : ConvolutionShape{b, size, 3, channels, 7, 2};
  model.blocks.push_back(make_picture_stem(
      key + " stem", stem, shape.small_images ? PicturePool{} : PicturePool{3, 2}, 1, shape.dtype));
  if (!shape.small_images) size = ((size + 1) / 2 + 1) / 2;
  for (std::size_t stage = 0; stage < stages.blocks.size(); ++stage) {
    const std::int64_t width = std::int64_t{shape.width} << stage,
                       out = stages.bottleneck ? 4 * width : width;
    for (int i = 0; i < stages.blocks[stage]; ++i) {
      const std::int64_t stride = stage > 0 && i == 0 ? 2 : 1, next = (size + stride - 1) / stride;
      const bool projected = stride != 1 || channels != out;
      model.blocks.push_back(std::make_shared<Residual>(
          fmt::format("{} stage {} {}", key, stage, projected),
          residual_path(b, size, channels, width, stride, stages.bottleneck), projected,
          shape.dtype));
      channels = out;
      size = next;
    }
  }
  model.blocks.push_back(make_classifier(
      key + " classes", {b, size, channels, shape.classes, 1, shape.micro_batches, shape.dtype}));
  return model;
}

}  // namespace orrery
