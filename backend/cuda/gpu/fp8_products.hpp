// Products in fp8 with a scale per tensor (backend/fp8.hpp) from operands in wider types.
#pragma once

#include <functional>

#include "backend/cuda/gpu/blas.hpp"

namespace orrery::cuda {

// An operand x[groups, rows, depth], or transposed x[groups, depth, rows], and its largest
// magnitude, where it is known. What cuBLASLt multiplies is a copy in 8 bits, [groups, rows,
// padded], with zeros behind each row: Hopper's tensor cores want the depth contiguous, and
// cuBLASLt a multiple of 16.
struct Fp8Operand {
  View x, largest;
  Float8 type = Float8::e4m3;
  bool transposed = false;
  std::int64_t groups = 1, rows = 0, depth = 0, padded = 0;
};

// Enqueues the making of that copy, and of what its numbers are multiplied by to be those of x;
// false for a type of x that it does not know.
using RoundToFp8 = std::function<bool(CUstream_st* stream, const Fp8Operand& operand, void* rounded,
                                      float* inverse_scale)>;

// fp8.cu: as the kernels of kernels.hpp.
bool fp8_cast(CUstream_st* stream, const Kernel& kernel, std::span<const View> views);
bool round_to_fp8(CUstream_st* stream, const Fp8Operand& operand, void* rounded,
                  float* inverse_scale);
// Casts to and from storage in fp8, without a scale.
bool cast_in_fp8(CUstream_st* stream, const Kernel& kernel, std::span<const View> views);

class Fp8Products {
 public:
  Fp8Products(Blas& blas, RoundToFp8 round) : blas_(blas), round_(std::move(round)) {}
  // Rounds both operands into memory of the stream, then multiplies. False for scales per block,
  // and for results that cuBLASLt does not make: of rows that are no multiple of 16, or elsewhere.
  bool multiply(CUstream_st* stream, const Kernel& kernel, std::span<const View> views);
  void prepare(const Kernel& kernel);

 private:
  Blas& blas_;
  RoundToFp8 round_;
};

}  // namespace orrery::cuda
