// Matrix products by cuBLASLt.
#pragma once

#include <memory>
#include <span>

#include "backend/kernel.hpp"

struct CUstream_st;

namespace orrery::cuda {

// How thoroughly the fastest algorithm of a product is looked for: among how many of cuBLASLt's
// proposals, which come in the order of its own estimates, and in how many rounds of timing those
// that are close to the fastest.
struct BlasSearch {
  int proposals = 16;
  int rounds = 3;
};

// Of one GPU, on the device that is current for the calling thread. For each shape, types and
// alignment, the fastest of the algorithms that cuBLASLt proposes is found when it is first used,
// by running each on operands of that size, and kept. Error{unavailable} without the library.
class Blas {
 public:
  explicit Blas(BlasSearch search = {});
  ~Blas();
  // gemm and grouped_gemm, with a bias by cuBLASLt's epilogue; false for types that cuBLASLt has no
  // product of.
  bool multiply(CUstream_st* stream, const Kernel& kernel, std::span<const View> views);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace orrery::cuda
