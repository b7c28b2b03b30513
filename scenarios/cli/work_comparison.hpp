// Where a step's computing goes, simulated and measured: the key `work` of a validation.
#pragma once

#include <optional>
#include <string>
#include <vector>

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

// Of results as to_json makes them. `profile`: a result of a run whose kernels were measured one by
// one, whose classes stand for those measured; "" for none.
WorkComparison compare_work(const std::string& simulated, const std::string& measured,
                            const std::string& profile);

}  // namespace orrery::cli
