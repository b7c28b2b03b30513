// What a kernel body is given: its operands, checked for presence and length before they are
// touched.
#pragma once

#include <cstdint>
#include <span>

#include "backend/element.hpp"
#include "backend/kernel.hpp"

namespace orrery::cpu {

class Operands {
 public:
  Operands(const Kernel& kernel, std::span<const View> views) : kernel_(kernel), views_(views) {}

  bool has(std::size_t operand) const {
    return operand < views_.size() && views_[operand].data != nullptr;
  }
  // Operand `operand`, which must hold at least `elements` of `dtype`; Error{invalid_program}
  // otherwise.
  const View& need(std::size_t operand, std::int64_t elements, Dtype dtype) const;
  const View& any(std::size_t operand, std::int64_t elements) const;  // of whatever type
  float* fp32(std::size_t operand, std::int64_t elements) const {
    return static_cast<float*>(need(operand, elements, Dtype::fp32).data);
  }
  std::int32_t* int32(std::size_t operand, std::int64_t elements) const {
    return static_cast<std::int32_t*>(need(operand, elements, Dtype::int32).data);
  }
  // Element `element` of an operand of any type.
  double scalar(std::size_t operand, std::int64_t element = 0) const;
  double scalar_or(std::size_t operand, double otherwise) const {
    return has(operand) ? scalar(operand) : otherwise;
  }

 private:
  const Kernel& kernel_;
  std::span<const View> views_;
};

// The bodies: `operands` are fp32 where they are floating, but for cast, fill and
// linear_combination, which take all types.
void gemm(const Kernel& kernel, const Operands& operands);
void bias_activation(const Kernel& kernel, const Operands& operands);
void bias_activation_backward(const Kernel& kernel, const Operands& operands);
void column_sum(const Kernel& kernel, const Operands& operands);
void embedding(const Kernel& kernel, const Operands& operands);
void embedding_backward(const Kernel& kernel, const Operands& operands);
void cross_entropy(const Kernel& kernel, const Operands& operands);
void linear_combination(const Kernel& kernel, const Operands& operands);
void sum_squares(const Kernel& kernel, const Operands& operands);
void clip_scale(const Kernel& kernel, const Operands& operands);
void sgd(const Kernel& kernel, const Operands& operands);
void adamw(const Kernel& kernel, const Operands& operands);
void initialise(const Kernel& kernel, const Operands& operands);
void text_batch(const Kernel& kernel, const Operands& operands);
void norm(const Kernel& kernel, const Operands& operands);
void norm_backward(const Kernel& kernel, const Operands& operands);
void rotary(const Kernel& kernel, const Operands& operands);
void gated_activation(const Kernel& kernel, const Operands& operands);
void gated_activation_backward(const Kernel& kernel, const Operands& operands);
void residual_add(const Kernel& kernel, const Operands& operands);
void add_positions(const Kernel& kernel, const Operands& operands);
void positions_backward(const Kernel& kernel, const Operands& operands);
void attention(const Kernel& kernel, const Operands& operands);
void attention_backward(const Kernel& kernel, const Operands& operands);
void attention_merge(const Kernel& kernel, const Operands& operands);
void row_maximum(const Kernel& kernel, const Operands& operands);
void softmax_sums(const Kernel& kernel, const Operands& operands);
void softmax_gradient(const Kernel& kernel, const Operands& operands);
void permute(const Kernel& kernel, const Operands& operands);
void reorder(const Kernel& kernel, const Operands& operands);
void grouped_gemm(const Kernel& kernel, const Operands& operands);
void route(const Kernel& kernel, const Operands& operands);
void route_backward(const Kernel& kernel, const Operands& operands);
void dispatch(const Kernel& kernel, const Operands& operands);
void dispatch_backward(const Kernel& kernel, const Operands& operands);
void combine(const Kernel& kernel, const Operands& operands);
void combine_backward(const Kernel& kernel, const Operands& operands);
void convolution(const Kernel& kernel, const Operands& operands);
void convolution_input_gradient(const Kernel& kernel, const Operands& operands);
void convolution_weight_gradient(const Kernel& kernel, const Operands& operands);
void batch_norm(const Kernel& kernel, const Operands& operands);
void batch_norm_backward(const Kernel& kernel, const Operands& operands);
void residual_add_backward(const Kernel& kernel, const Operands& operands);
void max_pool(const Kernel& kernel, const Operands& operands);
void max_pool_backward(const Kernel& kernel, const Operands& operands);
void average_pool(const Kernel& kernel, const Operands& operands);
void average_pool_backward(const Kernel& kernel, const Operands& operands);
void picture_batch(const Kernel& kernel, const Operands& operands);

// Storage to arithmetic and back: bf16, fp16, fp8, fp64.
void expand_to_fp32(const View& from, float* to);
void round_from_fp32(const float* from, const View& to);
void cast(const View& from, const View& to);
void fill(const View& to, double value);

}  // namespace orrery::cpu
