// From repetitions to tables, each with its error on the points held back from it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "calibration/measurements.hpp"
#include "platforms/kernel_time.hpp"

namespace orrery {

// Of at least one value; between the middle two of an even number.
double median(std::span<const double> values);
// Mean absolute deviation from the median, as a fraction of it; 0 for a single value.
double spread(std::span<const double> values);

// Signed errors, predicted / measured - 1, in figures; `points` counts what was measured in all.
MeasuredErrorSpec error_of(std::span<const double> errors, std::int64_t points, double spread);

// One table per class and number of busy threads, in order of first appearance: medians, rounded
// to picoseconds, over the grid of the points that were not held back. Error{internal} when they do
// not fill a grid.
std::vector<MeasuredTableSpec> kernel_tables(const std::vector<KernelSamples>& samples);
std::vector<CollectiveTableSpec> collective_tables(const std::vector<CollectiveSamples>& samples);

// The edge d0 of gemm_time (platforms/kernel_time.hpp), a whole number up to 512, that is nearest
// to the GEMM samples with one busy thread, and the mean absolute error that remains.
struct EdgeFit {
  double edge = 0, residual = 0;
};
EdgeFit fit_edge(const std::vector<KernelSamples>& samples, GemmConstants constants);

}  // namespace orrery
