// Matrix products by cuBLASLt.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>

#include "backend/fp8.hpp"

struct CUstream_st;

namespace orrery::cuda {

// Fills operands that products are tried out on with numbers of any type. A product of equal
// numbers takes less power than one of a training, at which other algorithms may be the fastest.
using FillWithNumbers = std::function<void(CUstream_st* stream, void* data, std::size_t bytes)>;
void fill_with_equal_numbers(CUstream_st* stream, void* data, std::size_t bytes);

// How thoroughly the fastest algorithm of a product is looked for: among how many of cuBLASLt's
// proposals, which come in the order of its own estimates, and in how many rounds of timing those
// that are close to the fastest. The first look at all of them ends after some milliseconds.
struct BlasSearch {
  int proposals = 16;
  int rounds = 3;
  float first_look_ms = 20;
  FillWithNumbers fill = fill_with_equal_numbers;
};

// What cuBLASLt wants the sizes of rows, and the places, of operands in 8 bits and of the result to
// be multiples of.
inline constexpr std::int64_t fp8_multiple = 16;

// Of one GPU, on the device that is current for the calling thread. For each shape, types and
// alignment, the fastest of the algorithms that cuBLASLt proposes is found when it is first used,
// by running each on operands of that size, and kept. Error{unavailable} without the library.
class Blas {
 public:
  explicit Blas(BlasSearch search = {});
  ~Blas();
  // gemm and grouped_gemm, with a bias by cuBLASLt's epilogue; false for what cuBLASLt has no
  // product of. Operands that are stored in fp8 are of the types that the kernel says
  // (backend/fp8.hpp), A as it is, B transposed, and everything as fp8_multiple asks; two operands
  // behind the bias, in fp32, may be what their numbers are multiplied by, A's first.
  bool multiply(CUstream_st* stream, const Kernel& kernel, std::span<const View> views);
  // Finds the algorithm of a product that will be wanted, of operands of its type at multiples of
  // 16 bytes, and loads it; where it adds up, also for a result in fp32. For weights or gradients
  // elsewhere, which few models have, the first of cuBLASLt's proposals that runs.
  void prepare(const Kernel& kernel) { prepare(kernel, kernel.accumulate || kernel.transpose_a); }
  void prepare(const Kernel& kernel, bool gradient_of_weights);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace orrery::cuda
