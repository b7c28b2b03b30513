// Kernels that several parts of a transformer layer add to their passes.
#pragma once

#include "algorithms/models/transformer_blocks.hpp"

namespace orrery {

// Of Y[rows, outputs] = X[rows, inputs] A.
struct ProductSizes {
  std::int64_t rows, inputs, outputs;
};

// d X = d Y A^T.
inline void input_gradient(Rank& rank, PassProgram& pass, Dtype dtype, const char* label,
                           const ProductSizes& s, const SlotView& matrix, const SlotView& dy,
                           const SlotView& dx, bool accumulate = false) {
  pass.add(rank.prepare(
               Kernel::gemm(s.rows, s.inputs, s.outputs, dtype, false, true, accumulate, label)),
           {dy, matrix, dx});
}

// The gradients X^T d Y of A and, over the rows, of its bias, added to what is there. A bias behind
// the sum over a tensor group has the gradient of this rank's own tokens.
inline void weight_gradient(Rank& rank, PassProgram& pass, Dtype dtype, const char* label,
                            const ProductSizes& s, const SlotView& x, const Range& parameter,
                            int gradients, const SlotView& dy, std::int64_t bias_rows,
                            const SlotView& bias_dy) {
  pass.add(rank.prepare(Kernel::gemm(s.inputs, s.outputs, s.rows, dtype, true, false, true, label)),
           {x, dy, parameter.in(gradients)});
  if (parameter.bias > 0)
    pass.add(rank.prepare(Kernel::column_sum(bias_rows, s.outputs, dtype)),
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
