#include "sim/neighbourhoods.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "sim/collectives.hpp"
#include "sim/core.hpp"
#include "sim/sim_rank.hpp"

namespace orrery::sim {

namespace {

// Sets of ranks that grow together.
class Sets {
 public:
  explicit Sets(std::size_t ranks) : parent_(ranks), size_(ranks, 1) {
    std::iota(parent_.begin(), parent_.end(), 0U);
  }
  std::uint32_t of(int rank) {
    auto at = static_cast<std::uint32_t>(rank);
    while (parent_[at] != at) at = parent_[at] = parent_[parent_[at]];
    return at;
  }
  std::uint32_t size(std::uint32_t set) const { return size_[set]; }
  // The sets of `ranks` become one if that has at most `most`.
  void unite(const std::vector<int>& ranks, std::uint32_t most) {
    std::vector<std::uint32_t> sets;
    for (const int rank : ranks) sets.push_back(of(rank));
    std::sort(sets.begin(), sets.end());
    sets.erase(std::unique(sets.begin(), sets.end()), sets.end());
    std::uint32_t all = 0;
    for (const std::uint32_t set : sets) all += size_[set];
    if (all > most) return;
    for (const std::uint32_t set : sets) parent_[set] = sets.front();
    size_[sets.front()] = all;
  }

 private:
  std::vector<std::uint32_t> parent_, size_;
};

bool only_communications_reach_others(const Core& core, const SharedProgram& program) {
  if (core.trace != nullptr || core.interference != nullptr || simulates_flows(core.options))
    return false;
  for (const Recording& recording : program.recordings)
    for (const RecordedCommunication& recorded : recording.communications)
      if (recorded.communication.kind == Collective::exchange ||
          recorded.communication.patience != time_never)
        return false;
  return true;
}

struct Meets {
  Communicator* communicator = nullptr;
  Time shortest = time_never;  // of its communications
  std::uint32_t asked = 0;     // the rank whose recording told
};

// What the ranks meet on, the shortest first.
std::vector<Meets> meetings(Core& core, const SharedProgram& program) {
  std::vector<Meets> by_number;
  for (const auto& rank : core.ranks) {
    const std::uint32_t id = rank->id();
    const Recording& recording = program.recordings[program.classes.class_of[id]];
    for (const RecordedCommunication& recorded : recording.communications) {
      const std::pair place{recorded.channel, recorded.communication.kind};
      const auto found = std::find(recording.places.begin(), recording.places.end(), place);
      Communicator& communicator =
          *rank->channel_place(static_cast<std::uint32_t>(found - recording.places.begin()))
               .meeting->rendezvous.communicator;
      if (communicator.members().size() < 2) continue;
      if (communicator.id() >= by_number.size()) by_number.resize(communicator.id() + 1U);
      Meets& meets = by_number[communicator.id()];
      if (meets.communicator == nullptr) meets = {&communicator, time_never, id};
      if (meets.asked != id) continue;  // the others issue the same
      meets.shortest =
          std::min(meets.shortest, core.collectives->alone(communicator, recorded.communication));
    }
  }
  std::erase_if(by_number, [](const Meets& m) { return m.communicator == nullptr; });
  std::stable_sort(by_number.begin(), by_number.end(),
                   [](const Meets& a, const Meets& b) { return a.shortest < b.shortest; });
  return by_number;
}

// Sets in the order of their first ranks, small ones together.
std::vector<std::uint16_t> numbered(Sets& sets, std::uint32_t ranks, std::uint32_t most) {
  constexpr std::uint32_t none = ~std::uint32_t{0};
  std::vector<std::uint32_t> number_of(ranks, none);  // by set
  std::vector<std::uint16_t> numbers;
  std::uint32_t number = 0, here = 0;
  for (std::uint32_t rank = 0; rank < ranks; ++rank) {
    const std::uint32_t set = sets.of(static_cast<int>(rank));
    if (number_of[set] == none) {
      if (here > 0 && here + sets.size(set) > most) {
        ++number;
        here = 0;
      }
      number_of[set] = number;
      here += sets.size(set);
    }
    numbers.push_back(static_cast<std::uint16_t>(number_of[set]));
  }
  return numbers;
}

}  // namespace

std::optional<Neighbourhoods> find_neighbourhoods(Core& core, const SharedProgram& program) {
  const auto ranks = static_cast<std::uint32_t>(core.ranks.size());
  const std::uint32_t most = std::max(core.options.neighbourhood, ranks >> 15);  // 16-bit numbers
  if (core.options.neighbourhood == 0 || ranks <= most || ranks < core.rank_count() ||
      !only_communications_reach_others(core, program))
    return std::nullopt;
  const std::vector<Meets> all = meetings(core, program);
  Sets sets(ranks);
  for (const Meets& meets : all) sets.unite(meets.communicator->members(), most);
  Neighbourhoods found;
  found.number_of = numbered(sets, ranks, most);
  for (const Meets& meets : all) {
    const auto number = [&](int rank) { return found.number_of[static_cast<std::size_t>(rank)]; };
    const std::vector<int>& members = meets.communicator->members();
    if (std::ranges::all_of(members, [&](int r) { return number(r) == number(members[0]); }))
      continue;
    if (meets.shortest == Time{}) return std::nullopt;
    found.crossing.push_back(meets.communicator);
  }
  return found;
}

}  // namespace orrery::sim
