// Which results of a layer's products a policy of recomputation keeps, and how the others come
// back.
//
// The policy `op` of pytorch/torchtitan (torchtitan/parallelisms/parallelize_llama.py,
// _get_custom_policy): of a layer's products in the order of its forward, query, key, value, out,
// gate, up, down, every second one runs again; the results of the others, of attention, and of
// reduce-scatters are kept. All else, norms, rotation and activation, runs again too. A policy acts
// on operations, so eager layers keep the last product's result, which no backward reads; a
// compiler does not (keeps_unread).
//
// Cost, for n tokens of a hidden size h, q and k elements of queries and of keys per token, f
// columns of each matrix before the activation: kept besides the input n (2 q + k + f) elements and
// attention's statistics, and n h / t with sequence parallelism over t ranks; n h where unread
// results are kept; run again 2 n h (q + k + f) FLOPs, without n h q with sequence parallelism or
// parallel blocks, and without n h f where the activation has no gate. Products of neighbouring
// matrices are one kernel in the forward, so what is kept of it is copied out and back: reads and
// writes of 2 n (q + k + f) elements, and of the h (k + f) of two matrices, that the policy itself
// does not have.
#pragma once

#include "algorithms/models/transformer_blocks.hpp"

namespace orrery {

// Rows of `columns` elements from element `first` of rows of `stride` elements.
struct ColumnRange {
  std::int64_t rows = 0, columns = 0, first = 0, stride = 0;
  std::int64_t elements() const { return rows * columns; }
};

// Copies them out of `wide` to a matrix of their own, or back.
inline void copy_columns(Rank& rank, PassProgram& s, const ColumnRange& c, Dtype dtype,
                         const SlotView& wide, const SlotView& narrow, bool back = false) {
  const SlotView there{wide.slot, wide.begin + c.first, (c.rows - 1) * c.stride + c.columns};
  s.add(rank.prepare(Kernel::permute(c.rows, 1, c.columns, c.stride, 0, dtype, back)),
        {there, narrow});
}

}  // namespace orrery
