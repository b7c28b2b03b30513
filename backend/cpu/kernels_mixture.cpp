// Mixtures of experts: who passes which expert, and the way there and back.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/cpu/math_fp32.hpp"
#include "backend/cpu/operands.hpp"
#include "backend/cpu/reduce.hpp"

namespace orrery::cpu {

namespace {

struct Shape {
  std::int64_t rows, width, chosen, places;
  float scale;
  explicit Shape(const Kernel& kernel)
      : rows(kernel.dims[0]),
        width(kernel.dims[1]),
        chosen(kernel.dims[2]),
        places(kernel.dims[3]),
        scale(static_cast<float>(kernel.scalars[0])) {}
  // The places of all rows' choices, behind their experts.
  const std::int32_t* places_of(const Operands& operands, std::size_t operand) const {
    return operands.int32(operand, 2 * rows * chosen) + rows * chosen;
  }
};

Router router_of(const Kernel& kernel) { return static_cast<Router>(kernel.dims[4]); }

float sigmoid(float x) { return 1.0F / (1.0F + exp_fp32(-x)); }

// The weights of one row's chosen experts.
void weigh(Router router, const float* logits, std::int64_t experts, const std::int32_t* chosen,
           std::int64_t count, float* weights) {
  const float largest = logits[chosen[0]];
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const float logit = logits[chosen[i]];
    weights[i] = router == Router::sigmoid ? sigmoid(logit) : exp_fp32(logit - largest);
    sum += static_cast<double>(weights[i]);
  }
  if (router == Router::softmax_all)
    sum = ordered_sum(experts, [&](std::int64_t e) {
      return static_cast<double>(exp_fp32(logits[e] - largest));
    });
  const auto inverse = static_cast<float>(1.0 / sum);
  for (std::int64_t i = 0; i < count; ++i) weights[i] *= inverse;
}

}  // namespace

namespace {

// What rows choose by: their logits, or these made comparable with a bias.
const float* scores(const float* logits, const float* bias, std::int64_t experts,
                    std::vector<float>& biased) {
  if (bias == nullptr) return logits;
  for (std::int64_t e = 0; e < experts; ++e)
    biased[static_cast<std::size_t>(e)] = sigmoid(logits[e]) + bias[e];
  return biased.data();
}

}  // namespace

void route(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], experts = kernel.dims[1], chosen = kernel.dims[2],
                     capacity = kernel.dims[3];
  const float* logits = operands.fp32(0, rows * experts);
  float* weights = operands.fp32(1, rows * chosen);
  std::int32_t* choices = operands.int32(2, 2 * rows * chosen);
  std::int32_t* places = choices + rows * chosen;
  const float* bias = operands.has(3) ? operands.fp32(3, experts) : nullptr;
  float* counts = operands.has(4) ? operands.fp32(4, experts) : nullptr;
  std::vector<float> biased(static_cast<std::size_t>(experts));
  std::vector<std::int32_t> order(static_cast<std::size_t>(experts));
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* l = logits + row * experts;
    const float* s = scores(l, bias, experts, biased);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(
        order.begin(), order.begin() + chosen, order.end(),
        [s](std::int32_t a, std::int32_t b) { return s[a] > s[b] || (s[a] == s[b] && a < b); });
    if (counts != nullptr)
      for (std::int64_t i = 0; i < chosen; ++i) counts[order[static_cast<std::size_t>(i)]] += 1;
    std::copy_n(order.begin(), chosen, choices + row * chosen);
    weigh(router_of(kernel), l, experts, choices + row * chosen, chosen, weights + row * chosen);
  }
  std::vector<std::int32_t> taken(static_cast<std::size_t>(experts), 0);
  for (std::int64_t i = 0; i < chosen; ++i)
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int32_t expert = choices[row * chosen + i];
      std::int32_t& count = taken[static_cast<std::size_t>(expert)];
      const bool room = count < capacity;
      places[row * chosen + i] =
          room ? static_cast<std::int32_t>(expert * capacity) + count : std::int32_t{-1};
      if (room) ++count;
    }
}

void route_backward(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], experts = kernel.dims[1], chosen = kernel.dims[2];
  const float* d_weights = operands.fp32(0, rows * chosen);
  const float* logits = operands.fp32(1, rows * experts);
  const float* weights = operands.fp32(2, rows * chosen);
  const std::int32_t* choices = operands.int32(3, 2 * rows * chosen);
  float* d_logits = operands.fp32(4, rows * experts);
  for (std::int64_t row = 0; row < rows; ++row) {
    const float *l = logits + row * experts, *w = weights + row * chosen,
                *dw = d_weights + row * chosen;
    const std::int32_t* c = choices + row * chosen;
    float* dl = d_logits + row * experts;
    const auto along = static_cast<float>(ordered_sum(chosen, [&](std::int64_t i) {
      return static_cast<double>(w[i]) * static_cast<double>(dw[i]);
    }));
    std::fill_n(dl, experts, 0.0F);
    if (router_of(kernel) == Router::softmax_all)  // all experts share the denominator
      for (std::int64_t e = 0; e < experts; ++e) dl[e] = -along * w[0] * exp_fp32(l[e] - l[c[0]]);
    for (std::int64_t i = 0; i < chosen; ++i) {
      if (router_of(kernel) == Router::softmax_all)
        dl[c[i]] += w[i] * dw[i];
      else
        dl[c[i]] = w[i] * (dw[i] - along) *
                   (router_of(kernel) == Router::sigmoid ? 1.0F - sigmoid(l[c[i]]) : 1.0F);
    }
  }
}

void dispatch(const Kernel& kernel, const Operands& operands) {
  const Shape s(kernel);
  const float* x = operands.fp32(0, s.rows * s.width);
  const std::int32_t* places = s.places_of(operands, 1);
  float* d = operands.fp32(2, s.places * s.width);
  std::fill_n(d, s.places * s.width, 0.0F);
  for (std::int64_t i = 0; i < s.rows * s.chosen; ++i)
    if (places[i] >= 0) std::copy_n(x + i / s.chosen * s.width, s.width, d + places[i] * s.width);
}

void dispatch_backward(const Kernel& kernel, const Operands& operands) {
  const Shape s(kernel);
  const float* d = operands.fp32(0, s.places * s.width);
  const std::int32_t* places = s.places_of(operands, 1);
  float* dx = operands.fp32(2, s.rows * s.width);
  std::fill_n(dx, s.rows * s.width, 0.0F);
  for (std::int64_t i = 0; i < s.rows * s.chosen; ++i) {
    if (places[i] < 0) continue;
    const float* from = d + places[i] * s.width;
    float* to = dx + i / s.chosen * s.width;
    for (std::int64_t j = 0; j < s.width; ++j) to[j] += s.scale * from[j];
  }
}

void combine(const Kernel& kernel, const Operands& operands) {
  const Shape s(kernel);
  const float* o = operands.fp32(0, s.places * s.width);
  const float* weights = operands.fp32(1, s.rows * s.chosen);
  const std::int32_t* places = s.places_of(operands, 2);
  float* y = operands.fp32(3, s.rows * s.width);
  for (std::int64_t i = 0; i < s.rows * s.chosen; ++i) {
    if (places[i] < 0) continue;
    const float* from = o + places[i] * s.width;
    float* to = y + i / s.chosen * s.width;
    for (std::int64_t j = 0; j < s.width; ++j) to[j] += weights[i] * from[j];
  }
}

void combine_backward(const Kernel& kernel, const Operands& operands) {
  const Shape s(kernel);
  const float* dy = operands.fp32(0, s.rows * s.width);
  const float* o = operands.fp32(1, s.places * s.width);
  const float* weights = operands.fp32(2, s.rows * s.chosen);
  const std::int32_t* places = s.places_of(operands, 3);
  float* d_o = operands.fp32(4, s.places * s.width);
  float* d_weights = operands.fp32(5, s.rows * s.chosen);
  std::fill_n(d_o, s.places * s.width, 0.0F);
  for (std::int64_t i = 0; i < s.rows * s.chosen; ++i) {
    d_weights[i] = 0;
    if (places[i] < 0) continue;
    const float *from = dy + i / s.chosen * s.width, *out = o + places[i] * s.width;
    float* to = d_o + places[i] * s.width;
    const float weight = s.scale * weights[i];
    for (std::int64_t j = 0; j < s.width; ++j) to[j] = weight * from[j];
    d_weights[i] = static_cast<float>(ordered_sum(s.width, [&](std::int64_t j) {
      return static_cast<double>(from[j]) * static_cast<double>(out[j]);
    }));
  }
}

}  // namespace orrery::cpu
