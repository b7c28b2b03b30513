#include "algorithms/learned/features.hpp"

#include <algorithm>
#include <cmath>

namespace orrery {

namespace {

float inverse_root(float x) { return 1.0F / std::sqrt(x); }
float safe_inverse_root(float x) { return inverse_root(std::max(x, 1e-9F)); }

}  // namespace

std::array<float, time_features> time_features_at(double t) {
  static constexpr std::array<double, time_features> scales{1,    3,    10,    30,    100,   300,
                                                            1000, 3000, 10000, 30000, 100000};
  std::array<float, time_features> out{};
  for (std::size_t i = 0; i < time_features; ++i)
    out[i] = static_cast<float>(std::tanh(t / scales[i] - 1));
  return out;
}

float FeatureState::delta(std::int64_t own) const {
  float sum = deltas[index(own)];
  for (std::size_t k = 1; k < workers; ++k) sum += deltas[k * index(stride) + index(own)];
  return workers == 1 ? sum : sum / static_cast<float>(workers);
}

Features::Features(const FeatureState& state, const LearnedTensor& tensor,
                   const LearnedSegment& segment)
    : s_(state), tensor_(tensor), segment_(segment) {
  if (tensor.columns == 0) return;
  const std::size_t all = s_.lines.size() / decay_count;
  for (std::size_t d = 0; d < decay_count; ++d) {
    double sum = 0;
    for (std::int64_t i = 0; i < tensor.fewer(); ++i)
      sum += s_.lines[d * all + index(tensor.place + i)];
    row_means_[d] = static_cast<float>(sum / static_cast<double>(tensor.fewer()));
  }
}

Features::Factors Features::factors(std::int64_t i) const {
  Factors f{};
  const std::int64_t at = segment_.from + i;
  for (std::size_t d = 0; d < decay_count; ++d) {
    if (tensor_.columns == 0) {
      const std::size_t here = s_.vectors.size() / decay_count;
      const float v = s_.vectors[d * here + index(segment_.vector + i)];
      f.row[d] = f.column[d] = v;
      f.of_delta[d] = safe_inverse_root(v + 1e-9F);
      f.of_momentum[d] = inverse_root(v + 1e-6F);
      continue;
    }
    const std::size_t all = s_.lines.size() / decay_count;
    const float* lines = &s_.lines[d * all + index(tensor_.place)];
    f.row[d] = lines[tensor_.line_of_fewer(at)];
    f.column[d] = lines[tensor_.fewer() + tensor_.line_of_more(at)];
    f.of_delta[d] = f.of_momentum[d] =
        safe_inverse_root(f.row[d] / (row_means_[d] + 1e-9F)) * safe_inverse_root(f.column[d]);
  }
  return f;
}

void Features::at(std::int64_t i, std::span<float> x) const {
  const std::size_t own = index(segment_.own + i), stride = index(s_.stride);
  std::size_t n = 0;
  for (std::size_t k = 0; k < s_.workers; ++k) x[n++] = s_.deltas[k * stride + own];
  x[n++] = s_.theta[own];
  std::array<float, decay_count> m{};
  for (std::size_t d = 0; d < decay_count; ++d) x[n++] = m[d] = s_.moments[d * stride + own];
  const float v = s_.moments[decay_count * stride + own], root = inverse_root(v + 1e-6F);
  x[n++] = v;
  for (const float each : m) x[n++] = each * root;
  x[n++] = root;
  const Factors f = factors(i);
  const float g = s_.delta(segment_.own + i);
  for (const float each : f.of_delta) x[n++] = g * each;
  for (const float each : f.row) x[n++] = each;
  for (const float each : f.column) x[n++] = each;
  for (const float each : f.row) x[n++] = inverse_root(each + 1e-8F);
  for (const float each : f.column) x[n++] = inverse_root(each + 1e-8F);
  for (std::size_t d = 0; d < decay_count; ++d) x[n++] = m[d] * f.of_momentum[d];
}

}  // namespace orrery
