#include "algorithms/models/convolution_path.hpp"

#include <algorithm>
#include <cmath>

namespace orrery {

void add_convolution(const std::string& name, const ConvolutionShape& c,
                     std::vector<ParameterSpec>& parameters, std::vector<ParameterSpec>& state) {
  const double fan_out = static_cast<double>(c.out * c.kernel * c.kernel);
  parameters.push_back({name + ".weight", c.weights(), std::sqrt(2 / fan_out), 0, true, c.out});
  parameters.push_back({name + ".norm.gain", c.out, 0, 1, false});
  parameters.push_back({name + ".norm.bias", c.out, 0, 0, false});
  state.push_back({name + ".norm.running_mean", c.out, 0, 0, false});
  state.push_back({name + ".norm.running_variance", c.out, 0, 1, false});
}

ConvolutionPath::ConvolutionPath(std::string key, std::vector<ConvolutionShape> path,
                                 const std::vector<std::string>& names, Dtype dtype,
                                 Options options)
    : key_(std::move(key)), path_(std::move(path)), dtype_(dtype), options_(options) {
  for (std::size_t i = 0; i < path_.size(); ++i) {
    const ConvolutionShape& c = path_[i];
    places_.push_back({parameter_elements(), state_elements(), saved_elements_});
    add_convolution(names[i], c, parameters_, state_);
    saved_elements_ += (relu_behind(i) ? 2 : 1) * c.outputs();
    part_ = std::max(part_, c.outputs());
    if (i > 0) part_ = std::max(part_, c.inputs());
    forward_flops_ +=
        Flops(2.0 * static_cast<double>(c.window()) * static_cast<double>(c.outputs()));
  }
  output_elements_ = path_.back().outputs();
  backward_workspace_ = 2 * part_;
}

void ConvolutionPath::prepare(Rank& rank) {
  forward_ = &rank.sequence(key_ + ".forward", [&](Sequence& s) { build_forward(rank, s, false); });
  evaluate_ =
      &rank.sequence(key_ + ".evaluate", [&](Sequence& s) { build_forward(rank, s, true); });
  backward_ = &rank.sequence(key_ + ".backward", [&](Sequence& s) { build_backward(rank, s); });
  backward_flops_ = backward_->cost().matrix;
}

void ConvolutionPath::forward(const BlockPass& p) const {
  const Tensor& x = options_.reads_pictures ? p.tokens : p.input;
  p.stream.launch(p.evaluates ? *evaluate_ : *forward_,
                  {p.parameters, x, p.saved, p.output, p.state});
}

void ConvolutionPath::backward(const BlockPass& p) const {
  const Tensor& x = options_.reads_pictures ? p.tokens : p.input;
  p.stream.launch(*backward_,
                  {p.parameters, x, p.saved, p.d_output, p.workspace, p.gradients, p.d_input});
}

void ConvolutionPath::build_forward(Rank& rank, Sequence& s, bool evaluates) const {
  const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
            y = s.slot("output"), t = s.slot("state");
  const SlotView output{y, 0, output_elements_};
  SlotView input{x, 0, path_.front().inputs()};
  for (std::size_t i = 0; i < path_.size(); ++i) {
    const ConvolutionShape& c = path_[i];
    const auto [parameters, state, saved] = places_[i];
    const bool last = i + 1 == path_.size();
    const SlotView weights{p, parameters, c.weights()}, gain{p, parameters + c.weights(), c.out},
        bias{p, parameters + c.weights() + c.out, c.out}, product{k, saved, c.outputs()};
    const SlotView normed = relu_behind(i) ? SlotView{k, saved + c.outputs(), c.outputs()} : output;
    s.add(rank.prepare(Kernel::convolution(c, dtype_)), {input, weights, product});
    s.add(rank.prepare(Kernel::batch_norm(pixels(i), c.out, batch_norm_epsilon, batch_norm_momentum,
                                          dtype_, evaluates)),
          {product, gain, bias, normed, {t, state, 2 * c.out}});
    if (relu_behind(i))
      s.add(
          rank.prepare(Kernel::bias_activation(pixels(i), c.out, Activation::relu, dtype_, false)),
          {normed, {}, last ? output : normed});
    input = normed;
  }
}

// Workspace: two gradients that take turns along the path, of a norm's output and of its input.
void ConvolutionPath::build_backward(Rank& rank, Sequence& s) const {
  const int p = s.slot("parameters"), x = s.slot("input"), k = s.slot("saved"),
            dy = s.slot("d_output"), t = s.slot("workspace"), g = s.slot("gradients"),
            dx = s.slot("d_input");
  SlotView d_output{dy, 0, output_elements_};  // of what is behind the convolution and its norm
  for (std::size_t i = path_.size(); i-- > 0;) {
    const ConvolutionShape& c = path_[i];
    const auto [parameters, state, saved] = places_[i];
    const std::int64_t gain_at = parameters + c.weights();
    const SlotView product{k, saved, c.outputs()}, d_normed{t, 0, c.outputs()},
        d_product{t, part_, c.outputs()}, weights{p, parameters, c.weights()};
    if (relu_behind(i))
      s.add(rank.prepare(Kernel::bias_activation_backward(pixels(i), c.out, Activation::relu,
                                                          dtype_, false)),
            {d_output, {k, saved + c.outputs(), c.outputs()}, {}, d_normed});
    s.add(rank.prepare(Kernel::batch_norm_backward(pixels(i), c.out, batch_norm_epsilon, dtype_)),
          {relu_behind(i) ? d_normed : d_output,
           product,
           {p, gain_at, c.out},
           {g, gain_at, c.out},
           {g, gain_at + c.out, c.out},
           d_product});
    const SlotView input = i == 0 ? SlotView{x, 0, c.inputs()}
                                  : SlotView{k, places_[i - 1].saved + c.inputs(), c.inputs()};
    const SlotView d_input = i == 0 ? SlotView{dx, 0, c.inputs()} : SlotView{t, 0, c.inputs()};
    if (i > 0 || !options_.reads_pictures)
      s.add(rank.prepare(Kernel::convolution_input_gradient(c, dtype_)),
            {d_product, weights, d_input});
    s.add(rank.prepare(Kernel::convolution_weight_gradient(c, dtype_)),
          {input, d_product, {g, parameters, c.weights()}});
    d_output = d_input;
  }
}

Tensor part_of(const Tensor& tensor, std::int64_t begin, std::int64_t elements) {
  return tensor && elements > 0 ? tensor.slice(begin, begin + elements) : Tensor();
}

BlockPlace BlockPlace::after(const Block& b) const {
  return {parameters + b.parameter_elements(), state + b.state_elements(),
          saved + b.saved_elements(), kept + b.kept_elements()};
}

BlockPass pass_of(const Block& b, const BlockPass& whole, const BlockPlace& at) {
  BlockPass pass{whole.stream};
  pass.parameters = part_of(whole.parameters, at.parameters, b.parameter_elements());
  pass.gradients = part_of(whole.gradients, at.parameters, b.parameter_elements());
  pass.state = part_of(whole.state, at.state, b.state_elements());
  pass.saved = part_of(whole.saved, at.saved, b.saved_elements());
  pass.kept = part_of(whole.kept, at.kept, b.kept_elements());
  pass.evaluates = whole.evaluates;
  pass.paired = whole.paired;
  return pass;
}

}  // namespace orrery
