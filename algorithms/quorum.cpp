#include "algorithms/quorum.hpp"

#include <algorithm>

namespace orrery {

namespace {

class Quorum {
 public:
  Quorum(Service& service, const QuorumOptions& options)
      : service_(service),
        options_(options),
        islands_(static_cast<std::size_t>(options.islands)),
        last_(options.steps / options.every * options.every) {
    for (const Member& m : options.members)
      if (m.joins_after) {
        islands_[static_cast<std::size_t>(m.worker)].state = State::to_join;
        islands_[static_cast<std::size_t>(m.worker)].joins =
            meeting_from(*m.joins_after, options.every);
      }
  }

  void run() {
    while (true) {  // until all ranks have ended
      const Seconds until = next_event();
      const Seconds wait = until < forever ? std::max(Seconds(0), until - service_.now()) : forever;
      if (const auto message = service_.control_receive(quorum::request, any_source, wait))
        hear(message->from, message->values);
      else
        time_has_passed();
      meet_if_time();
    }
  }

 private:
  enum class State : std::uint8_t { there, to_join, gone };
  struct Island {
    State state = State::there;
    std::int64_t joins = 0;  // the meeting behind which it does
    std::int64_t width = 0;  // ranks
    std::int64_t step = 0;   // at which it has come
    std::vector<int> ranks;  // that have come
    Seconds lost_at = forever;
    bool has_come() const { return !ranks.empty() && std::ssize(ranks) == width; }
  };

  Seconds next_event() const {
    Seconds next = grace_ends_;
    for (const Island& island : islands_) next = std::min(next, island.lost_at);
    return next;
  }

  void hear(int from, const std::vector<std::int64_t>& values) {
    Island& island = islands_[static_cast<std::size_t>(values[1])];
    if (values[0] == quorum::end) {
      if (island.state == State::gone || island.lost_at < forever) return;
      if (values[2] != 0 && options_.deadline)
        island.lost_at = service_.now() + *options_.deadline;
      else
        island.state = State::gone;
      return;
    }
    island.width = values[2];
    island.step = values[3];
    island.ranks.push_back(from);
    if (!grace_runs() && in_time() >= options_.quorum)
      grace_ends_ = service_.now() + options_.grace;
  }

  // Of those that are there, whoever is not late.
  std::int64_t in_time() const {
    return std::ranges::count_if(islands_, [this](const Island& i) {
      return i.state == State::there && i.has_come() && i.step > met_;
    });
  }

  bool grace_runs() const { return grace_ends_ < forever; }

  void time_has_passed() {
    const Seconds due = service_.now() + Seconds(2e-12);  // a clock's tick or two
    for (Island& island : islands_) {
      if (island.lost_at > due) continue;
      island.state = State::gone;
      island.lost_at = forever;
    }
    grace_over_ = grace_ends_ <= due;
  }

  void meet_if_time() {
    const auto there = [](const Island& i) { return i.state == State::there; };
    if (met_ == last_ || std::ranges::none_of(islands_, there)) return turn_away();
    const bool all =
        std::ranges::all_of(islands_, [&](const Island& i) { return !there(i) || i.has_come(); });
    if (all || grace_over_) hold();
  }

  // Those meet that are furthest: where everybody else has gone, these may all have been late.
  void hold() {
    const auto has_come = [](const Island& i) { return i.state == State::there && i.has_come(); };
    met_ = 0;
    for (const Island& island : islands_)
      if (has_come(island)) met_ = std::max(met_, island.step);
    grace_ends_ = forever;
    grace_over_ = false;
    std::vector<std::int64_t> meeting, taking;
    for (std::size_t i = 0; i < islands_.size(); ++i) {
      Island& island = islands_[i];
      const auto number = static_cast<std::int64_t>(i);
      if (has_come(island) && island.step == met_)
        meeting.push_back(number);
      else if (met_ < options_.steps &&
               (has_come(island) ||
                (island.state == State::to_join && island.has_come() && island.joins <= met_)))
        taking.push_back(number);
    }
    std::vector<std::int64_t> words{quorum::meet, met_, std::ssize(meeting)};
    words.insert(words.end(), meeting.begin(), meeting.end());
    words.insert(words.end(), taking.begin(), taking.end());
    tell(meeting, words);
    words[0] = quorum::late;
    tell(taking, words);
    for (const std::int64_t i : taking) islands_[static_cast<std::size_t>(i)].state = State::there;
    if (met_ == last_) turn_away();
  }

  void tell(const std::vector<std::int64_t>& islands, const std::vector<std::int64_t>& words) {
    for (const std::int64_t i : islands) {
      std::vector<int>& ranks = islands_[static_cast<std::size_t>(i)].ranks;
      for (const int rank : ranks) service_.control_send(rank, quorum::word, words);
      ranks.clear();
    }
  }

  // Whoever waits for another meeting waits in vain.
  void turn_away() {
    for (std::size_t i = 0; i < islands_.size(); ++i)
      tell({static_cast<std::int64_t>(i)}, {quorum::over});
  }

  Service& service_;
  const QuorumOptions& options_;
  std::vector<Island> islands_;
  std::int64_t met_ = 0;  // the step of the last meeting
  std::int64_t last_;     // and of the last that there can be
  Seconds grace_ends_ = forever;
  bool grace_over_ = false;
};

}  // namespace

World::ServiceProgram quorum_program(const QuorumOptions& options) {
  return [options](Service& service) { Quorum(service, options).run(); };
}

}  // namespace orrery
