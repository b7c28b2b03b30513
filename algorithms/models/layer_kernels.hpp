// Kernels that several parts of a transformer layer add to their passes.
//
// Products in 8 bits: Micikevicius et al. 2022, "FP8 Formats for Deep Learning" (arXiv 2209.05433);
// a scale for each tensor, from its largest number, which a pass of its own finds; or for each 128
// numbers (DeepSeek-AI 2024, arXiv 2412.19437, section 3.3); or for each 32, of 8 bits (Open
// Compute Project, "OCP Microscaling Formats (MX)", v1.0). Operands are cast once, from activations
// and parameters in the forward, from gradients in the backward, as they are and transposed, which
// the gradient of the matrix needs (NVIDIA/TransformerEngine, cast_transpose).
//
// Cost, per operand of n elements of B bytes: read B n, twice with a scale per tensor; written 2 n,
// and the scales: 4 bytes for each 128 or one for each 32 elements, twice. What is kept for the
// backward is counted in the type of the activations, as if the casts came to nothing.
//
// In 4 bits, a timing model: NVFP4, E2M1 with a scale of 8 bits (E4M3) for each 16 numbers, under
// one for the tensor, from its largest number (NVIDIA 2025, "Pretraining Large Language Models with
// NVFP4", arXiv 2509.25149, section 2). An operand is read twice; written are n / 2 bytes and n /
// 16 for the scales, twice. What else that recipe does, layers left in 16 bits, rotations, rounding
// at random, is not in it.
#pragma once

#include "algorithms/models/transformer_blocks.hpp"

namespace orrery {

inline Dtype product_dtype(const TransformerShape& s) { return dtype_of(s.products, s.dtype); }

inline void cast_to_nvfp4(Rank& rank, PassProgram& pass, const TransformerShape& s,
                          const SlotView& x) {
  const std::int64_t n = x.elements;
  const std::int64_t written = 2 * ((n + 1) / 2 + (n + 15) / 16) / size_of(s.dtype);
  pass.add(rank.prepare(Kernel::streaming("fp4.cast", 2 * n, written, s.dtype, {Role::read})), {x});
}

// Where products are not taken as stored, the cast of an operand.
inline void cast_operand(Rank& rank, PassProgram& pass, const TransformerShape& s,
                         const SlotView& x) {
  if (s.products == Products::as_stored) return;
  if (s.products == Products::nvfp4) return cast_to_nvfp4(rank, pass, s, x);
  const std::int64_t n = x.elements;
  std::int64_t scales = 0;  // bytes
  if (s.products == Products::fp8_block) scales = 4 * ((n + 127) / 128);
  if (s.products == Products::mxfp8) scales = (n + 31) / 32;
  const std::int64_t written = 2 * (n + scales) / size_of(s.dtype);
  const std::int64_t read = s.products == Products::fp8_tensor ? 2 * n : n;
  pass.add(rank.prepare(Kernel::streaming("fp8.cast", read, written, s.dtype, {Role::read})), {x});
}

// Y[rows, outputs] = X[rows, depth] A, + a bias where there is one.
inline void product(Rank& rank, PassProgram& pass, const TransformerShape& s, std::int64_t rows,
                    const char* label, std::int64_t outputs, std::int64_t depth, const SlotView& x,
                    const SlotView& matrix, const SlotView& y, const SlotView& bias = {}) {
  cast_operand(rank, pass, s, x);
  cast_operand(rank, pass, s, matrix);
  const Dtype dtype = product_dtype(s);
  if (bias.slot < 0)
    pass.add(rank.prepare(Kernel::gemm(rows, outputs, depth, dtype, false, false, false, label)),
             {x, matrix, y});
  else
    pass.add(rank.prepare(Kernel::gemm_bias(rows, outputs, depth, dtype, label)),
             {x, matrix, y, bias});
}

// Of Y[rows, outputs] = X[rows, inputs] A, with operands of a type.
struct ProductSizes {
  std::int64_t rows, inputs, outputs;
  Dtype dtype;
};

// d X = d Y A^T.
inline void input_gradient(Rank& rank, PassProgram& pass, const char* label, const ProductSizes& s,
                           const SlotView& matrix, const SlotView& dy, const SlotView& dx,
                           bool accumulate = false) {
  pass.add(rank.prepare(
               Kernel::gemm(s.rows, s.inputs, s.outputs, s.dtype, false, true, accumulate, label)),
           {dy, matrix, dx});
}

// The gradients X^T d Y of A and, over the rows, of its bias, of type `stored`, added to what is
// there; or, where it `writes`, that of A in its place. A bias behind the sum over a tensor group
// has the gradient of this rank's own tokens.
inline void weight_gradient(Rank& rank, PassProgram& pass, Dtype stored, const char* label,
                            const ProductSizes& s, const SlotView& x, const Range& parameter,
                            int gradients, const SlotView& dy, std::int64_t bias_rows,
                            const SlotView& bias_dy, bool writes = false) {
  pass.add(
      rank.prepare(Kernel::gemm(s.inputs, s.outputs, s.rows, s.dtype, true, false, !writes, label)),
      {x, dy, parameter.in(gradients)});
  if (parameter.bias > 0)
    pass.add(rank.prepare(Kernel::column_sum(bias_rows, s.outputs, stored)),
             {bias_dy, parameter.bias_in(gradients)});
}

inline Kernel activation(const TransformerShape& s, std::int64_t rows, std::int64_t cols,
                         bool bias) {
  return s.gated ? Kernel::gated_activation(rows, cols, s.activation, s.dtype, bias)
                 : Kernel::bias_activation(rows, cols, s.activation, s.dtype, bias);
}

inline Kernel activation_backward(const TransformerShape& s, std::int64_t rows, std::int64_t cols,
                                  bool bias) {
  return s.gated ? Kernel::gated_activation_backward(rows, cols, s.activation, s.dtype, bias)
                 : Kernel::bias_activation_backward(rows, cols, s.activation, s.dtype, bias);
}

}  // namespace orrery
