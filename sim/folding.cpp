#include "sim/folding.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "sim/collectives.hpp"
#include "sim/core.hpp"

namespace orrery::sim {

namespace {

using Signature = std::vector<std::uint64_t>;

// Numbers equal signatures alike, in order of appearance.
class Numbers {
 public:
  std::uint32_t of(const Signature& signature) {
    return numbers_.try_emplace(signature, static_cast<std::uint32_t>(numbers_.size()))
        .first->second;
  }

 private:
  std::map<Signature, std::uint32_t> numbers_;
};

// One channel of the program, on every rank that has it.
struct FoldedChannel {
  RecordedChannel channel;
  std::vector<std::uint32_t> group;   // by rank: number of its group; of an edge, the rank itself
  std::vector<std::uint32_t> before;  // by rank: whose edge leads to it
  std::vector<std::uint32_t> after;   // by rank: where its edge leads
  std::vector<std::uint32_t> price;   // by group
};

class Refinement {
 public:
  Refinement(const SharedProgram& program, Core& core)
      : program_(program),
        core_(core),
        grid_(core.state.options.grid),
        ranks_(program.classes.class_of.size()),
        prices_(*core.collectives) {
    places_of_class_.resize(program.recordings.size());
    for (std::size_t c = 0; c < program.recordings.size(); ++c)
      for (const RecordedChannel& channel : program.recordings[c].channels)
        places_of_class_[c].push_back(place_of(channel));
    for (FoldedChannel& place : places_) find_prices(place);
  }

  Partition run() {
    std::vector<std::uint32_t> classes = program_.classes.class_of;
    std::size_t before = 0, count = program_.classes.classes();
    while (count > before) {
      before = count;
      count = refine(classes);
    }
    Partition result;
    result.class_of = std::move(classes);
    result.sizes.resize(count);
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      const std::uint32_t its = result.class_of[rank];
      if (its == result.classes()) result.representatives.push_back(static_cast<int>(rank));
      ++result.sizes[its];
    }
    return result;
  }

 private:
  std::size_t place_of(const RecordedChannel& channel) {
    for (std::size_t i = 0; i < places_.size(); ++i)
      if (places_[i].channel == channel) return i;
    FoldedChannel& place = places_.emplace_back();
    place.channel = channel;
    place.group.resize(ranks_);
    if (!channel.edge) {
      std::vector<std::uint32_t> numbers(ranks_, ~std::uint32_t{0});
      std::uint32_t groups = 0;
      for (std::size_t r = 0; r < ranks_; ++r) {
        const auto leader =
            static_cast<std::size_t>(grid_.group_leader(static_cast<int>(r), channel.axes));
        if (leader == r) numbers[r] = groups++;
        place.group[r] = numbers[leader];
      }
      place.price.resize(groups);
      return places_.size() - 1;
    }
    const Axis axis = channel.axes.first();
    const int size = grid_.size(axis);
    place.before.resize(ranks_);
    place.after.resize(ranks_);
    for (std::size_t r = 0; r < ranks_; ++r) {
      const int rank = static_cast<int>(r);
      const int to = (grid_.coordinate(rank, axis) + channel.offset) % size;
      const int after = grid_.rank_with(rank, axis, (to + size) % size);
      place.group[r] = static_cast<std::uint32_t>(r);
      place.after[r] = static_cast<std::uint32_t>(after);
      place.before[static_cast<std::size_t>(after)] = static_cast<std::uint32_t>(r);
    }
    place.price.resize(ranks_);
    return places_.size() - 1;
  }

  // What the communications of each group cost, by the classes that issue them. Receives are priced
  // with their sends.
  void find_prices(FoldedChannel& place) {
    // By class, which of its channels it is.
    std::vector<std::optional<std::uint32_t>> numbers;
    for (const Recording& recording : program_.recordings) {
      const auto begin = recording.channels.begin(), end = recording.channels.end();
      const auto channel = std::find(begin, end, place.channel);
      numbers.push_back(channel == end
                            ? std::nullopt
                            : std::optional(static_cast<std::uint32_t>(channel - begin)));
    }
    const Axis axis = place.channel.axes.first();
    const std::string group = place.channel.edge ? std::string(name(axis)) +
                                                       (place.channel.offset < 0 ? "" : "+") +
                                                       std::to_string(place.channel.offset)
                                                 : place.channel.axes.to_string();
    if (place.channel.edge) {
      for (std::size_t rank = 0; rank < ranks_; ++rank) {
        const std::uint32_t its = program_.classes.class_of[rank];
        Signature prices;
        if (numbers[its])
          add_prices(place, group, its, *numbers[its], static_cast<int>(rank), prices);
        place.price[rank] = price_numbers_.of(prices);
      }
      return;
    }
    std::vector<Signature> classes(place.price.size()), prices(place.price.size());
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      const std::uint32_t its = program_.classes.class_of[rank];
      Signature& known = classes[place.group[rank]];
      if (!numbers[its] || std::find(known.begin(), known.end(), its) != known.end()) continue;
      known.push_back(its);
      add_prices(place, group, its, *numbers[its], static_cast<int>(rank),
                 prices[place.group[rank]]);
    }
    for (std::size_t i = 0; i < prices.size(); ++i) place.price[i] = price_numbers_.of(prices[i]);
  }

  // Those of the communications that `rank` of a class issues on the `number`-th of its channels.
  void add_prices(const FoldedChannel& place, const std::string& group, std::uint32_t its,
                  std::uint32_t number, int rank, Signature& prices) {
    const RecordedChannel& channel = place.channel;
    std::vector<int> members;
    if (channel.edge)
      members = {rank, static_cast<int>(place.after[static_cast<std::size_t>(rank)])};
    else
      members = grid_.members(rank, channel.axes);
    Communicator communicator(0, group, channel.lane, std::move(members), channel.edge);
    for (const RecordedCommunication& recorded : program_.recordings[its].communications) {
      if (recorded.channel != number || recorded.communication.kind == Collective::receive)
        continue;
      Communication communication = recorded.communication;
      communication.member = channel.edge ? 0 : grid_.index_in_group(rank, channel.axes);
      prices.push_back(prices_.alone(communicator, communication).picoseconds);
      if (!core_.machine.interferes()) continue;
      const Taken taken = prices_.taken(communicator, communication);
      prices.push_back(static_cast<std::uint64_t>(taken.multiprocessors));
      prices.push_back(static_cast<std::uint64_t>(taken.memory));
    }
    prices_.forget(communicator);
  }

  // Tells ranks of a class apart that have other prices, or communicate with other classes.
  std::size_t refine(std::vector<std::uint32_t>& classes) {
    std::vector<std::vector<std::uint32_t>> with(places_.size());  // by place, by group
    Numbers companies;
    for (std::size_t p = 0; p < places_.size(); ++p) {
      if (places_[p].channel.edge) continue;
      std::vector<Signature> members(places_[p].price.size());
      for (std::size_t rank = 0; rank < ranks_; ++rank)
        if (Signature& its = members[places_[p].group[rank]];
            its.empty() || its.back() != classes[rank])
          its.push_back(classes[rank]);
      for (Signature& its : members) {
        std::sort(its.begin(), its.end());
        its.erase(std::unique(its.begin(), its.end()), its.end());
        with[p].push_back(companies.of(its));
      }
    }
    Numbers numbers;
    std::vector<std::uint32_t> finer(ranks_);
    Signature signature;
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      signature.assign(1, classes[rank]);
      for (const std::size_t p : places_of_class_[program_.classes.class_of[rank]]) {
        const FoldedChannel& place = places_[p];
        signature.push_back(place.price[place.group[rank]]);
        if (!place.channel.edge) {
          signature.push_back(with[p][place.group[rank]]);
          continue;
        }
        const std::uint32_t before = place.before[rank];
        signature.insert(signature.end(),
                         {place.price[before], classes[before], classes[place.after[rank]]});
      }
      finer[rank] = numbers.of(signature);
    }
    classes = std::move(finer);
    return *std::max_element(classes.begin(), classes.end()) + std::size_t{1};
  }

  const SharedProgram& program_;
  Core& core_;
  const Grid& grid_;
  std::size_t ranks_;
  Collectives& prices_;
  Numbers price_numbers_;
  std::vector<FoldedChannel> places_;
  std::vector<std::vector<std::size_t>> places_of_class_;
};

bool contended(const SimOptions& options) {
  const auto shares_links = [](Fidelity fidelity) {
    return fidelity == Fidelity::flow || fidelity == Fidelity::messages;
  };
  return shares_links(options.fidelity) ||
         std::any_of(options.groups.begin(), options.groups.end(),
                     [&](const GroupFidelity& group) { return shares_links(group.fidelity); });
}

}  // namespace

std::optional<Partition> fold(const SharedProgram& program, Core& core, Refusal& refusal) {
  const std::size_t ranks = program.classes.class_of.size();
  if (!core.options.variability.none()) {
    refusal = {"its GPUs differ or jitter (cluster_conditions)", {}};
    return std::nullopt;
  }
  if (contended(core.options)) {
    refusal = {
        "each of its transfers shares links with those of all ranks (fidelity flow or messages); "
        "where none does, analytic fidelity gives the same times and folds",
        {}};
    return std::nullopt;
  }
  if (core.options.link_bytes != nullptr) {
    refusal = {"the load of every link is counted (run.explain_bottleneck)", {}};
    return std::nullopt;
  }
  if (core.shared_cores != nullptr) {
    refusal = {"its devices share the cores of a processor (a node's cores)", {}};
    return std::nullopt;
  }
  Partition folded = Refinement(program, core).run();
  if (folded.classes() < ranks || ranks == 1) return folded;
  if (program.classes.classes() < ranks || refusal.why.empty())
    refusal = {"the platform treats no two ranks alike", {}};
  return std::nullopt;
}

}  // namespace orrery::sim
