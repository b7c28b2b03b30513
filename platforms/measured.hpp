// Measured times of kernels and collectives, and how they are read between the points measured.
//
// A table gives the time of one class of kernels over a full grid of sizes. Between its points the
// logarithm of the time is linear in the logarithms of the sizes, axis by axis, which is the rate
// (work / time) interpolated in the same way, because work is a product of sizes. At a point the
// table's own time comes back; between two it lies within theirs. Outside the grid the rate of the
// nearest edge is used, and the answer says so.
//
// The class of a kernel is its operation and what else decides how fast it runs; its axes, and the
// work that its time grows with:
//
//   gemm nn|tn|nt [accumulate|bias] TYPE         m, n, k            m n k
//   attention[_backward] causal|full TYPE        sequence, head     batch heads sequence^2 head
//   bias_activation[_backward] ACTIVATION TYPE   rows, cols         rows cols
//   gated_activation[_backward] ACTIVATION TYPE  rows, cols         rows cols of the result
//   norm[_backward] rms|layer TYPE               rows, cols         rows cols
//   rotary TYPE                                  rows, cols         heads turned x head size
//   column_sum embedding[_backward] cross_entropy residual_add add_positions positions_backward
//   TYPE, text_batch                             rows, cols         rows cols
//   sgd [momentum], adamw TYPE [gradient TYPE],
//   linear_combination, fill, sum_squares, clip_scale, initialise TYPE,
//   cast FROM TO                                 elements           elements
//
// (n and t say which operands of a GEMM are transposed; a bias decides nothing elsewhere. The time
// of attention is that of one head of one sample.) Other kernels have no class.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/channel.hpp"
#include "backend/core/config.hpp"
#include "backend/core/units.hpp"
#include "backend/kernel.hpp"

namespace orrery {

// How far a table is off: on points that were measured and held back, predicted / measured - 1, as
// fractions; and how far repetitions of a measurement lie from their median.
struct MeasuredErrorSpec {
  std::int64_t points = 0;                              // measured, those held back included
  std::int64_t held_back = 0;                           // 0: the errors below are not known
  double mean_abs = 0, max_abs = 0, p90 = 0, bias = 0;  // p90: of the absolute error
  double spread = 0;  // mean over the points of the mean absolute deviation from the median

  // By how much a time may be off either way: the root of p90^2 + spread^2; both are independent.
  double band() const;
  bool operator==(const MeasuredErrorSpec&) const = default;
};
void describe(Fields<MeasuredErrorSpec>& f);

struct MeasuredAxisSpec {
  std::string name;
  std::vector<double> at;  // strictly ascending, positive
  bool operator==(const MeasuredAxisSpec&) const = default;
};
void describe(Fields<MeasuredAxisSpec>& f);

// Times of one class of kernels on a device.
struct MeasuredTableSpec {
  std::string kernels;    // the class
  std::int64_t busy = 1;  // devices of the node that worked while it was measured
  std::vector<MeasuredAxisSpec> axes;
  std::vector<Seconds> times;  // the last axis varies fastest
  std::optional<MeasuredErrorSpec> error;
  bool operator==(const MeasuredTableSpec&) const = default;
};
void describe(Fields<MeasuredTableSpec>& f);

// Times of one collective on a group inside one node, by the size of the whole buffer: between
// sizes as above, from 0 B to the first size linear.
struct CollectiveTableSpec {
  std::string operation;     // "all_reduce"; "send" stands for receive too
  std::int64_t members = 2;  // of the group
  std::vector<Bytes> sizes;  // strictly ascending; the first may be 0 B
  std::vector<Seconds> times;
  std::optional<MeasuredErrorSpec> error;
  bool operator==(const CollectiveTableSpec&) const = default;
};
void describe(Fields<CollectiveTableSpec>& f);

// Where a kernel lies: its class, its place on the axes of the class, its work.
struct KernelPlace {
  std::string kernels;
  std::vector<const char*> axes;
  std::array<double, 3> at{};
  double work = 0;
};
// Empty for a kernel without a class.
std::optional<KernelPlace> place_of(const Kernel& kernel);

// Work at a point of these axes: the product of its coordinates, `sequence` counted twice.
double work_at(const std::vector<MeasuredAxisSpec>& axes, std::span<const double> at);

// An answer of a table. `outside` names the first axis on which the question lay outside, and
// `value` is what was asked for there.
struct TableAnswer {
  Seconds time;
  const std::string* outside = nullptr;
  double value = 0;
};
// The time at `at` for `work`, in the unit of work_at.
TableAnswer read_table(const MeasuredTableSpec& table, std::span<const double> at, double work);
// The same for a collective; `outside` is the operation when the size is beyond the largest.
TableAnswer read_table(const CollectiveTableSpec& table, Bytes size);

// The tables to use when `busy` devices of a node work: of each class those measured with the
// fewest busy devices that are at least as many, else with the most.
std::vector<const MeasuredTableSpec*> tables_for(const std::vector<MeasuredTableSpec>& tables,
                                                 std::int64_t busy);

}  // namespace orrery
