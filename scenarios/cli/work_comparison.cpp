#include "scenarios/cli/work_comparison.hpp"

#include <nlohmann/json.hpp>

#include "scenarios/cli/work.hpp"

namespace orrery::cli {

namespace {

using Json = nlohmann::ordered_json;

// Null where it was not kept.
Json work_of(const Json& result) {
  const auto work = result.find("work");
  return work == result.end() ? Json(nullptr) : *work;
}

std::optional<double> phase_time(const Json& work, const char* phase) {
  if (work.is_null()) return std::nullopt;
  return work.at("phases_s").at(phase).get<double>();
}

}  // namespace

std::array<std::optional<double>, work_class_count> class_times(const std::string& result) {
  std::array<std::optional<double>, work_class_count> times;
  const Json work = work_of(Json::parse(result));
  if (work.is_null()) return times;
  const auto native = work.find("native");
  const Json& classes = native != work.end() ? native->at("classes_s") : work.at("classes_s");
  if (classes.contains(name(WorkClass::undivided))) return times;
  for (int i = 0; i < work_class_count; ++i)
    times[static_cast<std::size_t>(i)] = classes.value(name(static_cast<WorkClass>(i)), 0.0);
  return times;
}

std::optional<double> WorkDifference::difference() const {
  if (!simulated_s || !measured_s) return std::nullopt;
  if (*simulated_s == *measured_s) return 0;
  if (*measured_s == 0) return std::nullopt;
  return *simulated_s / *measured_s - 1;
}

WorkComparison compare_work(const std::string& simulated, const std::string& measured,
                            const std::string& profile) {
  const Json a = work_of(Json::parse(simulated)), b = work_of(Json::parse(measured));
  const auto told = class_times(simulated);
  const auto kernels = class_times(profile.empty() ? measured : profile);
  WorkComparison comparison;
  for (int i = 0; i < phase_count; ++i) {
    const char* phase = name(static_cast<WorkPhase>(i));
    comparison.phases.push_back({phase, phase_time(a, phase), phase_time(b, phase)});
  }
  for (std::size_t i = 0; i < work_class_count; ++i) {
    WorkDifference row{name(static_cast<WorkClass>(i)), told[i], kernels[i]};
    if (row.simulated_s.value_or(0) > 0 || row.measured_s.value_or(0) > 0)
      comparison.classes.push_back(std::move(row));
  }
  return comparison;
}

}  // namespace orrery::cli
