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
  }
}

// Busy were those of the tables in use, where there are any.
std::optional<SharedProcessor> Cluster::processor(int gpu) const {
  const Place& p = place(gpu);
  const auto& cores = node_spec(p).cores;
  if (!cores) return std::nullopt;
  used(node_spec(p).name, "cores");
  SharedProcessor shared{p.node, static_cast<int>(cores->value), 0};
  for (const auto& [kernels, table] : tables_[p.kind])
    shared.busy = std::max(shared.busy, static_cast<int>(table->busy));
  if (shared.busy == 0)
    shared.busy = static_cast<int>(std::count_if(
        places_.begin(), places_.end(), [&p](const Place& o) { return o.node == p.node; }));
  return shared;
}

void Cluster::note_outside(const std::string& path, double value) const {
  const bool known = std::any_of(notes_.begin(), notes_.end(),
                                 [&path](const Assumption& note) { return note.path == path; });
  if (known) return;
  notes_.push_back(
      {path, number_text(value), "outside the measured range; the rate at its edge was used"});
}

std::optional<Time> Cluster::measured_time(const Kernel& kernel, int kind) const {
  const auto& tables = tables_.at(static_cast<std::size_t>(kind));
  if (tables.empty()) return std::nullopt;
  const std::optional<KernelPlace> place = place_of(kernel);
  if (!place) return std::nullopt;
  const auto found = tables.find(place->kernels);
  if (found == tables.end()) return std::nullopt;
  const MeasuredTableSpec& table = *found->second;
  const bool fits =
      std::equal(table.axes.begin(), table.axes.end(), place->axes.begin(), place->axes.end(),
                 [](const MeasuredAxisSpec& a, const char* b) { return a.name == b; });
  const std::string& gpu = kinds_[static_cast<std::size_t>(kind)].name;
  if (!fits)
    throw Error(Category::config, fmt::format("the measured table '{}' of {} has other axes than "
                                              "its kernels",
                                              table.kernels, gpu))
        .with("hint", "platforms/measured.hpp lists the axes of every class");
  const TableAnswer answer = read_table(table, place->at, place->work);
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
  if (!platform_.cluster.collectives.measured.empty())
    if (const auto measured = measured_time(Collective::send, size, {from, to})) return *measured;
  return Machine::message_time(from, to, size);
}

}  // namespace orrery
