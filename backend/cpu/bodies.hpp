// The arithmetic of every kernel that has values, on this machine's CPU.
//
// Arithmetic is fp32 whatever the storage: bf16, fp16, fp8 and fp64 operands are expanded to fp32,
// worked on and rounded back. Scalar results (sum_squares, the loss) are summed in double and
// rounded once. The same inputs give the same bits always: every sum has an order that depends on
// its length only, never on where a buffer lies in memory.
#pragma once

#include "backend/kernel.hpp"

namespace orrery {

// Thread-safe. Error{invalid_program} for a kernel that is a timing model only (implicit_gemm, fft,
// streaming but for the cast to fp8), for an operand that is missing or too short, and for
// a token outside the vocabulary. `timed` does nothing.
const KernelBodies& cpu_bodies();

}  // namespace orrery
