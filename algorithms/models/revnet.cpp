#include "algorithms/models/revnet.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "algorithms/models/convolution_path.hpp"
#include "algorithms/models/picture_blocks.hpp"
#include "algorithms/models/reversible.hpp"

namespace orrery {

namespace {

// A block that changes the shape, in four paths, of which a kind of block has three:
//   basic        h = first(x1);  y1 = second(h) + beside(x2);  y2 = h
//   bottleneck                   y1 = first(x1) + beside(x2);  y2 = other(x1)
// Saved: what they save and, of a basic block, h.
class Downsampling : public Block {
 public:
  Downsampling(const std::string& key, const std::vector<ConvolutionShape>& path, Dtype dtype)
      : basic_(path.size() == 2), dtype_(dtype) {
    const ConvolutionShape &from = path.front(), &to = path.back();
    const ConvolutionShape projection{from.samples, from.size, from.in,
                                      to.out,       1,         from.size / to.out_size()};
    inputs_ = from.inputs();
    n_ = to.outputs();
    if (basic_) {
      first_ = add(key + " first", {from}, {"conv1"}, true);
      second_ = add(key + " second", {to}, {"conv2"}, true);
    } else {
      first_ = add(key + " path", path, {"conv1", "conv2", "conv3"}, true);
      second_ = add(key + " other", {projection}, {"shortcut1"}, false);
    }
    beside_ = add(key + " beside", {projection}, {"shortcut2"}, false);
    h_at_ = saved_elements_;
    if (basic_) saved_elements_ += n_;
    output_elements_ = 2 * n_;
    forward_workspace_ = n_;
    paths_workspace_ = backward_workspace_;
    backward_workspace_ += std::max(n_, inputs_);
  }
  void prepare(Rank& rank) override {
    backward_flops_ = Flops(0);
    for (Part* part : {&first_, &second_, &beside_}) {
      part->path->prepare(rank);
      backward_flops_ += part->path->backward_flops();
    }
    const auto sum = [&](std::int64_t n) {
      return rank.prepare(Kernel::linear_combination(n, 1, 1, dtype_));
    };
    add_outputs_ = sum(n_);
    add_inputs_ = sum(inputs_);
  }
  void forward(const BlockPass& p) const override {
    const Tensor x1 = part_of(p.input, 0, inputs_), x2 = part_of(p.input, inputs_, inputs_),
                 y1 = part_of(p.output, 0, n_), y2 = part_of(p.output, n_, n_);
    if (basic_) {
      run(first_, p, x1, h(p));
      run(second_, p, h(p), y1);
      p.stream.copy(h(p), y2);
    } else {
      run(first_, p, x1, y1);
      run(second_, p, x1, y2);
    }
    run(beside_, p, x2, p.workspace);
    p.stream.launch(add_outputs_, {p.workspace, y1});
  }
  void backward(const BlockPass& p) const override {
    const Tensor x1 = part_of(p.input, 0, inputs_), x2 = part_of(p.input, inputs_, inputs_),
                 dx1 = part_of(p.d_input, 0, inputs_), dx2 = part_of(p.d_input, inputs_, inputs_),
                 dy1 = part_of(p.d_output, 0, n_), dy2 = part_of(p.d_output, n_, n_);
    if (basic_) {
      const Tensor dh = part_of(p.workspace, paths_workspace_, n_);
      run_backward(second_, p, h(p), dy1, dh);
      p.stream.launch(add_outputs_, {dy2, dh});
      run_backward(first_, p, x1, dh, dx1);
    } else {
      const Tensor more = part_of(p.workspace, paths_workspace_, inputs_);
      run_backward(first_, p, x1, dy1, dx1);
      run_backward(second_, p, x1, dy2, more);
      p.stream.launch(add_inputs_, {more, dx1});
    }
    run_backward(beside_, p, x2, dy1, dx2);
  }

 private:
  struct Part {
    std::shared_ptr<ConvolutionPath> path;
    BlockPlace place;
  };
  Part add(const std::string& key, std::vector<ConvolutionShape> path,
           const std::vector<std::string>& names, bool relu) {
    Part part{std::make_shared<ConvolutionPath>(key, std::move(path), names, dtype_,
                                                ConvolutionPath::Options{.last_relu = relu}),
              {parameter_elements(), state_elements(), saved_elements_, 0}};
    const Block& block = *part.path;
    parameters_.insert(parameters_.end(), block.parameters().begin(), block.parameters().end());
    state_.insert(state_.end(), block.state().begin(), block.state().end());
    saved_elements_ += block.saved_elements();
    forward_flops_ += block.forward_flops();
    backward_workspace_ = std::max(backward_workspace_, block.backward_workspace());
    return part;
  }
  Tensor h(const BlockPass& p) const { return part_of(p.saved, h_at_, n_); }
  static void run(const Part& part, const BlockPass& p, const Tensor& x, const Tensor& y) {
    BlockPass pass = pass_of(*part.path, p, part.place);
    pass.input = x;
    pass.output = y;
    part.path->forward(pass);
  }
  static void run_backward(const Part& part, const BlockPass& p, const Tensor& x, const Tensor& dy,
                           const Tensor& dx) {
    BlockPass pass = pass_of(*part.path, p, part.place);
    pass.input = x;
    pass.d_output = dy;
    pass.d_input = dx;
    pass.workspace = part_of(p.workspace, 0, part.path->backward_workspace());
    part.path->backward(pass);
  }

  bool basic_;
  Dtype dtype_;
  Part first_, second_, beside_;
  std::int64_t inputs_ = 0, n_ = 0, h_at_ = 0, paths_workspace_ = 0;  // of one stream
  Prepared add_outputs_, add_inputs_;
};

}  // namespace

Model make_revnet(const ResnetShape& shape, std::shared_ptr<const std::string> pictures) {
  const PictureStages stages = picture_stages(shape);
  const std::string key = picture_key("revnet", shape);
  Model model = picture_model(fmt::format("revnet-{}", shape.depth), shape, std::move(pictures));
  const std::int64_t b = shape.micro_batch;
  std::int64_t channels = shape.width, size = shape.image;  // channels of a stream
  const ConvolutionShape stem = shape.small_images
                                    ? ConvolutionShape{b, size, 3, 2 * channels, 3, 1}
                                    : ConvolutionShape{b, size, 3, 2 * channels, 7, 2};
  model.blocks.push_back(make_picture_stem(
      key + " stem", stem, shape.small_images ? PicturePool{} : PicturePool{2, 2}, 2, shape.dtype));
  if (!shape.small_images) size = (size + 1) / 2 / 2;
  std::vector<std::pair<std::int64_t, std::int64_t>> outputs{{size, 2 * channels}};  // by block
  for (std::size_t stage = 0; stage < stages.blocks.size(); ++stage) {
    const std::int64_t width = std::int64_t{shape.width} << stage,
                       out = stages.bottleneck ? 4 * width : width;
    for (int i = 0; i < stages.blocks[stage]; ++i) {
      const std::int64_t stride = stage > 0 && i == 0 ? 2 : 1;
      const auto path = residual_path(b, size, channels, width, stride, stages.bottleneck);
      const std::string its_key = fmt::format("{} stage {}", key, stage);
      if (stride != 1 || channels != out)
        model.blocks.push_back(std::make_shared<Downsampling>(its_key, path, shape.dtype));
      else
        model.blocks.push_back(make_coupling(std::make_shared<ConvolutionPath>(
            its_key + " coupled", path, std::vector<std::string>{"conv1", "conv2", "conv3"},
            shape.dtype, ConvolutionPath::Options{})));
      channels = out;
      size = (size + stride - 1) / stride;
      outputs.emplace_back(size, 2 * channels);
    }
  }
  const auto head = [key, b, shape](std::int64_t side, std::int64_t width) {
    return make_classifier(fmt::format("{} classes {}x{}", key, side, width),
                           {b, side, width, shape.classes, 2, shape.micro_batches, shape.dtype});
  };
  model.blocks.push_back(head(size, 2 * channels));
  model.local_head = [outputs, head](int block) {
    const auto [side, width] = outputs[static_cast<std::size_t>(block)];
    return head(side, width);
  };
  return model;
}

Model make_picture_network(const ResnetShape& shape, std::shared_ptr<const std::string> pictures) {
  return shape.reversible ? make_revnet(shape, std::move(pictures))
                          : make_resnet(shape, std::move(pictures));
}

}  // namespace orrery
