#include "sim/shared_cores.hpp"

#include <algorithm>
#include <map>

#include "sim/interference.hpp"
#include "sim/sim_rank.hpp"

namespace orrery::sim {

namespace {

std::int32_t without_core(const SharedProcessor& processor, int threads) {
  return std::max(0, threads - processor.cores);
}

}  // namespace

std::unique_ptr<SharedCores> SharedCores::of(Core& core) {
  std::unique_ptr<SharedCores> all(new SharedCores(core));
  std::map<int, std::uint32_t> places;
  for (std::uint32_t rank = 0; rank < core.rank_count(); ++rank) {
    const std::optional<SharedProcessor> its = core.machine.processor(static_cast<int>(rank));
    std::uint32_t place = none;
    if (its) {
      const auto next = static_cast<std::uint32_t>(all->processors_.size());
      const auto [known, fresh] = places.emplace(its->number, next);
      if (fresh) all->processors_.push_back({*its, {}, 0});
      place = known->second;
      all->processors_[place].ranks.push_back(rank);
    }
    all->processor_of_.push_back(place);
  }
  return all->processors_.empty() ? nullptr : std::move(all);
}

void SharedCores::changed(std::uint32_t rank) {
  if (count_is_due_ || processor_of_[rank] == none) return;
  count_is_due_ = true;
  core_.engine.schedule(core_.now, core_.count_key(), make_payload(Due::threads_counted, this));
}

void SharedCores::count() {
  count_is_due_ = false;
  for (Processor& processor : processors_) {
    int working = 0;
    for (const std::uint32_t rank : processor.ranks)
      for (const StreamState* const stream : core_.ranks[rank]->streams())
        working += stream->phase == StreamPhase::running ? 1 : 0;
    const std::int32_t now = without_core(processor.shared, working) -
                             without_core(processor.shared, processor.shared.busy);
    Taken more;
    more.threads = now - processor.without_core;
    processor.without_core = now;
    for (const std::uint32_t rank : processor.ranks)
      core_.interference->take(*core_.ranks[rank], more, core_.now);
  }
  core_.streams->run_ready();
}

double SharedCores::slowness(std::uint32_t rank, std::int32_t threads) const {
  const SharedProcessor& processor = processors_[processor_of_[rank]].shared;
  const std::int32_t measured = processor.cores + without_core(processor, processor.busy);
  return static_cast<double>(measured + threads) / measured;
}

}  // namespace orrery::sim
