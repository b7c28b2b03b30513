// Kernels that several parts of a transformer layer add to their passes.
//
// Products in 8 bits (backend/fp8.hpp): a scale for each tensor, from its largest number, which a
// pass of its own finds; or for each 128 numbers; or for each 32, of 8 bits. Operands are cast
// once, from activations and parameters in the forward, from gradients in the backward, as they are
// and transposed, which the gradient of the matrix needs (NVIDIA/TransformerEngine,
// cast_transpose).
//
// Cost, per operand of n elements of B bytes: read B n, twice with a scale per tensor; written 2 n,
// and the scales: 4 bytes for each 128 or one for each 32 elements, twice. What is kept for the
// backward are the operands in the type of the activations (as pytorch/ao keeps them) and, where a
// layer has a place for it, each one's largest magnitude, so that nobody looks for it again.
//
// In 4 bits, a timing model: NVFP4, E2M1 with a scale of 8 bits (E4M3) for each 16 numbers, under
// one for the tensor, from its largest number (NVIDIA 2025, "Pretraining Large Language Models with
// NVFP4", arXiv 2509.25149, section 2). An operand is read twice; written are n / 2 bytes and n /
// 16 for the scales, twice. What else that recipe does, layers left in 16 bits, rotations, rounding
// at random, is not in it.
#pragma once

#include "algorithms/models/transformer_blocks.hpp"
#include "backend/fp8.hpp"

namespace orrery {

inline Fp8Scaling scaling_of(Products products) {
  switch (products) {
    case Products::fp8_tensor:
      return Fp8Scaling::tensor;
    case Products::fp8_block:
      return Fp8Scaling::block;
    case Products::mxfp8:
      return Fp8Scaling::mx;
    default:
      return Fp8Scaling::none;
  }
}

inline void cast_to_nvfp4(Rank& rank, PassProgram& pass, const TransformerShape& s,
                          const SlotView& x) {
  const std::int64_t n = x.elements;
  const std::int64_t written = 2 * ((n + 1) / 2 + (n + 15) / 16) / size_of(s.dtype);
  pass.add(rank.prepare(Kernel::streaming("fp4.cast", 2 * n, written, s.dtype, {Role::read})), {x});
}

// Places for the largest magnitudes of what goes into the products of a matrix; none: not kept.
// What was gathered in fp8 is cast already, and its place filled.
struct Largest {
  SlotView x{}, matrix{}, dy{};
  bool x_is_cast = false, dy_is_cast = false;
};

// Where products are not taken as stored, the cast of an operand.
inline void cast_operand(Rank& rank, PassProgram& pass, const TransformerShape& s,
                         const SlotView& x, const SlotView& largest = {}) {
  if (s.products == Products::as_stored) return;
  if (s.products == Products::nvfp4) return cast_to_nvfp4(rank, pass, s, x);
  pass.add(rank.prepare(fp8_cast(x.elements, scaling_of(s.products), s.dtype)), {x, largest});
}

// Which of the three products of a matrix: the gradients of outputs, dY, are A of d X = d Y A^T,
// and B of X^T d Y.
enum class ProductPass : std::uint8_t { forward, input_gradient, weight_gradient };

// Adds a product of {A, B, C (, bias)} in the type that a layer's products have.
inline void add_product(Rank& rank, PassProgram& pass, Products products, ProductPass which,
                        const Kernel& kernel, std::vector<SlotView> operands,
                        const SlotView& largest_a = {}, const SlotView& largest_b = {}) {
  if (products == Products::nvfp4) {
    Kernel in_4_bits = kernel;
    in_4_bits.dtype = Dtype::fp4;
    return pass.add(rank.prepare(in_4_bits), std::move(operands));
  }
  const Fp8Scaling scaling = scaling_of(products);
  if (scaling == Fp8Scaling::none) return pass.add(rank.prepare(kernel), std::move(operands));
  Fp8Product how{.scaling = scaling};
  how.b_in_squares = scaling == Fp8Scaling::block && which != ProductPass::weight_gradient;
  if (scaling == Fp8Scaling::tensor) {
    if (which == ProductPass::input_gradient) how.a = Float8::e5m2;
    if (which == ProductPass::weight_gradient) how.b = Float8::e5m2;
    operands.resize(fp8_largest_a);
    operands.insert(operands.end(), {largest_a, largest_b});
  }
  pass.add(rank.prepare(in_fp8(kernel, how)), std::move(operands));
}

// Y[rows, outputs] = X[rows, depth] A, + a bias where there is one.
inline void product(Rank& rank, PassProgram& pass, const TransformerShape& s, std::int64_t rows,
                    const char* label, std::int64_t outputs, std::int64_t depth, const SlotView& x,
                    const SlotView& matrix, const SlotView& y, const SlotView& bias = {},
                    const Largest& largest = {}) {
  if (!largest.x_is_cast) cast_operand(rank, pass, s, x, largest.x);
  cast_operand(rank, pass, s, matrix, largest.matrix);
  std::vector<SlotView> operands{x, matrix, y};
  if (bias.slot >= 0) operands.push_back(bias);
  add_product(rank, pass, s.products, ProductPass::forward,
              bias.slot < 0
                  ? Kernel::gemm(rows, outputs, depth, s.dtype, false, false, false, label)
                  : Kernel::gemm_bias(rows, outputs, depth, s.dtype, label),
              std::move(operands), largest.x, largest.matrix);
}

// Of Y[rows, outputs] = X[rows, inputs] A.
struct ProductSizes {
  std::int64_t rows, inputs, outputs;
  Dtype dtype;
  Products products = Products::as_stored;
};

// d X = d Y A^T.
inline void input_gradient(Rank& rank, PassProgram& pass, const char* label, const ProductSizes& s,
                           const SlotView& matrix, const SlotView& dy, const SlotView& dx,
                           bool accumulate = false, const Largest& largest = {}) {
  add_product(rank, pass, s.products, ProductPass::input_gradient,
              Kernel::gemm(s.rows, s.inputs, s.outputs, s.dtype, false, true, accumulate, label),
              {dy, matrix, dx}, largest.dy, largest.matrix);
}

// The gradients X^T d Y of A and, over the rows, of its bias, added to what is there; or, where it
// `writes`, that of A in its place. A bias behind the sum over a tensor group has the gradient of
// this rank's own tokens.
inline void weight_gradient(Rank& rank, PassProgram& pass, const char* label, const ProductSizes& s,
                            const SlotView& x, const Range& parameter, int gradients,
                            const SlotView& dy, std::int64_t bias_rows, const SlotView& bias_dy,
                            bool writes = false, const Largest& largest = {}) {
  add_product(rank, pass, s.products, ProductPass::weight_gradient,
              Kernel::gemm(s.inputs, s.outputs, s.rows, s.dtype, true, false, !writes, label),
              {x, dy, parameter.in(gradients)}, largest.x, largest.dy);
  if (parameter.bias > 0)
    pass.add(rank.prepare(Kernel::column_sum(bias_rows, s.outputs, s.dtype)),
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
