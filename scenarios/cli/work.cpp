#include "scenarios/cli/work.hpp"

namespace orrery::cli {

const char* name(WorkPhase phase) {
  static constexpr std::array<const char*, phase_count> names{"forward", "backward", "optimizer",
                                                              "other"};
  return names.at(static_cast<std::size_t>(phase));
}

WorkPhase phase_of(const WorkRow& row) {
  const auto says = [&row](const char* word) {
    return row.operation.find(word) != std::string::npos;
  };
  if (row.kind == WorkClass::optimizer) return WorkPhase::optimizer;
  if (says("backward")) return WorkPhase::backward;
  return says("forward") ? WorkPhase::forward : WorkPhase::other;
}

namespace {
WorkLine line_of(const WorkRow& row, double steps) {
  return {row.operation,
          row.kernel,
          row.kind,
          phase_of(row),
          static_cast<double>(row.calls) / steps,
          row.time.seconds().value / steps};
}
}  // namespace

std::vector<WorkLine> work_per_step(const std::vector<WorkRow>& rows, double steps) {
  std::vector<WorkLine> lines;
  for (const WorkRow& row : rows) lines.push_back(line_of(row, steps));
  return lines;
}

std::vector<NativeLine> native_per_step(const std::vector<NativeRow>& rows, double steps) {
  std::vector<NativeLine> lines;
  for (const NativeRow& row : rows) lines.push_back({line_of(row.of, steps), row.function});
  return lines;
}

WorkSums sums_of(const std::vector<WorkLine>& lines) {
  WorkSums sums;
  for (const WorkLine& line : lines) {
    sums.phase_s[static_cast<std::size_t>(line.phase)] += line.time_s;
    sums.class_s[static_cast<std::size_t>(line.kind)] += line.time_s;
  }
  return sums;
}

}  // namespace orrery::cli
