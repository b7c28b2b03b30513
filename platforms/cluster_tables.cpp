// The measured tables of a cluster: which are in use, and their answers.
#include <fmt/format.h>

#include <algorithm>

#include "backend/core/error.hpp"
#include "backend/core/units_text.hpp"
#include "platforms/cluster.hpp"

namespace orrery {

void Cluster::choose_tables() {
  std::map<int, std::int64_t> in_use;  // by node
  std::int64_t busy = 0;
  for (const Place& p : places_) busy = std::max(busy, ++in_use[p.node]);
  for (const GpuSpec& spec : kinds_) {
    auto& by_class = tables_.emplace_back();
    for (const MeasuredTableSpec* table : tables_for(spec.measured, busy))
      by_class.emplace(table->kernels, table);
    auto& by_busy = tables_by_busy_.emplace_back();
    for (const MeasuredTableSpec& table : spec.measured) by_busy[table.kernels].push_back(&table);
    for (auto& [kernels, tables] : by_busy)
      std::ranges::sort(tables, {}, [](const MeasuredTableSpec* table) { return table->busy; });
    const bool several = busy > 1 && std::ranges::any_of(by_busy, [](const auto& of_class) {
                           return of_class.second.size() > 1;
                         });
    if (!several) by_busy.clear();
  }
}

void Cluster::note_outside(const std::string& path, double value) const {
  const bool known = std::any_of(notes_.begin(), notes_.end(),
                                 [&path](const Assumption& note) { return note.path == path; });
  if (known) return;
  notes_.push_back(
      {path, number_text(value), "outside the measured range; the rate at its edge was used"});
}

std::vector<int> Cluster::sharing_cores(int gpu) const {
  std::vector<int> all;
  if (tables_by_busy_.at(static_cast<std::size_t>(kind(gpu))).empty()) return all;
  for (int other = 0; other < gpus(); ++other)
    if (node(other) == node(gpu)) all.push_back(other);
  return all;
}

// Between two numbers of busy devices, and beyond the largest, time is linear in their number: it
// is on a host whose threads take turns on its cores.
std::optional<Time> Cluster::measured_time(const Kernel& kernel, int kind, int working) const {
  const auto& tables = tables_.at(static_cast<std::size_t>(kind));
  if (tables.empty()) return std::nullopt;
  const std::optional<KernelPlace> place = place_of(kernel);
  if (!place) return std::nullopt;
  const auto found = tables.find(place->kernels);
  if (found == tables.end()) return std::nullopt;
  const auto& several = tables_by_busy_.at(static_cast<std::size_t>(kind));
  if (working == 0 || several.empty()) return read_for(*found->second, *place, kind);
  const std::vector<const MeasuredTableSpec*>& by_busy = several.at(place->kernels);
  std::size_t above = 0;
  while (above + 1 < by_busy.size() && by_busy[above]->busy < working) ++above;
  const Time its = read_for(*by_busy[above], *place, kind);
  if (above == 0 || by_busy[above]->busy == working) return its;
  const Time less = read_for(*by_busy[above - 1], *place, kind);
  const double step = static_cast<double>(by_busy[above]->busy - by_busy[above - 1]->busy);
  const double slope = std::max(0.0, (its.seconds().value - less.seconds().value) / step);
  return to_time(
      Seconds(its.seconds().value + slope * static_cast<double>(working - by_busy[above]->busy)));
}

Time Cluster::read_for(const MeasuredTableSpec& table, const KernelPlace& place, int kind) const {
  const bool fits =
      std::equal(table.axes.begin(), table.axes.end(), place.axes.begin(), place.axes.end(),
                 [](const MeasuredAxisSpec& a, const char* b) { return a.name == b; });
  const std::string& gpu = kinds_[static_cast<std::size_t>(kind)].name;
  if (!fits)
    throw Error(Category::config, fmt::format("the measured table '{}' of {} has other axes than "
                                              "its kernels",
                                              table.kernels, gpu))
        .with("hint", "platforms/measured.hpp lists the axes of every class");
  const TableAnswer answer = read_table(table, place.at, place.work);
  if (answer.outside != nullptr)
    note_outside(
        fmt::format("gpus/{}.yaml: measured '{}', {}", gpu, table.kernels, *answer.outside),
        answer.value);
  return to_time(answer.time);
}

std::optional<Time> Cluster::measured_time(Collective operation, Bytes size,
                                           const std::vector<int>& members) const {
  const char* wanted = name(operation == Collective::receive ? Collective::send : operation);
  for (const CollectiveTableSpec& table : platform_.cluster.collectives.measured) {
    if (table.operation != wanted || table.members != static_cast<std::int64_t>(members.size()))
      continue;
    const int home = place(members.front()).node;
    if (std::any_of(members.begin(), members.end(), [&](int m) { return place(m).node != home; }))
      return std::nullopt;
    const TableAnswer answer = read_table(table, size);
    if (answer.outside != nullptr)
      note_outside(fmt::format("clusters/{}.yaml: collectives.measured {} of {}",
                               platform_.cluster.name, table.operation, table.members),
                   answer.value);
    return to_time(answer.time);
  }
  return std::nullopt;
}

Time Cluster::message_time(int from, int to, Bytes size) const {
  if (from == to) return Time{};
  if (const auto measured = measured_time(Collective::send, size, {from, to})) return *measured;
  return Machine::message_time(from, to, size);
}

}  // namespace orrery
