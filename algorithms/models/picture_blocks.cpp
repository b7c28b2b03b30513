#include "algorithms/models/picture_blocks.hpp"

#include <cmath>

#include "algorithms/models/convolution_path.hpp"

namespace orrery {

namespace {

// Saved: what the path saves, then its output where it is pooled or divided into streams.
class Stem : public Block {
 public:
  Stem(const std::string& key, const ConvolutionShape& c, const PicturePool& pool, int streams,
       Dtype dtype)
      : key_(key),
        c_(c),
        pool_(pool),
        streams_(streams),
        dtype_(dtype),
        path_(key, {c}, {"stem"}, dtype, {.last_relu = true, .reads_pictures = true}) {
    parameters_ = path_.parameters();
    state_ = path_.state();
    forward_flops_ = path_.forward_flops();
    const std::int64_t padded = c.out_size() + 2 * ((pool.kernel - 1) / 2);
    const std::int64_t side = pools() ? (padded - pool.kernel) / pool.stride + 1 : c.out_size();
    output_elements_ = c.samples * side * side * c.out;
    saved_elements_ = path_.saved_elements() + (direct() ? 0 : c.outputs());
    forward_workspace_ = pools() && streams > 1 ? output_elements_ : 0;
    backward_workspace_ =
        path_.backward_workspace() + (direct() ? 0 : c.outputs()) + forward_workspace_;
  }
  void prepare(Rank& rank) override {
    path_.prepare(rank);
    backward_flops_ = path_.backward_flops();
    if (pools()) {
      const auto make = [&](auto factory) {
        return rank.prepare(
            factory(c_.samples, c_.out_size(), c_.out, pool_.kernel, pool_.stride, dtype_));
      };
      pooling_ = make(Kernel::max_pool);
      pooling_backward_ = make(Kernel::max_pool_backward);
    }
    const std::int64_t half = c_.out / 2, pixels = output_elements_ / c_.out;
    divide_ = rank.prepare(Kernel::permute(pixels, 2, half, c_.out, half, dtype_));
    join_ = rank.prepare(Kernel::permute(pixels, 2, half, c_.out, half, dtype_, true));
  }
  void forward(const BlockPass& p) const override {
    BlockPass path = pass_of(path_, p, {});
    path.tokens = p.tokens;
    path.output = direct() ? p.output : activated(p);
    path_.forward(path);
    if (direct()) return;
    const Tensor pooled = !pools() ? path.output : streams_ > 1 ? p.workspace : p.output;
    if (pools()) p.stream.launch(pooling_, {path.output, pooled});
    if (streams_ > 1) p.stream.launch(divide_, {pooled, p.output});
  }
  void backward(const BlockPass& p) const override {
    BlockPass path = pass_of(path_, p, {});
    path.tokens = p.tokens;
    path.workspace = part_of(p.workspace, 0, path_.backward_workspace());
    const Tensor d_activated =
        part_of(p.workspace, path_.backward_workspace(), direct() ? 0 : c_.outputs());
    Tensor d_pooled = p.d_output;
    if (streams_ > 1) {
      d_pooled = pools() ? part_of(p.workspace, path_.backward_workspace() + c_.outputs(),
                                   output_elements_)
                         : d_activated;
      p.stream.launch(join_, {d_pooled, p.d_output});
    }
    if (pools()) p.stream.launch(pooling_backward_, {activated(p), d_pooled, d_activated});
    path.d_output = pools() ? d_activated : d_pooled;
    path_.backward(path);
  }

 private:
  bool pools() const { return pool_.kernel > 0; }
  bool direct() const { return !pools() && streams_ == 1; }
  Tensor activated(const BlockPass& p) const {
    return part_of(p.saved, path_.saved_elements(), c_.outputs());
  }

  std::string key_;
  ConvolutionShape c_;
  PicturePool pool_;
  int streams_;
  Dtype dtype_;
  ConvolutionPath path_;
  Prepared pooling_, pooling_backward_, divide_, join_;
};

// Saved: the means, of a sample one behind the other; the logits, later their gradients. Of two
// streams the means are found in the workspace, by stream.
class Classifier : public Block {
 public:
  Classifier(std::string key, const ClassifierShape& shape) : key_(std::move(key)), s_(shape) {
    parameters_ = {{"weight", s_.channels * s_.classes,
                    1.0 / std::sqrt(static_cast<double>(s_.channels)), 0, true, s_.classes},
                   {"bias", s_.classes, 0, 0, false}};
    forward_flops_ = Flops(2.0 * static_cast<double>(s_.samples * s_.channels * s_.classes));
    means_ = s_.samples * s_.channels;
    saved_elements_ = means_ + s_.samples * s_.classes;
    forward_workspace_ = s_.streams > 1 ? means_ : 0;
    backward_workspace_ = s_.streams * means_;
    computes_loss_ = true;
  }
  void prepare(Rank& rank) override {
    forward_ = &rank.sequence(key_ + ".forward", [&](Sequence& s) { build_forward(rank, s); });
    backward_ = &rank.sequence(key_ + ".backward", [&](Sequence& s) { build_backward(rank, s); });
    backward_flops_ = backward_->cost().matrix;
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(*forward_, {p.parameters, p.input, p.saved, p.targets, p.loss, p.workspace});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(*backward_, {p.parameters, p.saved, p.workspace, p.gradients, p.d_input});
  }

 private:
  std::int64_t half() const { return s_.channels / s_.streams; }
  std::int64_t inputs() const { return s_.samples * s_.size * s_.size * s_.channels; }
  // Between means by stream and by sample.
  Prepared reorder(Rank& rank, bool inverse) const {
    return rank.prepare(Kernel::permute(s_.streams, s_.samples, half(), s_.samples * half(), half(),
                                        s_.dtype, inverse));
  }
  void build_forward(Rank& rank, Sequence& s) const {
    const std::int64_t b = s_.samples, n = s_.classes;
    const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
              targets = s.slot("targets"), loss = s.slot("loss"), t = s.slot("workspace");
    const SlotView mean{k, 0, means_}, logits{k, means_, b * n}, by_stream{t, 0, means_};
    s.add(rank.prepare(Kernel::average_pool(s_.streams * b, s_.size, half(), s_.dtype)),
          {{x, 0, inputs()}, s_.streams > 1 ? by_stream : mean});
    if (s_.streams > 1) s.add(reorder(rank, false), {by_stream, mean});
    s.add(rank.prepare(Kernel::gemm_bias(b, n, s_.channels, s_.dtype, "classes")),
          {mean, {p, 0, s_.channels * n}, logits, {p, s_.channels * n, n}});
    s.add(rank.prepare(Kernel::cross_entropy(
              b, n, 1.0 / (static_cast<double>(b) * s_.micro_batches), s_.dtype)),
          {logits, {targets, 0, b}, {loss, 0, 1}});
  }
  void build_backward(Rank& rank, Sequence& s) const {
    const std::int64_t b = s_.samples, n = s_.classes, c = s_.channels;
    const Dtype type = s_.dtype;
    const int p = s.slot("parameters"), k = s.slot("saved"), t = s.slot("workspace"),
              g = s.slot("gradients"), dx = s.slot("d_input");
    const SlotView mean{k, 0, means_}, d_logits{k, means_, b * n}, d_mean{t, 0, means_},
        by_stream{t, means_, means_};
    s.add(rank.prepare(Kernel::gemm(b, c, n, type, false, true, false, "classes.dgrad")),
          {d_logits, {p, 0, c * n}, d_mean});
    s.add(rank.prepare(Kernel::gemm(c, n, b, type, true, false, true, "classes.wgrad")),
          {mean, d_logits, {g, 0, c * n}});
    s.add(rank.prepare(Kernel::column_sum(b, n, type)), {d_logits, {g, c * n, n}});
    if (s_.streams > 1) s.add(reorder(rank, true), {by_stream, d_mean});
    s.add(rank.prepare(Kernel::average_pool_backward(s_.streams * b, s_.size, half(), type)),
          {s_.streams > 1 ? by_stream : d_mean, {dx, 0, inputs()}});
  }

  std::string key_;
  ClassifierShape s_;
  std::int64_t means_ = 0;
  const Sequence* forward_ = nullptr;
  const Sequence* backward_ = nullptr;
};

}  // namespace

std::shared_ptr<Block> make_picture_stem(const std::string& key, const ConvolutionShape& shape,
                                         const PicturePool& pool, int streams, Dtype dtype) {
  return std::make_shared<Stem>(key, shape, pool, streams, dtype);
}

std::shared_ptr<Block> make_classifier(const std::string& key, const ClassifierShape& shape) {
  return std::make_shared<Classifier>(key, shape);
}

}  // namespace orrery
