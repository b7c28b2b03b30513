// Where a step's computing goes, simulated and measured: the key `work` of a validation.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "backend/work_times.hpp"

namespace orrery::cli {

// Of a phase or of a kind of kernels, per step; empty where it was not kept or not told apart.
struct WorkDifference {
  std::string name;
  std::optional<double> simulated_s, measured_s;
  std::optional<double> difference() const;  // as in comparison.hpp
};

struct WorkComparison {
  std::vector<WorkDifference> phases, classes;
};

// Seconds per step of each kind of kernels, by WorkClass: the GPU's own times, where these were
// measured. A kind that a result leaves out took none; where some kernels were not told apart, or
// no times were kept, no kind is known. `result`: as to_json makes it.
std::array<std::optional<double>, work_class_count> class_times(const std::string& result);

// Of results as to_json makes them. `profile`: a result of a run whose kernels were measured one by
// one, whose classes stand for those measured; "" for none.
WorkComparison compare_work(const std::string& simulated, const std::string& measured,
                            const std::string& profile);

}  // namespace orrery::cli
