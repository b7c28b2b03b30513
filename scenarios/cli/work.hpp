// Where a step's computing goes, by phase and by kind of kernel: the key `work` of a result.
//
// Phases are told by the names of operations: sequences say whether they go forward or backward;
// forward passes that are run again to save memory count as forward. The optimizer's phase is its
// kernels, with the norm of the gradients and their clipping. The rest (zeroed gradients, batches,
// an algorithm's own kernels) is `other`. A loss on held-out text is computed after the last step
// and counts nowhere.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "backend/world.hpp"

namespace orrery::cli {

enum class WorkPhase : std::uint8_t { forward, backward, optimizer, other };
inline constexpr int phase_count = 4;
const char* name(WorkPhase phase);
WorkPhase phase_of(const WorkRow& row);

// A kernel of the slowest rank's compute stream, per step.
struct WorkLine {
  std::string operation, kernel;
  WorkClass kind = WorkClass::other;
  WorkPhase phase = WorkPhase::other;
  double calls = 0, time_s = 0;
};
std::vector<WorkLine> work_per_step(const std::vector<WorkRow>& rows, double steps);

// A GPU function that ran for a kernel, by its own time.
struct NativeLine {
  WorkLine of;
  std::string function;
};
std::vector<NativeLine> native_per_step(const std::vector<NativeRow>& rows, double steps);

struct WorkSums {
  std::array<double, phase_count> phase_s{};
  std::array<double, work_class_count> class_s{};
};
WorkSums sums_of(const std::vector<WorkLine>& lines);

}  // namespace orrery::cli
