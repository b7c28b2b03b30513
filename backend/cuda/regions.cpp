#include "backend/cuda/regions.hpp"

#include <map>
#include <string>
#include <tuple>

namespace orrery::cuda {

namespace {
constexpr int rank_shift = 32;
}

std::uint64_t Regions::number_of(const WorkItem& item) {
  const auto [known, fresh] = of_step_.try_emplace(item, regions_.size());
  if (fresh) regions_.push_back({item, steps_});
  return static_cast<std::uint64_t>(rank_) << rank_shift | known->second;
}

std::int64_t Regions::step_ended() {
  of_step_.clear();
  return ++steps_;
}

std::vector<NativeRow> Regions::rows(std::span<const GpuActivity> activities) const {
  struct Sum {
    std::uint64_t calls = 0;
    Time time;
  };
  std::map<std::tuple<std::string, std::string, WorkClass, std::string>, Sum> sums;
  const std::int64_t first = steps_ > 1 ? 1 : 0;
  for (const GpuActivity& activity : activities) {
    const std::uint64_t place = activity.region & ((std::uint64_t{1} << rank_shift) - 1);
    if (activity.region >> rank_shift != static_cast<std::uint64_t>(rank_) ||
        place >= regions_.size())
      continue;
    const Region& region = regions_[place];
    if (region.step < first || region.step >= steps_) continue;
    const WorkRow row = row_of(region.item);
    Sum& sum = sums[{row.operation, row.kernel, row.kind, activity.name}];
    ++sum.calls;
    sum.time += activity.length;
  }
  std::vector<NativeRow> rows;
  for (const auto& [key, sum] : sums) {
    const auto& [operation, kernel, kind, function] = key;
    rows.push_back({{operation, kernel, kind, sum.calls, sum.time}, function});
  }
  return rows;
}

}  // namespace orrery::cuda
