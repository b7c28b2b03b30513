#include "algorithms/island_members.hpp"

#include <algorithm>
#include <bit>
#include <span>
#include <string>
#include <utility>

namespace orrery {

namespace {

// {place of the giver, how many ranks meet from now on, they, numbers that workers hold alike}
constexpr Tag welcome = 11;

std::int64_t meeting_from(std::int64_t step, std::int64_t every) {
  return (step + every - 1) / every * every;
}

// What workers hold alike goes from the first of a group to all others; numbers, which are part of
// the program, by message.
class Giver : public Archive {
 public:
  std::vector<std::int64_t> numbers;
  void field(std::string_view, Tensor&) override {}
  void field(std::string_view, std::int64_t& value) override { numbers.push_back(value); }
  void field(std::string_view, double& value) override {
    numbers.push_back(std::bit_cast<std::int64_t>(value));
  }
};
class Taker : public Archive {
 public:
  explicit Taker(std::span<const std::int64_t> numbers) : numbers_(numbers) {}
  void field(std::string_view, Tensor&) override {}
  void field(std::string_view, std::int64_t& value) override { value = next(); }
  void field(std::string_view, double& value) override { value = std::bit_cast<double>(next()); }

 private:
  std::int64_t next() {
    const std::int64_t value = numbers_.front();
    numbers_ = numbers_.subspan(1);
    return value;
  }
  std::span<const std::int64_t> numbers_;
};
class Broadcaster : public Archive {
 public:
  Bytes sent;
  Broadcaster(Stream& stream, Channel& channel, int root)
      : stream_(stream), channel_(channel), root_(root) {}
  void field(std::string_view, Tensor& tensor) override {
    stream_.broadcast(tensor, root_, channel_);
    sent += wire_bytes(Collective::broadcast, tensor.bytes(), channel_.size());
  }
  void field(std::string_view, std::int64_t&) override {}
  void field(std::string_view, double&) override {}

 private:
  Stream& stream_;
  Channel& channel_;
  int root_;
};

}  // namespace

IslandMembers::IslandMembers(std::vector<Member> members, std::optional<Seconds> deadline,
                             std::int64_t meet_every, Channel& channel, Stream& communication,
                             Stream& compute)
    : rank_(compute.rank()),
      channel_(channel),
      communication_(communication),
      compute_(compute),
      everyone_(channel.ranks()),
      islands_(everyone_.size()),
      me_(channel.index()) {
  for (const Member& m : members) {
    Island& island = islands_[static_cast<std::size_t>(m.worker)];
    if (m.joins_after) island.joins = meeting_from(*m.joins_after, meet_every);
    if (m.leaves_after) island.leaves = meeting_from(island.joins + *m.leaves_after, meet_every);
    if (m.dies_after) island.dies = island.joins + *m.dies_after;
  }
  if (deadline) rank_.notice_losses(channel_, *deadline);
  std::vector<int> first;
  for (std::size_t i = 0; i < islands_.size(); ++i)
    if (islands_[i].joins == 0) first.push_back(everyone_[i]);
  if (islands_[static_cast<std::size_t>(me_)].joins == 0) rank_.regroup(channel_, first);
}

bool IslandMembers::arrive(Progress& progress, const Visit& visit) {
  if (progress.step() > 0)
    throw Error(Category::unavailable,
                "not available yet: to go on from a checkpoint with workers that come or go");
  begins_ = islands_[static_cast<std::size_t>(me_)].joins;
  if (begins_ == 0) return true;
  if (begins_ >= progress.steps()) return false;
  const auto message = rank_.control_receive(welcome);
  const std::span<const std::int64_t> values = message->values;
  const auto ranks = values.subspan(2, static_cast<std::size_t>(values[1]));
  rank_.regroup(channel_, {ranks.begin(), ranks.end()});
  Taker taker(values.subspan(2 + ranks.size()));
  visit(taker);
  share(static_cast<int>(values[0]), visit);
  progress.begin_at(begins_);
  return true;
}

bool IslandMembers::is_dead(std::int64_t t) const {
  const std::int64_t dies = islands_[static_cast<std::size_t>(me_)].dies;
  return dies > 0 && dies <= t;
}

Event IslandMembers::among_the_living(const std::function<Event()>& communicate) {
  while (true) {
    try {
      const Event end = communicate();
      rank_.wait(end);
      return end;
    } catch (const RankLost& lost) {
      std::vector<int> left = channel_.ranks();
      std::erase_if(left, [&](int rank) { return std::ranges::count(lost.ranks(), rank) > 0; });
      rank_.regroup(channel_, left);
    }
  }
}

std::vector<int> IslandMembers::that_join(std::int64_t t) const {
  std::vector<int> ranks;
  for (std::size_t i = 0; i < islands_.size(); ++i)
    if (islands_[i].joins == t) ranks.push_back(everyone_[i]);
  return ranks;
}

bool IslandMembers::change(std::int64_t t, std::int64_t last, const Visit& visit) {
  if (t >= last) return false;
  const auto leaves_now = [t](const Island& island) { return island.leaves == t; };
  if (leaves_now(islands_[static_cast<std::size_t>(me_)])) return true;
  std::vector<int> ranks = channel_.ranks();
  const std::size_t before = ranks.size();
  for (std::size_t i = 0; i < islands_.size(); ++i)
    if (leaves_now(islands_[i])) std::erase(ranks, everyone_[i]);
  const std::vector<int> joiners = that_join(t);
  if (joiners.empty() && ranks.size() == before) return false;
  const int giver = ranks.front();
  ranks.insert(ranks.end(), joiners.begin(), joiners.end());
  std::ranges::sort(ranks);
  rank_.regroup(channel_, ranks);
  if (joiners.empty()) return false;
  const std::int64_t root = std::ranges::find(ranks, giver) - ranks.begin();
  if (giver == everyone_[static_cast<std::size_t>(me_)]) {
    Giver gives;
    visit(gives);
    std::vector<std::int64_t> words{root, static_cast<std::int64_t>(ranks.size())};
    words.insert(words.end(), ranks.begin(), ranks.end());
    words.insert(words.end(), gives.numbers.begin(), gives.numbers.end());
    for (const int joiner : joiners) rank_.control_send(joiner, welcome, words);
  }
  share(static_cast<int>(root), visit);
  return false;
}

void IslandMembers::share(int root, const Visit& visit) {
  communication_.after(compute_.record());
  Broadcaster broadcaster(communication_, channel_, root);
  visit(broadcaster);
  sent_ += broadcaster.sent;
  compute_.after(communication_.record());
}

void check_island_members(const std::vector<Member>& members, int islands) {
  const auto refused = [](const std::string& why) { return Error(Category::config, why); };
  std::vector<bool> changes(static_cast<std::size_t>(islands));
  for (const Member& m : members) {
    if (m.worker >= islands)
      throw refused("members: there is no worker " + std::to_string(m.worker) + " of " +
                    std::to_string(islands));
    const auto at = static_cast<std::size_t>(m.worker);
    if (changes[at])
      throw refused("members: worker " + std::to_string(m.worker) + " is named twice");
    changes[at] = true;
  }
  if (!members.empty() && std::ranges::count(changes, false) == 0)
    throw refused("members: a worker has to be there from the start to the end");
}

}  // namespace orrery
