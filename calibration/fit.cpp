#include "calibration/fit.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "backend/core/error.hpp"

namespace orrery {

namespace {

Seconds whole_picoseconds(double seconds) {
  return Seconds(std::max(1.0, std::round(seconds * 1e12)) / 1e12);
}

// The samples of one table, in the order measured.
template <class Samples, class Key>
std::vector<std::vector<const Samples*>> groups_by(const std::vector<Samples>& samples,
                                                   const Key& key) {
  std::vector<std::vector<const Samples*>> groups;
  std::map<decltype(key(samples.front())), std::size_t> known;
  for (const Samples& sample : samples) {
    const auto [place, fresh] = known.emplace(key(sample), groups.size());
    if (fresh) groups.emplace_back();
    groups[place->second].push_back(&sample);
  }
  return groups;
}

template <class Table, class Samples, class Predict>
MeasuredErrorSpec check(const Table& table, const std::vector<const Samples*>& group,
                        const Predict& predict) {
  std::vector<double> errors;
  double spreads = 0;
  for (const Samples* sample : group) {
    spreads += spread(sample->seconds);
    if (sample->held_back) errors.push_back(predict(table, *sample) / median(sample->seconds) - 1);
  }
  return error_of(errors, static_cast<std::int64_t>(group.size()),
                  spreads / static_cast<double>(group.size()));
}

MeasuredTableSpec empty_grid(const std::vector<const KernelSamples*>& group) {
  MeasuredTableSpec table;
  table.kernels = group.front()->kernels;
  table.busy = group.front()->busy;
  std::size_t points = 1;
  for (std::size_t axis = 0; axis < group.front()->axes.size(); ++axis) {
    std::vector<double> values;
    for (const KernelSamples* sample : group)
      if (!sample->held_back) values.push_back(sample->at[axis]);
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    points *= values.size();
    table.axes.push_back({group.front()->axes[axis], std::move(values)});
  }
  table.times.resize(points);
  return table;
}

MeasuredTableSpec kernel_table(const std::vector<const KernelSamples*>& group) {
  MeasuredTableSpec table = empty_grid(group);
  for (const KernelSamples* sample : group) {
    if (sample->held_back) continue;
    std::size_t place = 0;
    for (std::size_t axis = 0; axis < table.axes.size(); ++axis) {
      const std::vector<double>& values = table.axes[axis].at;
      const auto found = std::lower_bound(values.begin(), values.end(), sample->at[axis]);
      place = place * values.size() + static_cast<std::size_t>(found - values.begin());
    }
    table.times[place] = whole_picoseconds(median(sample->seconds));
  }
  if (table.times.empty() || std::count(table.times.begin(), table.times.end(), Seconds(0)) > 0)
    throw Error(Category::internal, "the points measured do not fill a grid")
        .with("kernels", table.kernels);
  table.error = check(table, group, [](const MeasuredTableSpec& t, const KernelSamples& s) {
    return read_table(t, s.at, work_at(t.axes, s.at)).time.value;
  });
  return table;
}

CollectiveTableSpec collective_table(const std::vector<const CollectiveSamples*>& group) {
  std::vector<const CollectiveSamples*> ascending = group;
  std::stable_sort(ascending.begin(), ascending.end(),
                   [](const auto* a, const auto* b) { return a->size < b->size; });
  CollectiveTableSpec table;
  table.operation = name(group.front()->operation);
  table.members = group.front()->members;
  for (const CollectiveSamples* sample : ascending) {
    if (sample->held_back) continue;
    table.sizes.push_back(sample->size);
    table.times.push_back(whole_picoseconds(median(sample->seconds)));
  }
  if (table.sizes.empty())
    throw Error(Category::internal, "no size of a collective was measured")
        .with("operation", table.operation);
  table.error = check(table, group, [](const CollectiveTableSpec& t, const CollectiveSamples& s) {
    return read_table(t, s.size).time.value;
  });
  return table;
}

}  // namespace

double median(std::span<const double> values) {
  ORRERY_ASSERT(!values.empty(), "the median of nothing");
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  const std::size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : 0.5 * (sorted[middle - 1] + sorted[middle]);
}

double spread(std::span<const double> values) {
  const double centre = median(values);
  double sum = 0;
  for (const double value : values) sum += std::abs(value / centre - 1);
  return sum / static_cast<double>(values.size());
}

MeasuredErrorSpec error_of(std::span<const double> errors, std::int64_t points, double spread) {
  MeasuredErrorSpec e;
  e.points = points;
  e.held_back = static_cast<std::int64_t>(errors.size());
  e.spread = spread;
  if (errors.empty()) return e;
  std::vector<double> absolute;
  for (const double error : errors) {
    absolute.push_back(std::abs(error));
    e.bias += error / static_cast<double>(errors.size());
    e.mean_abs += std::abs(error) / static_cast<double>(errors.size());
  }
  std::sort(absolute.begin(), absolute.end());
  e.max_abs = absolute.back();
  // The smallest that at least nine tenths do not exceed.
  const auto rank = static_cast<std::size_t>(std::ceil(0.9 * static_cast<double>(errors.size())));
  e.p90 = absolute[rank - 1];
  return e;
}

std::vector<MeasuredTableSpec> kernel_tables(const std::vector<KernelSamples>& samples) {
  std::vector<MeasuredTableSpec> tables;
  if (samples.empty()) return tables;
  for (const auto& group :
       groups_by(samples, [](const KernelSamples& s) { return std::pair(s.kernels, s.busy); }))
    tables.push_back(kernel_table(group));
  return tables;
}

std::vector<CollectiveTableSpec> collective_tables(const std::vector<CollectiveSamples>& samples) {
  std::vector<CollectiveTableSpec> tables;
  if (samples.empty()) return tables;
  for (const auto& group : groups_by(
           samples, [](const CollectiveSamples& s) { return std::pair(s.operation, s.members); }))
    tables.push_back(collective_table(group));
  return tables;
}

EdgeFit fit_edge(const std::vector<KernelSamples>& samples, GemmConstants constants) {
  EdgeFit best{0, HUGE_VAL};
  for (int edge = 0; edge <= 512; ++edge) {
    constants.edge = edge;
    double sum = 0;
    int count = 0;
    for (const KernelSamples& s : samples) {
      if (!s.kernels.starts_with("gemm") || s.busy != 1) continue;
      const auto i = [&s](std::size_t axis) { return static_cast<std::int64_t>(s.at[axis]); };
      const Bytes moved(static_cast<std::int64_t>(s.bytes));
      const double predicted = gemm_time(i(0), i(1), i(2), moved, constants).value;
      sum += std::abs(predicted / median(s.seconds) - 1);
      ++count;
    }
    if (count == 0) return {};
    if (sum / count < best.residual) best = {static_cast<double>(edge), sum / count};
  }
  return best;
}

}  // namespace orrery
