// Matrix products through Eigen, on one thread. All matrices are row-major.
//
// Eigen may treat the unaligned head of a buffer apart (scalars there, fused vectors behind), so
// the bits could depend on where a buffer lies. Operands that do not start on a 64-byte boundary
// are therefore copied to scratch that does.
#define EIGEN_DONT_PARALLELIZE
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 reports its own AVX-512 intrinsics
#include <Eigen/Core>
#include <cstring>

#include "backend/cpu/products.hpp"
#include "backend/fp8.hpp"

namespace orrery::cpu {

namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Read = Eigen::Map<const Matrix, Eigen::Aligned64>;
using Write = Eigen::Map<Matrix, Eigen::Aligned64>;

template <class A, class B>
void product(Write& c, const A& a, const B& b, bool accumulate) {
  if (accumulate)
    c.noalias() += a * b;
  else
    c.noalias() = a * b;
}

template <class A>
void product(Write& c, const A& a, const Read& b, bool transpose_b, bool accumulate) {
  transpose_b ? product(c, a, b.transpose(), accumulate) : product(c, a, b, accumulate);
}

void add_to_rows(float* c, const float* bias, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t i = 0; i < cols; ++i) c[row * cols + i] += bias[i];
}

}  // namespace

void multiply(const Kernel& kernel, const float* a, const float* b, float* c, const float* bias) {
  const std::int64_t m = kernel.dims[0], n = kernel.dims[1], k = kernel.dims[2];
  if (m * n == 0) return;
  thread_local Scratch scratch_a, scratch_b, scratch_c;
  if (!aligned(a)) a = scratch_a.copy(a, m * k);
  if (!aligned(b)) b = scratch_b.copy(b, k * n);
  float* work = c;
  if (!aligned(c)) work = kernel.accumulate ? scratch_c.copy(c, m * n) : scratch_c.take(m * n);
  const Read left(a, kernel.transpose_a ? k : m, kernel.transpose_a ? m : k);
  const Read right(b, kernel.transpose_b ? n : k, kernel.transpose_b ? k : n);
  Write result(work, m, n);
  if (kernel.transpose_a)
    product(result, left.transpose(), right, kernel.transpose_b, kernel.accumulate);
  else
    product(result, left, right, kernel.transpose_b, kernel.accumulate);
  if (bias != nullptr) add_to_rows(work, bias, m, n);
  if (work != c) std::memcpy(c, work, static_cast<std::size_t>(m * n) * sizeof(float));
}

void gemm(const Kernel& kernel, const Operands& operands) {
  if (fp8_of(kernel).scaling != Fp8Scaling::none) return multiply_in_fp8(kernel, operands);
  const auto [m, n, k, with_bias, unused0, unused1] = kernel.dims;
  multiply(kernel, operands.fp32(0, m * k), operands.fp32(1, k * n), operands.fp32(2, m * n),
           with_bias != 0 ? operands.fp32(3, n) : nullptr);
}

void grouped_gemm(const Kernel& kernel, const Operands& operands) {
  if (fp8_of(kernel).scaling != Fp8Scaling::none) return multiply_in_fp8(kernel, operands);
  const auto [m, n, k, unused0, groups, unused1] = kernel.dims;
  const float* a = operands.fp32(0, groups * m * k);
  const float* b = operands.fp32(1, groups * k * n);
  float* c = operands.fp32(2, groups * m * n);
  for (std::int64_t group = 0; group < groups; ++group)
    multiply(kernel, a + group * m * k, b + group * k * n, c + group * m * n, nullptr);
}

}  // namespace orrery::cpu
