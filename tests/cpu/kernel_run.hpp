// Running kernel bodies on vectors, and finite differences in double, for tests of the bodies.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "backend/core/philox.hpp"
#include "backend/cpu/bodies.hpp"

namespace orrery {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

inline View view(Floats& x) { return {x.data(), static_cast<std::int64_t>(x.size()), Dtype::fp32}; }
inline View view(Doubles& x) {
  return {x.data(), static_cast<std::int64_t>(x.size()), Dtype::fp64};
}
inline View view(std::vector<std::int32_t>& x) {
  return {x.data(), static_cast<std::int64_t>(x.size()), Dtype::int32};
}
inline View view(std::vector<std::int64_t>& x) {
  return {x.data(), static_cast<std::int64_t>(x.size()), Dtype::int64};
}

inline void run(const Kernel& kernel, std::initializer_list<View> views) {
  cpu_bodies().run(kernel, {views.begin(), views.size()});
}

inline Floats numbers(std::int64_t n, std::uint64_t seed, double size = 1) {
  const Philox philox(seed, Purpose::user);
  Floats x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>(size * static_cast<double>(philox.normal(i)));
  return x;
}

inline Doubles wide(const Floats& x) { return {x.begin(), x.end()}; }
inline Floats narrow(const Doubles& x) {
  Floats y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i]);
  return y;
}

inline double distance(const Floats& a, const Floats& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i)
    most = std::max(most, static_cast<double>(std::fabs(a[i] - b[i])));
  return a.size() == b.size() ? most : std::numeric_limits<double>::infinity();
}

inline double dot(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// d (f(x) dy) / d x by central differences in double.
inline Floats difference(Doubles x, const Floats& dy,
                         const std::function<Doubles(const Doubles&)>& f) {
  constexpr double h = 1e-5;
  const Doubles weights = wide(dy);
  Floats gradient(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double at = x[i];
    x[i] = at + h;
    const double above = dot(f(x), weights);
    x[i] = at - h;
    gradient[i] = static_cast<float>((above - dot(f(x), weights)) / (2 * h));
    x[i] = at;
  }
  return gradient;
}

// Runs the kernel with every operand `offset` floats behind a 64-byte boundary (an empty one stays
// empty) and returns all operands as they are afterwards.
inline std::vector<Floats> run_at(const Kernel& kernel, const std::vector<Floats>& operands,
                                  std::size_t offset) {
  std::vector<Floats> stores;
  std::vector<View> views;
  std::vector<float*> places;
  for (const Floats& operand : operands) {
    Floats& store = stores.emplace_back(operand.size() + 64);
    const auto address = reinterpret_cast<std::uintptr_t>(store.data());
    float* place = store.data() + (64 - address % 64) % 64 / sizeof(float) + offset;
    std::copy(operand.begin(), operand.end(), place);
    places.push_back(place);
    views.push_back(operand.empty()
                        ? View{}
                        : View{place, static_cast<std::int64_t>(operand.size()), Dtype::fp32});
  }
  cpu_bodies().run(kernel, views);
  std::vector<Floats> results;
  for (std::size_t i = 0; i < operands.size(); ++i)
    results.emplace_back(places[i], places[i] + operands[i].size());
  return results;
}

// The same on operands stored in bf16; results are what is stored, expanded.
inline std::vector<Floats> run_in_bf16(const Kernel& kernel, const std::vector<Floats>& operands) {
  std::vector<std::vector<std::uint16_t>> stores;
  std::vector<View> views;
  for (const Floats& operand : operands) {
    auto& store = stores.emplace_back();
    for (const float value : operand) store.push_back(to_bf16(value));
    views.push_back(operand.empty()
                        ? View{}
                        : View{store.data(), static_cast<std::int64_t>(store.size()), Dtype::bf16});
  }
  cpu_bodies().run(kernel, views);
  std::vector<Floats> results;
  for (const auto& store : stores) {
    Floats& result = results.emplace_back();
    for (const std::uint16_t bits : store) result.push_back(from_bf16(bits));
  }
  return results;
}

}  // namespace orrery
