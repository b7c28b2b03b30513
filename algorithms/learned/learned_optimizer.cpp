#include "algorithms/learned/learned_optimizer.hpp"

#include <algorithm>
#include <cmath>

#include "algorithms/codecs/view.hpp"

namespace orrery {

// What the kernels know.
struct LearnedOptimizer::Plan {
  std::vector<LearnedTensor> tensors;
  std::int64_t begin = 0, end = 0, stride = 0;  // of the flat vector, this part
  std::int64_t lines = 0, vectors = 0;          // of all matrices; of this part, at most
  std::int64_t first_vector = 0;
  std::size_t workers = 1, features = 0;
  double step = 0, exponent = 0, second_moment_decay = 0;
  std::vector<double> momentum_decays, factored_decays;
  struct Layer {
    std::size_t inputs = 0, outputs = 0;
    std::vector<float> weights, biases;  // [inputs][outputs]
  };
  std::vector<Layer> layers;

  // Calls f(tensor number, tensor, from, to) for what this part has of each tensor.
  template <class F>
  void for_own(F f) const {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const LearnedTensor& t = tensors[i];
      const std::int64_t from = std::max(begin, t.begin), to = std::min(end, t.begin + t.elements);
      if (from < to) f(i, t, from, to);
    }
  }
  FeatureState state(std::span<const float> theta, std::span<const float> deltas,
                     std::span<const float> moments, std::span<const float> lines_here,
                     std::span<const float> vectors_here) const {
    return {begin, stride, workers, theta, deltas, moments, lines_here, vectors_here, first_vector};
  }
  void add_lines(std::span<const float> deltas, std::span<float> sums) const;
  void move_lines(std::span<const float> sums, std::span<float> lines_here) const;
  void move_moments(const FeatureState& s, std::span<float> moments,
                    std::span<float> vectors_here) const;
  void add_squares(const FeatureState& s, std::span<float> squares) const;
  void step_all(const FeatureState& s, std::span<const float> squares, double t,
                std::span<float> theta) const;
  // d exp(exponent s)
  float direction(std::vector<float>& x, std::vector<float>& y) const;
};

namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

float moved(float to, double decay, double by) {
  return static_cast<float>(decay * to + (1 - decay) * by);
}

}  // namespace

void LearnedOptimizer::Plan::add_lines(std::span<const float> deltas, std::span<float> sums) const {
  std::vector<double> exact(sums.size());
  const FeatureState s = state({}, deltas, {}, {}, {});
  for_own([&](std::size_t, const LearnedTensor& t, std::int64_t from, std::int64_t to) {
    if (t.columns == 0) return;
    for (std::int64_t e = from; e < to; ++e) {
      const double g = s.delta(e);
      exact[index(t.place + t.line_of_fewer(e - t.begin))] += g * g;
      exact[index(t.place + t.fewer() + t.line_of_more(e - t.begin))] += g * g;
    }
  });
  std::transform(exact.begin(), exact.end(), sums.begin(),
                 [](double x) { return static_cast<float>(x); });
}

void LearnedOptimizer::Plan::move_lines(std::span<const float> sums,
                                        std::span<float> lines_here) const {
  for (const LearnedTensor& t : tensors) {
    if (t.columns == 0) continue;
    for (std::int64_t i = 0; i < t.fewer() + t.more(); ++i) {
      const std::size_t line = index(t.place + i);
      const auto length = static_cast<double>(i < t.fewer() ? t.more() : t.fewer());
      for (std::size_t d = 0; d < decay_count; ++d) {
        float& each = lines_here[d * index(lines) + line];
        each = moved(each, factored_decays[d], sums[line] / length + 1e-30);
      }
    }
  }
}

void LearnedOptimizer::Plan::move_moments(const FeatureState& s, std::span<float> moments,
                                          std::span<float> vectors_here) const {
  for_own([&](std::size_t, const LearnedTensor& t, std::int64_t from, std::int64_t to) {
    for (std::int64_t e = from; e < to; ++e) {
      const double g = s.delta(e);
      const std::size_t own = index(e - begin);
      for (std::size_t d = 0; d < decay_count; ++d) {
        float& m = moments[d * index(stride) + own];
        m = moved(m, momentum_decays[d], g);
      }
      float& v = moments[decay_count * index(stride) + own];
      v = moved(v, second_moment_decay, g * g);
      if (t.columns > 0) continue;
      const std::size_t place = index(t.place + e - t.begin - first_vector);
      for (std::size_t d = 0; d < decay_count; ++d) {
        float& each = vectors_here[d * index(vectors) + place];
        each = moved(each, factored_decays[d], g * g + 1e-30);
      }
    }
  });
}

void LearnedOptimizer::Plan::add_squares(const FeatureState& s, std::span<float> squares) const {
  std::fill(squares.begin(), squares.end(), 0.0F);
  for_own([&](std::size_t i, const LearnedTensor& t, std::int64_t from, std::int64_t to) {
    const Features of(s, t);
    std::vector<float> x(features);
    std::vector<double> sums(features);
    for (std::int64_t e = from; e < to; ++e) {
      of.at(e, x);
      for (std::size_t f = 0; f < features; ++f) sums[f] += static_cast<double>(x[f]) * x[f];
    }
    for (std::size_t f = 0; f < features; ++f)
      squares[i * features + f] = static_cast<float>(sums[f]);
  });
}

float LearnedOptimizer::Plan::direction(std::vector<float>& x, std::vector<float>& y) const {
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const Layer& layer = layers[l];
    y.assign(layer.biases.begin(), layer.biases.end());
    for (std::size_t i = 0; i < layer.inputs; ++i) {
      const float* row = &layer.weights[i * layer.outputs];
      for (std::size_t o = 0; o < layer.outputs; ++o) y[o] += x[i] * row[o];
    }
    if (l + 1 < layers.size())
      for (float& each : y) each = std::max(each, 0.0F);
    std::swap(x, y);
  }
  return x[0] * std::exp(static_cast<float>(exponent) * x[1]);
}

void LearnedOptimizer::Plan::step_all(const FeatureState& s, std::span<const float> squares,
                                      double t, std::span<float> theta) const {
  const std::array<float, time_features> time = time_features_at(t);
  std::vector<float> x, y, scales(features);
  for_own([&](std::size_t i, const LearnedTensor& tensor, std::int64_t from, std::int64_t to) {
    const Features of(s, tensor);
    for (std::size_t f = 0; f < features; ++f)
      scales[f] = static_cast<float>(
          1 / std::sqrt(1e-5 + squares[i * features + f] / static_cast<double>(tensor.elements)));
    const auto size = static_cast<float>(step * tensor.rate);
    for (std::int64_t e = from; e < to; ++e) {
      x.resize(features + time_features);
      of.at(e, x);
      for (std::size_t f = 0; f < features; ++f) x[f] *= scales[f];
      std::copy(time.begin(), time.end(), x.begin() + static_cast<std::ptrdiff_t>(features));
      theta[index(e - begin)] -= size * direction(x, y);
    }
  });
}

// Where tensors and their lines lie. Sizes are the same for all parts.
void LearnedOptimizer::lay_out(std::span<const Parameter> parameters, Plan& plan) const {
  std::int64_t elements = 0, vectors = 0;
  for (const Parameter& p : parameters) {
    LearnedTensor t{p.begin, p.elements, p.columns > 1 ? p.columns : 0, 0, p.rates.adaptive};
    t.place = t.columns == 0 ? vectors : plan.lines;
    (t.columns == 0 ? vectors : plan.lines) += t.columns == 0 ? t.elements : t.fewer() + t.more();
    elements = std::max(elements, p.begin + p.elements);
    plan.tensors.push_back(t);
  }
  plan.stride = (elements + parts_ - 1) / parts_;
  const std::int64_t my_begin = plan.begin;
  for (int part = 0; part < parts_; ++part) {
    plan.begin = std::min(elements, part * plan.stride);
    plan.end = std::min(elements, plan.begin + plan.stride);
    std::int64_t here = 0;
    plan.for_own([&](std::size_t, const LearnedTensor& t, std::int64_t from, std::int64_t to) {
      if (t.columns == 0) here += to - from;
    });
    plan.vectors = std::max(plan.vectors, here);
    if (part < my_begin) plan.first_vector += here;
  }
  plan.begin = std::min(elements, my_begin * plan.stride);
  plan.end = std::min(elements, plan.begin + plan.stride);
}

LearnedOptimizer::LearnedOptimizer(Stream& home, std::span<const Parameter> parameters,
                                   std::shared_ptr<const LearnedWeights> weights, int part,
                                   int parts)
    : compute_(home), rank_(home.rank()), parts_(parts) {
  const auto plan = std::make_shared<Plan>();
  plan->begin = part;
  plan->workers = index(weights->workers);
  plan->features = plan->workers + fixed_features;
  plan->step = weights->step;
  plan->exponent = weights->exponent;
  plan->second_moment_decay = weights->second_moment_decay;
  plan->momentum_decays = weights->momentum_decays;
  plan->factored_decays = weights->factored_decays;
  for (const LearnedLayer& layer : weights->layers) {
    Plan::Layer flat{layer.weights.size(), layer.biases.size(), {}, {}};
    for (const auto& row : layer.weights)
      for (const double w : row) flat.weights.push_back(static_cast<float>(w));
    for (const double b : layer.biases) flat.biases.push_back(static_cast<float>(b));
    plan->layers.push_back(std::move(flat));
  }
  lay_out(parameters, *plan);
  stride_ = plan->stride;
  plan_ = plan;
  moments_ = zeros((decay_count + 1) * stride_, Label::optimizer, "learned.moments");
  if (plan->lines > 0) {
    lines_ = zeros(decay_count * plan->lines, Label::optimizer, "learned.lines");
    line_sums_ = zeros(plan->lines, Label::workspace, "learned.line_sums");
  }
  if (plan->vectors > 0)
    vectors_ = zeros(decay_count * plan->vectors, Label::optimizer, "learned.vectors");
  squares_ = zeros(static_cast<std::int64_t>(plan->tensors.size() * plan->features),
                   Label::workspace, "learned.squares");
  time_ = rank_.allocate(home, Label::workspace, 1, Dtype::fp64,
                         {.values = Values::always, .name = "learned.time"});
  prepare();
}

Tensor LearnedOptimizer::zeros(std::int64_t elements, Label label, const char* name) const {
  Tensor t = rank_.allocate(compute_, label, elements, Dtype::fp32, {.name = name});
  compute_.launch(rank_.prepare(Kernel::fill(elements, 0, Dtype::fp32)), {t});
  return t;
}

void LearnedOptimizer::prepare() {
  const Bytes vector = bytes_of(stride_, Dtype::fp32);
  const auto workers = static_cast<std::int64_t>(plan_->workers);
  double multiply_adds = 0;
  for (const Plan::Layer& layer : plan_->layers)
    multiply_adds += static_cast<double>(layer.weights.size());
  if (line_sums_)
    sum_lines_ = rank_.prepare(Kernel::custom(  // deltas, sums
        "learned: sum lines", {Role::read, Role::write},
        [plan = plan_](std::span<const View> v) { plan->add_lines(floats(v[0]), floats(v[1])); },
        Flops(0), vector * workers));
  accumulate_ = rank_.prepare(Kernel::custom(  // theta, deltas, (sums), moments, (lines, vectors),
                                               // squares
      "learned: accumulate",
      {Role::read, Role::read, Role::read, Role::update, Role::update, Role::update, Role::write},
      [plan = plan_](std::span<const View> v) {
        const FeatureState s =
            plan->state(floats(v[0]), floats(v[1]), floats(v[3]), floats(v[4]), floats(v[5]));
        plan->move_lines(floats(v[2]), floats(v[4]));
        plan->move_moments(s, floats(v[3]), floats(v[5]));
        plan->add_squares(s, floats(v[6]));
      },
      Flops(0), vector * (workers + 9)));
  step_ = rank_.prepare(Kernel::custom(  // theta, deltas, moments, (lines, vectors), squares, t
      "learned: step",
      {Role::update, Role::read, Role::read, Role::read, Role::read, Role::read, Role::read},
      [plan = plan_](std::span<const View> v) {
        const FeatureState s =
            plan->state(floats(v[0]), floats(v[1]), floats(v[2]), floats(v[3]), floats(v[4]));
        plan->step_all(s, floats(v[5]), *static_cast<const double*>(v[6].data), floats(v[0]));
      },
      Flops(2 * multiply_adds * static_cast<double>(stride_)), vector * (workers + 6)));
}

void LearnedOptimizer::update(const Tensor& theta, const Tensor& deltas, const Sum& sum) {
  if (line_sums_) {
    compute_.launch(sum_lines_, {deltas, line_sums_});
    if (sum) sum(line_sums_);
  }
  compute_.launch(accumulate_, {theta, deltas, line_sums_, moments_, lines_, vectors_, squares_});
  if (sum) sum(squares_);
  compute_.upload(time_, {static_cast<double>(meetings_++)});
  compute_.launch(step_, {theta, deltas, moments_, lines_, vectors_, squares_, time_});
}

Bytes LearnedOptimizer::sent_in_sums() const {
  Bytes all = wire_bytes(Collective::all_reduce, squares_.bytes(), parts_);
  if (line_sums_) all += wire_bytes(Collective::all_reduce, line_sums_.bytes(), parts_);
  return all;
}

void LearnedOptimizer::visit(Archive& archive) {
  const Archive::Scope scope(archive, "learned");
  archive.field("meetings", meetings_);
  archive.field("moments", moments_);
  if (lines_) archive.field("lines", lines_);
  if (vectors_) archive.field("vectors", vectors_);
}

}  // namespace orrery
