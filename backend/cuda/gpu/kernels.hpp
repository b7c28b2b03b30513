// The kernels that run on a GPU. Each enqueues its operation, or returns false where it has no
// kernel for these types or shapes: then the CPU's body runs on copies of the operands.
#pragma once

#include <cuda_runtime_api.h>

#include <span>

#include "backend/kernel.hpp"

namespace orrery::cuda {

using Views = std::span<const View>;

// elementwise.cu
bool fill(cudaStream_t, const Kernel&, Views);
bool cast(cudaStream_t, const Kernel&, Views);
bool linear_combination(cudaStream_t, const Kernel&, Views);
bool bias_activation(cudaStream_t, const Kernel&, Views);
bool bias_activation_backward(cudaStream_t, const Kernel&, Views);
bool gated_activation(cudaStream_t, const Kernel&, Views);
bool gated_activation_backward(cudaStream_t, const Kernel&, Views);
bool residual_add(cudaStream_t, const Kernel&, Views);
// Bits that are random numbers in every type that is multiplied, of either sign: from 2^-15 to 2 in
// bf16, from 1/2 to 2 in fp16, and, two of them together, as in bf16 in fp32.
void fill_with_random_numbers(cudaStream_t, void* data, std::size_t bytes);
// positions.cu
bool rotary(cudaStream_t, const Kernel&, Views);
bool add_positions(cudaStream_t, const Kernel&, Views);
bool positions_backward(cudaStream_t, const Kernel&, Views);
bool permute(cudaStream_t, const Kernel&, Views);
bool embedding(cudaStream_t, const Kernel&, Views);
bool embedding_backward(cudaStream_t, const Kernel&, Views);
bool initialise(cudaStream_t, const Kernel&, Views);
// rows.cu
bool column_sum(cudaStream_t, const Kernel&, Views);
bool norm(cudaStream_t, const Kernel&, Views);
bool norm_backward(cudaStream_t, const Kernel&, Views);
bool cross_entropy(cudaStream_t, const Kernel&, Views);
bool sum_squares(cudaStream_t, const Kernel&, Views);
bool clip_scale(cudaStream_t, const Kernel&, Views);
// optimizers.cu
bool sgd(cudaStream_t, const Kernel&, Views);
bool adamw(cudaStream_t, const Kernel&, Views);
// attention.cu
bool attention(cudaStream_t, const Kernel&, Views);
bool attention_backward(cudaStream_t, const Kernel&, Views);
// Statistics of attention in 16 bits from single fp32 numbers, and to them.
void split_statistics(cudaStream_t, Dtype, std::int64_t rows, const float* from, void* to);
void join_statistics(cudaStream_t, Dtype, std::int64_t rows, const void* from, float* to);

}  // namespace orrery::cuda
