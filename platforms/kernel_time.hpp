// How long a kernel takes on one GPU, when nothing else runs there.
//
// GEMM of an m x k by a k x n matrix (e = efficiency, d0 = edge, P = dense peak of the type, SM =
// multiprocessors):
//
//   t     = launch + max( work(m', n', k, 1) / (P e),  bytes / (achieved BW) )
//   work  = (1/2 2 m n k + 1/2 waves 2 * 128 * 256 * k/s * SM) (1 + d0/m) (1 + d0/n) (1 + d0 s/k)
//   waves = ceil( s ceil(m/128) ceil(n/256) / SM )
//
// The second half of `work` is what the device would do if every wave of 128 x 256 tiles were full:
// tile and wave quantisation count half, because stream-k and other tile shapes avoid about half of
// the loss (full weight was worse than none, half weight best). The edge terms stand for prologue,
// epilogue and small tiles. The form and d0 were chosen on kernel tables (MooreThreads/SimuMax
// configs/system, microsoft/vidur data/profiling/compute) and on published train steps; each
// platform file names its cases and residual. A product with a short side could be computed as a
// longer one with zeros, so it takes no longer than that: m' and n' are the sides themselves or
// powers of two beyond, whichever are fastest. Effects: docs.nvidia.com, deep-learning performance,
// "Matrix Multiplication Background User's Guide", chapters 2 and 3.
//
// Where tiles are too few for a wave, libraries split k into s parts that are computed side by side
// and added by a second kernel (NVIDIA/cutlass, media/docs/efficient_gemm.md, "Split K - reduction
// across threadblocks"): with sums of c bytes (4, for fp64 8)
//
//   t     = launch + max( work(m', n', k, s) / (P e),  (bytes + s c m n) / (achieved BW) )
//         + launch + s c m n / (achieved BW)
//
// for s = 2, 4, 8, ... and as many as fill the wave, if one of them is faster than s = 1. Nothing
// of this was fitted: the mean error on the GEMMs of microsoft/vidur fell from 50 to 23 % on A100
// and from 46 to 27 % on H100. For GEMMs below 20 GFLOP it is pessimistic still (by 40 % there).
//
// Attention, of which a causal kernel executes half of the s^2 term, and the backward pass 2.5
// times the forward's FLOPs (Dao 2023, arXiv 2307.08691, section 3):
//
//   t     = launch + max( executed FLOPs / (P e(kernel, head size, pass)),  bytes / (achieved BW) )
//
// A stack without a fused kernel, forward; backward twice the FLOPs and as many bytes:
//
//   t     = launch + 4 b a s^2 d / (P achieved) + b a s^2 bytes_per_score / (achieved BW)
//
// Everything else is a roofline: launch + max( bytes / (achieved BW), vector FLOPs / fp32 peak ).
// The bytes of norms, activations and other elementwise kernels count `elementwise` times, those of
// the loss at least `loss_bytes_per_logit`.
#pragma once

#include "backend/core/units.hpp"
#include "backend/kernel.hpp"
#include "platforms/platform.hpp"

namespace orrery {

// Constants of one GPU for operands of one type.
struct GemmConstants {
  FlopsPerSecond peak;
  double efficiency = 1;
  double edge = 0;
  std::int64_t sm = 1;
  Seconds launch;
  BytesPerSecond memory;  // achieved
  Bytes sum{4};           // of a part of the inner dimension, per element
};
GemmConstants gemm_constants(const GpuSpec& gpu, Dtype dtype);

// The formula above; `moved` are the bytes read and written. Exact in double arithmetic, in this
// order of operations.
Seconds gemm_time(std::int64_t m, std::int64_t n, std::int64_t k, Bytes moved,
                  const GemmConstants& c);

// The row of the table for this kernel generation and head size, else the nearest head size (ties:
// the smaller). Error{config} where the GPU has no row for the generation.
const AttentionSpec& attention_row(const GpuSpec& gpu, const std::string& kernel,
                                   std::int64_t head);

// Time of any kernel. custom and timed kernels take their stated duration where they have one.
// Error{config} where the device has no peak for the type.
Seconds kernel_time(const Kernel& kernel, const Cost& cost, const GpuSpec& gpu,
                    const StackSpec& stack);

}  // namespace orrery
