// Gathering the tokens of a tensor group in 8 bits, with one scale for all of them. See
// fp8_gather.cpp.
#pragma once

#include "algorithms/models/pass_program.hpp"
#include "backend/fp8.hpp"

namespace orrery {

// What a pass needs besides: tensors of its program.
struct Fp8GatherSlots {
  int messages = -1;  // bytes: all tokens' numbers, and this rank's
  int largest = -1;   // one fp32 number
};

// All tokens of `own`, numbers of `dtype`, in `all` after the next wait; their largest magnitude in
// `largest`, of `dtype`, where there is such a place. One at a time: the next one of a pass begins
// behind that wait.
void gather_in_fp8(Rank& rank, PassProgram& pass, const Line& line, const Fp8GatherSlots& slots,
                   const SlotView& own, const SlotView& all, Float8 type, Dtype dtype,
                   const SlotView& largest = {});

}  // namespace orrery
