// Sums with a fixed order. Internal to the kernel files.
#pragma once

#include <array>
#include <cstdint>

namespace orrery::cpu {

// Sum of term(0) … term(n - 1) in double: eight interleaved partial sums, then those in order. The
// order depends on n only.
template <class Term>
static inline double ordered_sum(std::int64_t n, const Term& term) {
  constexpr std::int64_t lanes = 8;
  std::array<double, lanes> partial{};
  const std::int64_t whole = n - n % lanes;
  for (std::int64_t i = 0; i < whole; i += lanes)
    for (std::int64_t lane = 0; lane < lanes; ++lane)
      partial[static_cast<std::size_t>(lane)] += term(i + lane);
  for (std::int64_t i = whole; i < n; ++i) partial[static_cast<std::size_t>(i - whole)] += term(i);
  double sum = 0;
  for (double part : partial) sum += part;
  return sum;
}

}  // namespace orrery::cpu
