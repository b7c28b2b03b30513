#include "algorithms/learned/learned_optimizer.hpp"

#include <algorithm>
#include <cmath>

#include "algorithms/codecs/view.hpp"

namespace orrery {

// What the kernels know.
struct LearnedOptimizer::Plan {
  std::vector<LearnedTensor> tensors;
  std::vector<LearnedSegment> segments;  // of this part
  std::int64_t stride = 0;
  std::int64_t lines = 0, vectors = 0;  // of all matrices; of the part that has most
  std::size_t workers = 1, features = 0;
  double step = 0, exponent = 0, second_moment_decay = 0;
  std::vector<double> momentum_decays, factored_decays;
  struct Layer {
    std::size_t inputs = 0, outputs = 0;
    std::vector<float> weights, biases;  // [inputs][outputs]
  };
  std::vector<Layer> layers;

  // Calls f(segment, tensor) for what this part has of each tensor.
  template <class F>
  void for_own(F f) const {
    for (const LearnedSegment& segment : segments) f(segment, tensors[segment.tensor]);
  }
  FeatureState state(std::span<const float> theta, std::span<const float> deltas,
                     std::span<const float> moments, std::span<const float> lines_here,
                     std::span<const float> vectors_here) const {
    return {stride, workers, theta, deltas, moments, lines_here, vectors_here};
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

float moved(float to, double decay, double by) {
  return static_cast<float>(decay * to + (1 - decay) * by);
}

void round_all(const std::vector<double>& exact, std::span<float> to) {
  std::transform(exact.begin(), exact.end(), to.begin(),
                 [](double x) { return static_cast<float>(x); });
}

}  // namespace

void LearnedOptimizer::Plan::add_lines(std::span<const float> deltas, std::span<float> sums) const {
  std::vector<double> exact(sums.size());
  const FeatureState s = state({}, deltas, {}, {}, {});
  for_own([&](const LearnedSegment& here, const LearnedTensor& t) {
    if (t.columns == 0) return;
    for (std::int64_t i = 0; i < here.elements; ++i) {
      const double g = s.delta(here.own + i), square = t.share * g * g;
      exact[index(t.place + t.line_of_fewer(here.from + i))] += square;
      exact[index(t.place + t.fewer() + t.line_of_more(here.from + i))] += square;
    }
  });
  round_all(exact, sums);
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
  for_own([&](const LearnedSegment& here, const LearnedTensor& t) {
    for (std::int64_t i = 0; i < here.elements; ++i) {
      const double g = s.delta(here.own + i);
      const std::size_t own = index(here.own + i);
      for (std::size_t d = 0; d < decay_count; ++d) {
        float& m = moments[d * index(stride) + own];
        m = moved(m, momentum_decays[d], g);
      }
      float& v = moments[decay_count * index(stride) + own];
      v = moved(v, second_moment_decay, g * g);
      if (t.columns > 0) continue;
      const std::size_t place = index(here.vector + i);
      for (std::size_t d = 0; d < decay_count; ++d) {
        float& each = vectors_here[d * index(vectors) + place];
        each = moved(each, factored_decays[d], g * g + 1e-30);
      }
    }
  });
}

void LearnedOptimizer::Plan::add_squares(const FeatureState& s, std::span<float> squares) const {
  std::vector<double> exact(squares.size());
  std::vector<float> x(features);
  for_own([&](const LearnedSegment& here, const LearnedTensor& t) {
    const Features of(s, t, here);
    double* sums = &exact[here.tensor * features];
    for (std::int64_t i = 0; i < here.elements; ++i) {
      of.at(i, x);
      for (std::size_t f = 0; f < features; ++f)
        sums[f] += t.share * static_cast<double>(x[f]) * x[f];
    }
  });
  round_all(exact, squares);
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
  for_own([&](const LearnedSegment& here, const LearnedTensor& tensor) {
    const Features of(s, tensor, here);
    const float* sums = &squares[here.tensor * features];
    for (std::size_t f = 0; f < features; ++f)
      scales[f] =
          static_cast<float>(1 / std::sqrt(1e-5 + sums[f] / static_cast<double>(tensor.elements)));
    const auto size = static_cast<float>(step * tensor.rate);
    for (std::int64_t i = 0; i < here.elements; ++i) {
      x.resize(features + time_features);
      of.at(i, x);
      for (std::size_t f = 0; f < features; ++f) x[f] *= scales[f];
      std::copy(time.begin(), time.end(), x.begin() + static_cast<std::ptrdiff_t>(features));
      theta[index(here.own + i)] -= size * direction(x, y);
    }
  });
}

namespace {

bool is_vector(const Parameter& p) { return p.columns <= 1; }

// What ranges of a rank's weights, cut to [begin, end) of them, hold of each parameter.
std::vector<LearnedSegment> segments_in(std::span<const Parameter> parameters,
                                        const std::vector<OwnedRange>& ranges, std::int64_t begin,
                                        std::int64_t end) {
  std::vector<LearnedSegment> segments;
  std::int64_t vectors = 0;
  for (const OwnedRange& range : ranges) {
    const std::int64_t shift = range.begin - range.own;
    const std::int64_t from = std::max(begin, range.own) + shift,
                       to = std::min(end, range.own + range.elements) + shift;
    auto p = std::partition_point(parameters.begin(), parameters.end(), [&](const Parameter& each) {
      return each.begin + each.elements <= from;
    });
    for (; p != parameters.end() && p->begin < to; ++p) {
      const std::int64_t first = std::max(from, p->begin),
                         elements = std::min(to, p->begin + p->elements) - first;
      segments.push_back({index(p - parameters.begin()), first - p->begin, elements,
                          first - shift - begin, vectors});
      if (is_vector(*p)) vectors += elements;
    }
  }
  return segments;
}

// Elements of vectors in the part, of so many of so many weights each, that has most of them. The
// ranks that divide experts are not at the same places among themselves.
std::int64_t most_vectors(const FlatParameters& flat, int parts, std::int64_t stride) {
  const auto of_kind = [](std::vector<OwnedRange> ranges, bool experts) {
    std::erase_if(ranges, [&](const OwnedRange& each) { return each.experts != experts; });
    return ranges;
  };
  std::int64_t most = 0;
  for (int part = 0; part < parts; ++part) {
    std::int64_t here = 0;
    for (const bool experts : {false, true}) {
      std::int64_t most_of_kind = 0;
      for (int rank = 0; rank < flat.ranks(experts); ++rank) {
        std::int64_t elements = 0;
        for (const LearnedSegment& each :
             segments_in(flat.parameters(), of_kind(flat.owned(rank), experts), part * stride,
                         (part + 1) * stride))
          if (is_vector(flat.parameters()[each.tensor])) elements += each.elements;
        most_of_kind = std::max(most_of_kind, elements);
      }
      here += most_of_kind;
    }
    most = std::max(most, here);
  }
  return most;
}

}  // namespace

// Where tensors, their lines and what this part has of them lie. Sizes are the same for all parts.
void LearnedOptimizer::lay_out(const FlatParameters& flat, int parts, Plan& plan) const {
  const auto place = [this](Axes over) -> std::int64_t {
    return rank_.computes_values() ? rank_.part(over) : 0;
  };
  for (const Parameter& p : flat.parameters()) {
    LearnedTensor t;
    const std::int64_t wide = rank_.size(p.columns_over);
    t.elements = p.elements * rank_.size(p.rows_over) * wide;
    t.rate = p.rates.adaptive;
    for (const Axis axis : {Axis::tensor, Axis::expert})
      if (over_.contains(axis) && !(p.rows_over | p.columns_over).contains(axis) &&
          !(flat.owns_weights() && flat.sharding().over.contains(axis)))
        t.share /= rank_.size(axis);
    if (!is_vector(p)) {
      t.columns = p.columns * wide;
      t.own_columns = p.columns;
      t.first_row = place(p.rows_over) * (p.elements / p.columns);
      t.first_column = place(p.columns_over) * p.columns;
      t.place = plan.lines;
      plan.lines += t.fewer() + t.more();
    }
    plan.tensors.push_back(t);
  }
  plan.stride = (flat.weights().elements() + parts - 1) / parts;
  const std::int64_t begin = parts > 1 ? rank_.part(Axis::island) * plan.stride : 0;
  plan.segments = segments_in(flat.parameters(), flat.owned(), begin, begin + plan.stride);
  plan.vectors = most_vectors(flat, parts, plan.stride);
}

LearnedOptimizer::LearnedOptimizer(Stream& home, const FlatParameters& flat,
                                   std::shared_ptr<const LearnedWeights> weights, int parts)
    : compute_(home), rank_(home.rank()) {
  for (const Axis axis : {Axis::tensor, Axis::expert})
    if (rank_.size(axis) > 1) over_ = over_ | axis;
  if (flat.owns_weights()) over_ = over_ | flat.sharding().over;
  if (parts > 1) over_ = over_ | Axis::island;
  if (rank_.size(over_) > 1) {
    sums_ = &rank_.channel(over_, "learned");
    communication_ = &rank_.stream("islands");
  }
  const auto plan = std::make_shared<Plan>();
  plan->workers = index(weights->workers);
  plan->features = plan->workers + fixed_features;
  plan->step = weights->step;
  plan->exponent = weights->exponent;
  plan->second_moment_decay = weights->second_moment_decay;
  plan->momentum_decays = weights->momentum_decays;
  plan->factored_decays = weights->factored_decays;
  for (const LearnedLayer& layer : weights->layers) {
    Plan::Layer one{layer.weights.size(), layer.biases.size(), {}, {}};
    for (const auto& row : layer.weights)
      for (const double w : row) one.weights.push_back(static_cast<float>(w));
    for (const double b : layer.biases) one.biases.push_back(static_cast<float>(b));
    plan->layers.push_back(std::move(one));
  }
  lay_out(flat, parts, *plan);
  stride_ = plan->stride;
  plan_ = plan;
  allocate();
  prepare();
}

void LearnedOptimizer::allocate() {
  moments_ = zeros((decay_count + 1) * stride_, Label::optimizer, "learned.moments");
  if (plan_->lines > 0) {
    lines_ = zeros(decay_count * plan_->lines, Label::optimizer, "learned.lines");
    line_sums_ = zeros(plan_->lines, Label::workspace, "learned.line_sums");
  }
  if (plan_->vectors > 0)
    vectors_ = zeros(decay_count * plan_->vectors, Label::optimizer, "learned.vectors");
  squares_ = zeros(static_cast<std::int64_t>(plan_->tensors.size() * plan_->features),
                   Label::workspace, "learned.squares");
  time_ = rank_.allocate(compute_, Label::workspace, 1, Dtype::fp64,
                         {.values = Values::always, .name = "learned.time"});
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

void LearnedOptimizer::add_up(const Tensor& sums) const {
  if (sums_ == nullptr) return;
  communication_->after(compute_.record());
  compute_.after(communication_->all_reduce(sums, Reduce::sum, *sums_));
}

void LearnedOptimizer::update(const Tensor& theta, const Tensor& deltas) {
  if (line_sums_) {
    compute_.launch(sum_lines_, {deltas, line_sums_});
    add_up(line_sums_);
  }
  compute_.launch(accumulate_, {theta, deltas, line_sums_, moments_, lines_, vectors_, squares_});
  add_up(squares_);
  compute_.upload(time_, {static_cast<double>(meetings_++)});
  compute_.launch(step_, {theta, deltas, moments_, lines_, vectors_, squares_, time_});
}

Bytes LearnedOptimizer::sent_in_sums() const {
  const int ranks = rank_.size(over_);
  Bytes all = wire_bytes(Collective::all_reduce, squares_.bytes(), ranks);
  if (line_sums_) all += wire_bytes(Collective::all_reduce, line_sums_.bytes(), ranks);
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
