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

// The GPU's own times, where these were measured. A class without time took none; where some
// kernels were not told apart, no class is known.
std::optional<double> class_time(const Json& work, const char* kind) {
  if (work.is_null()) return std::nullopt;
  const auto native = work.find("native");
  const Json& classes = native != work.end() ? native->at("classes_s") : work.at("classes_s");
  if (classes.contains(name(WorkClass::undivided))) return std::nullopt;
  return classes.value(kind, 0.0);
}

}  // namespace

std::optional<double> WorkDifference::difference() const {
  if (!simulated_s || !measured_s) return std::nullopt;
  if (*simulated_s == *measured_s) return 0;
  if (*measured_s == 0) return std::nullopt;
  return *simulated_s / *measured_s - 1;
}

WorkComparison compare_work(const std::string& simulated, const std::string& measured,
                            const std::string& profile) {
  const Json a = work_of(Json::parse(simulated)), b = work_of(Json::parse(measured));
  const Json by_kernel = profile.empty() ? b : work_of(Json::parse(profile));
  WorkComparison comparison;
  for (int i = 0; i < phase_count; ++i) {
    const char* phase = name(static_cast<WorkPhase>(i));
    comparison.phases.push_back({phase, phase_time(a, phase), phase_time(b, phase)});
  }
  for (int i = 0; i < work_class_count; ++i) {
    const char* kind = name(static_cast<WorkClass>(i));
    WorkDifference row{kind, class_time(a, kind), class_time(by_kernel, kind)};
    if (row.simulated_s.value_or(0) > 0 || row.measured_s.value_or(0) > 0)
      comparison.classes.push_back(std::move(row));
  }
  return comparison;
}

}  // namespace orrery::cli
