#include "algorithms/gossip/matchmaker.hpp"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <vector>

namespace orrery {

namespace {

class Matchmaker {
 public:
  Matchmaker(Service& service, const MatchmakerOptions& options)
      : service_(service),
        options_(options),
        graph_(*options.graph),
        workers_(static_cast<std::size_t>(graph_.workers())),
        gradients_(options.gradients) {
    for (const auto& joiner : options.joiners) at(joiner.worker).there = false;
    for (int i = 0; i < graph_.workers(); ++i)
      for (const int neighbour : graph_.neighbours(i)) at(i).neighbours += there(neighbour) ? 1 : 0;
  }

  void run() {
    if (options_.deadline)
      for (Worker& worker : workers_)
        if (worker.there) worker.owes_by = service_.now() + *options_.deadline;
    while (true) {  // until all ranks have ended: who is lost may still ask
      const Seconds until = next_event();
      const Seconds wait = until < forever ? until - service_.now() : forever;
      const auto message = wait > Seconds(0) || until == forever
                               ? service_.control_receive(gossip::request, any_source, wait)
                               : std::nullopt;
      if (message)
        answer(message->from, message->values);
      else if (options_.deadline)
        lose_silent();
      else
        tick();
    }
  }

 private:
  // asked, agreed: to an averaging with `partner`.
  enum class State : std::uint8_t { busy, waits, asked, agreed };
  struct Worker {
    std::size_t neighbours = 0;  // that have come and not left
    State state = State::busy;
    bool there = true, left = false, dismissed = false;
    int partner = -1;
    int behind = 0;             // averagings told and not done
    Seconds asked{0};           // for its last gradient
    Seconds owes_by = forever;  // a word, else it is lost
  };

  Worker& at(int worker) { return workers_[static_cast<std::size_t>(worker)]; }
  bool there(int worker) { return at(worker).there; }
  void send(int to, Tag tag, std::initializer_list<std::int64_t> values) {
    service_.control_send(to, tag, std::span(values.begin(), values.size()));
  }

  Seconds next_event() const {
    Seconds next = next_tick_;
    if (options_.deadline)
      for (const Worker& worker : workers_) next = std::min(next, worker.owes_by);
    return next;
  }

  void answer(int from, const std::vector<std::int64_t>& values) {
    if (options_.deadline && !at(from).left && at(from).state == State::busy)
      at(from).owes_by = service_.now() + *options_.deadline;
    switch (values[0]) {
      case gossip::resume:
        gradients_ -= values[1];
        computed_ += values[1];
        if (!there(from)) has_joined(from);
        break;
      case gossip::gradient:
        if (options_.pairing == Pairing::poisson) observe(from);
        send(from, gossip::turn, {gradients_ > 0 ? 1 : 0});
        ++computed_;
        admit();
        if (gradients_ == 0) turn_away();
        if (gradients_ > 0) --gradients_;
        break;
      case gossip::ready:
        if (options_.pairing == Pairing::poisson)
          --at(from).behind;
        else if (!at(from).dismissed)
          look_for_partner(from);
        break;
      case gossip::here:
        if (at(from).state == State::asked) agree(from);
        break;
      default:
        leave(from);
    }
  }

  void look_for_partner(int worker) {
    if (at(worker).neighbours == 0) return dismiss(worker);
    const int neighbour = waiting_neighbour(worker);
    at(worker).state = State::waits;
    at(worker).owes_by = forever;
    if (neighbour < 0) return;
    if (!options_.deadline) return pair(worker, neighbour);
    for (const auto& [i, j] : {std::pair{worker, neighbour}, {neighbour, worker}}) {
      at(i).state = State::asked;
      at(i).partner = j;
      at(i).owes_by = service_.now() + *options_.deadline;
      send(i, gossip::partner, {j, gossip::ask});
    }
  }

  void agree(int worker) {
    at(worker).state = State::agreed;
    at(worker).owes_by = forever;
    const int other = at(worker).partner;
    if (at(other).left) return look_for_partner(worker);
    if (at(other).state == State::agreed && at(other).partner == worker) pair(worker, other);
  }

  // Those whose time it is to join look for a neighbour.
  void admit() {
    for (const auto& [worker, after] : options_.joiners) {
      if (there(worker) || at(worker).left || after > computed_ || at(worker).state != State::busy)
        continue;
      if (options_.pairing == Pairing::available)
        look_for_partner(worker);
      else
        at(worker).state = State::waits;  // for a tick
    }
  }

  void has_joined(int worker) {
    at(worker).there = true;
    for (const int neighbour : graph_.neighbours(worker)) ++at(neighbour).neighbours;
  }

  // There is nothing left to compute, or nobody left to join: who is asked already comes yet.
  void turn_away() {
    for (const auto& joiner : options_.joiners) {
      const State state = at(joiner.worker).state;
      if (!there(joiner.worker) && state != State::asked && state != State::agreed)
        dismiss(joiner.worker);
    }
  }

  // A random one of those that wait, and of two only one joins; -1: none does.
  int waiting_neighbour(int of) {
    int chosen = -1;
    std::uint64_t seen = 0;
    for (const int neighbour : graph_.neighbours(of))
      if (at(neighbour).state == State::waits && (there(of) || there(neighbour)) &&
          service_.rng(Purpose::gossip).below(++seen) == 0)
        chosen = neighbour;
    return chosen;
  }

  void pair(int i, int j) {
    const bool joins = !there(i) || !there(j);
    for (const auto& [one, other] : {std::pair{i, j}, {j, i}}) {
      at(one).state = State::busy;
      ++at(one).behind;
      if (options_.deadline) at(one).owes_by = service_.now() + *options_.deadline;
      send(one, gossip::partner,
           {other, !joins       ? gossip::go
                   : there(one) ? gossip::give
                                : gossip::take});
    }
    if (joins) has_joined(there(i) ? j : i);
  }

  void dismiss(int worker) {
    if (at(worker).dismissed) return;
    at(worker).dismissed = true;
    at(worker).state = State::busy;
    if (!there(worker) && !at(worker).left) {  // it never comes
      at(worker).left = true;
      ++left_;
    }
    if (options_.deadline && !at(worker).left)  // it says good-bye, or has died
      at(worker).owes_by = service_.now() + *options_.deadline;
    send(worker, gossip::partner, {gossip::nobody, gossip::go});
  }

  void leave(int worker) {
    if (at(worker).left) return;  // it was lost before
    const State before = at(worker).state;
    ++left_;
    at(worker).left = true;
    at(worker).owes_by = forever;
    dismiss(worker);
    at(worker).state = State::busy;
    for (const int neighbour : graph_.neighbours(worker))
      if (there(worker) && --at(neighbour).neighbours == 0 && !at(neighbour).left &&
          (at(neighbour).state == State::waits || options_.pairing == Pairing::poisson))
        dismiss(neighbour);
    // Its partner, where it agreed already, waits again; else when it answers.
    const int partner = at(worker).partner;
    if ((before == State::asked || before == State::agreed) && at(partner).state == State::agreed &&
        at(partner).partner == worker)
      look_for_partner(partner);
    if (std::ranges::all_of(workers_, [](const Worker& w) { return w.left || !w.there; }))
      turn_away();
  }

  void lose_silent() {
    const Seconds due = service_.now() + Seconds(2e-12);  // a clock's tick or two
    for (int i = 0; i < graph_.workers(); ++i)
      if (at(i).owes_by <= due) leave(i);
  }

  // Poisson clocks: the unit of time is what a gradient takes, a moving average over all workers.
  void observe(int worker) {
    const Seconds now = service_.now();
    if (at(worker).asked > Seconds(0)) {
      const Seconds period = now - at(worker).asked;
      unit_ = unit_ > Seconds(0) ? Seconds(0.9 * unit_.value + 0.1 * period.value) : period;
      if (next_tick_ == forever && !graph_.edges().empty()) wind(now);
    }
    at(worker).asked = now;
  }

  // An averaging takes two workers, so there are n rate / 2 of them in a unit of time.
  void wind(Seconds from) {
    const double ticks = 0.5 * static_cast<double>(graph_.workers()) * options_.rate / unit_.value;
    next_tick_ = from + Seconds(-std::log1p(-service_.rng(Purpose::gossip).uniform()) / ticks);
  }

  void tick() {
    const std::vector<std::pair<int, int>>& edges = graph_.edges();
    const auto& [i, j] = edges[service_.rng(Purpose::gossip).below(edges.size())];
    const auto free = [this](int worker) {
      const Worker& w = at(worker);
      return !w.dismissed && w.behind < most_behind && (w.there || w.state == State::waits);
    };
    if (free(i) && free(j) && (there(i) || there(j))) pair(i, j);
    if (left_ < workers_.size())
      wind(next_tick_);
    else
      next_tick_ = forever;
  }

  static constexpr int most_behind = 4;

  Service& service_;
  const MatchmakerOptions& options_;
  const Graph& graph_;
  std::vector<Worker> workers_;
  std::size_t left_ = 0;
  std::int64_t gradients_;     // not yet dealt out
  std::int64_t computed_ = 0;  // by all together
  Seconds unit_{0}, next_tick_ = forever;
};

}  // namespace

World::ServiceProgram matchmaker_program(const MatchmakerOptions& options) {
  return [options](Service& service) { Matchmaker(service, options).run(); };
}

}  // namespace orrery
