#include "sim/interference.hpp"

#include <algorithm>
#include <cmath>

#include "sim/shared_cores.hpp"
#include "sim/sim_rank.hpp"
#include "sim/variability.hpp"

namespace orrery::sim {

void Interference::change(SimRank& rank, const Taken& by, int sign, Time from) {
  if (by == Taken{}) return;
  for (StreamState* const stream : rank.streams()) core_.streams->settle(*stream);
  if (rank.id() >= presences_.size()) presences_.resize(rank.id() + 1U);
  std::unique_ptr<Presence>& presence = presences_[rank.id()];
  if (presence == nullptr) presence = std::make_unique<Presence>();
  std::vector<Presence::Step>& steps = presence->steps_;
  auto at = std::upper_bound(steps.begin(), steps.end(), from,
                             [](Time time, const Presence::Step& s) { return time < s.from; });
  if (std::prev(at)->from == from)
    --at;
  else
    at = steps.insert(at, {from, std::prev(at)->taken, 0});
  for (; at != steps.end(); ++at) {
    at->taken.add(by, sign);
    at->level = level_of(at->taken);
  }
  const auto same = [](const Presence::Step& a, const Presence::Step& b) {
    return a.level == b.level;
  };
  steps.erase(std::unique(steps.begin(), steps.end(), same), steps.end());
  forget(*presence, rank);
  core_.streams->retime(rank);
}

// What is over before all that still runs.
void Interference::forget(Presence& presence, const SimRank& rank) const {
  Time oldest = core_.now;
  for (const StreamState* const stream : rank.streams())
    if (stream->phase == StreamPhase::running) oldest = std::min(oldest, stream->began);
  std::size_t over = 0;
  const auto& steps = presence.steps_;
  while (over + 1 < steps.size() && steps[over + 1].from <= oldest) ++over;
  presence.steps_.erase(presence.steps_.begin(),
                        presence.steps_.begin() + static_cast<std::ptrdiff_t>(over));
}

std::uint32_t Interference::level_of(const Taken& taken) {
  const auto known = std::find(levels_.begin(), levels_.end(), taken);
  const auto level = static_cast<std::uint32_t>(known - levels_.begin());
  if (known == levels_.end()) levels_.push_back(taken);
  return level;
}

Time Interference::duration(const SimRank& rank, const PreparedKernel& kernel,
                            std::uint32_t level) {
  if (level == 0) return kernel.duration;
  const std::int32_t threads = levels_[level].threads;
  Taken by_communications = levels_[level];
  by_communications.threads = 0;
  Time whole = kernel.duration;
  if (!(by_communications == Taken{})) {
    std::vector<Time>& known = durations_[&kernel];
    if (known.size() <= level) known.resize(levels_.size());
    Time& found = known[level];
    if (found == Time{}) {
      const int kind = core_.machine.kind(static_cast<int>(rank.id()));
      found = std::max(whole, core_.machine.kernel_time_beside(kernel.kernel, kernel.cost, kind,
                                                               by_communications));
    }
    whole = found;
  }
  if (threads == 0) return whole;
  return Variability::scaled(whole, core_.shared_cores->slowness(rank.id(), threads));
}

Time Interference::end_of(const SimRank& rank, const PreparedKernel& kernel, Time start,
                          double factor) {
  const std::vector<Presence::Step>& steps = presence(rank.id())->steps();
  auto step = std::upper_bound(steps.begin(), steps.end(), start,
                               [](Time time, const Presence::Step& s) { return time < s.from; });
  Time at = start;  // since when the rate has been that of `whole`
  Time whole = Variability::scaled(duration(rank, kernel, std::prev(step)->level), factor);
  double left = 1;  // of the kernel, at `at`
  const auto end = [&] {
    if (left == 1) return at + whole;
    return at + Time(static_cast<std::uint64_t>(
                    std::llround(left * static_cast<double>(whole.picoseconds))));
  };
  for (; step != steps.end() && step->from < end(); ++step) {
    const Time next = Variability::scaled(duration(rank, kernel, step->level), factor);
    if (next == whole) continue;
    left -=
        static_cast<double>((step->from - at).picoseconds) / static_cast<double>(whole.picoseconds);
    at = step->from;
    whole = next;
  }
  return end();
}

}  // namespace orrery::sim
