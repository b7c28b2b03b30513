#include "algorithms/island_members.hpp"

#include <algorithm>
#include <bit>
#include <span>
#include <string>
#include <utility>

#include "algorithms/quorum.hpp"

namespace orrery {

namespace {

// {step, place of the giver, how many ranks have what it gives, they, numbers that workers hold
// alike}
constexpr Tag welcome = 11;

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

IslandMembers::IslandMembers(const MembershipOptions& options, std::int64_t meet_every,
                             std::int64_t meeting_takes, Channel& channel, Stream& communication,
                             Stream& compute)
    : rank_(compute.rank()),
      channel_(channel),
      communication_(communication),
      compute_(compute),
      every_(meet_every),
      takes_(meeting_takes),
      everyone_(channel.ranks()),
      islands_(everyone_.size()),
      me_(channel.index()) {
  const auto met_from = [this](std::int64_t step) {
    return meeting_from(step - takes_, every_) + takes_;
  };
  for (const Member& m : options.members) {
    Island& island = islands_[static_cast<std::size_t>(m.worker)];
    if (m.joins_after) island.joins = met_from(*m.joins_after);
    if (m.leaves_after) island.leaves = met_from(island.joins + *m.leaves_after);
    if (m.worker != me_) continue;
    leaves_after_ = m.leaves_after.value_or(0);
    dies_after_ = m.dies_after.value_or(0);
  }
  if (options.quorum)
    service_ = rank_.service(quorum::service);
  else
    some_die_ = options.deadline.has_value();
  if (some_die_) rank_.notice_losses(channel_, *options.deadline);
  std::vector<int> first;
  for (std::size_t i = 0; i < islands_.size(); ++i)
    if (islands_[i].joins == 0) first.push_back(everyone_[i]);
  if (islands_[static_cast<std::size_t>(me_)].joins == 0) rank_.regroup(channel_, first);
}

IslandMembers::Entry IslandMembers::enter(Progress& progress, const Visit& visit) {
  if (!std::exchange(begun_, true) && !begin(progress, visit)) return Entry::stays_away;
  if (!std::exchange(late_, false)) return Entry::goes_on;
  take(progress, visit);
  return Entry::takes;
}

// Whether it takes steps at all, in this run.
bool IslandMembers::begin(const Progress& progress, const Visit& visit) {
  const std::int64_t step = progress.step();
  if (step > 0) {  // of a training that goes on
    if (service_)
      throw Error(Category::unavailable,
                  "not available yet: to go on from a checkpoint with a quorum");
    if (dead_ || left_) return false;
    return changed_ == step || !meeting_ends(step) || !change(step, progress.steps(), visit);
  }
  const std::int64_t joins = islands_[static_cast<std::size_t>(me_)].joins;
  if (joins >= progress.steps()) return false;
  late_ = joins > 0;
  return !late_ || !service_ || come(0) != Part::ends;
}

void IslandMembers::visit(Archive& archive) {
  const Archive::Scope scope(archive, "members");
  const std::vector<int> ranks = channel_.ranks();
  std::vector<int> there;
  for (std::size_t i = 0; i < everyone_.size(); ++i) {
    std::int64_t is_there = std::ranges::count(ranks, everyone_[i]);
    archive.field("there." + std::to_string(i), is_there);
    if (is_there != 0) there.push_back(everyone_[i]);
  }
  if (there != ranks) rank_.regroup(channel_, there);
  archive.field("taken", taken_);
  archive.field("changed", changed_);
  for (const auto& [name, flag] : {std::pair{"dead", &dead_}, {"left", &left_}}) {
    std::int64_t value = *flag ? 1 : 0;
    archive.field(name, value);
    *flag = value != 0;
  }
}

void IslandMembers::take(Progress& progress, const Visit& visit) {
  const auto message = rank_.control_receive(welcome);
  const std::span<const std::int64_t> values = message->values;
  const auto ranks = values.subspan(3, static_cast<std::size_t>(values[2]));
  rank_.regroup(channel_, {ranks.begin(), ranks.end()});
  Taker taker(values.subspan(3 + ranks.size()));
  visit(taker);
  share(static_cast<int>(values[1]), visit);
  progress.begin_at(values[0]);
}

bool IslandMembers::dies() {
  ++taken_;
  dead_ = dies_after_ > 0 && taken_ == dies_after_;
  return dead_;
}

IslandMembers::Part IslandMembers::come(std::int64_t t) {
  if (!service_) return Part::meets;
  rank_.wait(compute_.record());  // its inner steps are done
  const std::int64_t width = rank_.size(all_axes) / std::ssize(everyone_);
  rank_.control_send(*service_, quorum::request, {quorum::come, me_, width, t});
  const auto message = rank_.control_receive(quorum::word, *service_);
  const std::span<const std::int64_t> values = message->values;
  if (values[0] == quorum::over) return Part::ends;
  late_ = values[0] == quorum::late;
  if (late_) return Part::is_late;
  const auto meeting = static_cast<std::size_t>(values[2]);
  rank_.regroup(channel_, ranks_of(values.subspan(3, meeting)));
  takers_ = ranks_of(values.subspan(3 + meeting));
  return Part::meets;
}

std::vector<int> IslandMembers::ranks_of(std::span<const std::int64_t> islands) const {
  std::vector<int> ranks;
  for (const std::int64_t i : islands) ranks.push_back(everyone_[static_cast<std::size_t>(i)]);
  return ranks;
}

void IslandMembers::finish() {
  if (!service_) return;
  rank_.wait(compute_.record());  // it goes, or dies, when its last step is done
  rank_.control_send(*service_, quorum::request, {quorum::end, me_, dead_ ? 1 : 0});
}

std::vector<int> IslandMembers::that_meet() const {
  std::vector<int> islands;
  for (const int rank : channel_.ranks())
    islands.push_back(static_cast<int>(std::ranges::find(everyone_, rank) - everyone_.begin()));
  return islands;
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
  changed_ = t;
  left_ = leaves_after_ > 0 && taken_ >= leaves_after_;
  if (service_) {  // the next meeting is made anew, so who leaves may give before
    give(t, channel_.ranks(), channel_.ranks().front(), takers_, visit);
    return left_;
  }
  if (left_) return true;
  std::vector<int> ranks = channel_.ranks();
  for (std::size_t i = 0; i < islands_.size(); ++i)
    if (islands_[i].leaves == t) std::erase(ranks, everyone_[i]);
  if (ranks.size() < channel_.ranks().size()) rank_.regroup(channel_, ranks);
  give(t, ranks, ranks.front(), that_join(t), visit);
  return false;
}

// To those that take, what all of `ranks` hold alike; from then on they are one group.
void IslandMembers::give(std::int64_t t, std::vector<int> ranks, int giver,
                         const std::vector<int>& takers, const Visit& visit) {
  if (takers.empty()) return;
  ranks.insert(ranks.end(), takers.begin(), takers.end());
  std::ranges::sort(ranks);
  rank_.regroup(channel_, ranks);
  const std::int64_t root = std::ranges::find(ranks, giver) - ranks.begin();
  if (giver == everyone_[static_cast<std::size_t>(me_)]) {
    Giver gives;
    visit(gives);
    std::vector<std::int64_t> words{t, root, std::ssize(ranks)};
    words.insert(words.end(), ranks.begin(), ranks.end());
    words.insert(words.end(), gives.numbers.begin(), gives.numbers.end());
    for (const int taker : takers) rank_.control_send(taker, welcome, words);
  }
  share(static_cast<int>(root), visit);
}

void IslandMembers::share(int root, const Visit& visit) {
  communication_.after(compute_.record());
  Broadcaster broadcaster(communication_, channel_, root);
  visit(broadcaster);
  sent_ += broadcaster.sent;
  compute_.after(communication_.record());
}

void check_membership(const MembershipOptions& options, int islands) {
  const auto refused = [](const std::string& why) { return Error(Category::config, why); };
  std::vector<bool> changes(static_cast<std::size_t>(islands));
  for (const Member& m : options.members) {
    if (m.worker >= islands)
      throw refused("members: there is no worker " + std::to_string(m.worker) + " of " +
                    std::to_string(islands));
    const auto at = static_cast<std::size_t>(m.worker);
    if (changes[at])
      throw refused("members: worker " + std::to_string(m.worker) + " is named twice");
    changes[at] = true;
  }
  if (!options.members.empty() && std::ranges::count(changes, false) == 0)
    throw refused("members: a worker has to be there from the start to the end");
  if (options.quorum && *options.quorum >= islands)
    throw refused("quorum: " + std::to_string(*options.quorum) + " of " + std::to_string(islands) +
                  " workers leave nobody for whom a meeting would not wait; use fewer, or leave "
                  "quorum out, and all are waited for");
}

}  // namespace orrery
