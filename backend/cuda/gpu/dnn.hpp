// Attention by cuDNN, on tensor cores.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "backend/kernel.hpp"

struct CUstream_st;

namespace orrery::cuda {

// Of one rank, on the device that is current for the calling thread. A plan is made when a shape is
// rehearsed, or else first used, which takes a second or two, and kept. Ranks share none: cuDNN's
// handles are of one thread at a time, and its plans not safe on several (pytorch/pytorch#103939).
// Without the library, or where it is too old, nothing is done by it.
//
// The gradient of Q is summed up over keys in whatever order its parts are ready, unless the
// environment variable ORRERY_REPEATABLE is 1 when this is made: then the same inputs give the same
// bits, for 2 bytes more of memory per pair of query and key.
class Dnn {
 public:
  Dnn();
  ~Dnn();
  // Whether the operation was enqueued: in bf16 and fp16, every query seeing all keys or those up
  // to its own, heads of a multiple of 8 elements, operands aligned to 16 bytes, and cuDNN with a
  // plan for the shape. Statistics are kept as in `Kernel::attention`.
  bool attention(CUstream_st* stream, const Kernel& kernel, std::span<const View> views);
  bool attention_backward(CUstream_st* stream, const Kernel& kernel, std::span<const View> views);
  // Makes the plan of either and runs it once, on operands of its own of so many elements, so that
  // its code is loaded. Does nothing for what is not done here.
  void rehearse(CUstream_st* stream, const Kernel& kernel, std::span<const std::int64_t> elements);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace orrery::cuda
