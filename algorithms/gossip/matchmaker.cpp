#include "algorithms/gossip/matchmaker.hpp"

#include <cmath>
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
    for (int i = 0; i < graph_.workers(); ++i) at(i).neighbours = graph_.neighbours(i).size();
  }

  void run() {
    while (left_ < workers_.size()) {
      const Seconds wait = next_tick_ < forever ? next_tick_ - service_.now() : forever;
      const auto message = wait > Seconds(0) || next_tick_ == forever
                               ? service_.control_receive(gossip::request, any_source, wait)
                               : std::nullopt;
      if (!message)
        tick();
      else
        answer(message->from, message->values);
    }
  }

 private:
  struct Worker {
    std::size_t neighbours = 0;  // that have not left
    bool waits = false, left = false, dismissed = false;
    Seconds asked{0};  // for its last gradient
  };

  Worker& at(int worker) { return workers_[static_cast<std::size_t>(worker)]; }
  void send(int to, Tag tag, std::int64_t value) {
    service_.control_send(to, tag, std::span<const std::int64_t>(&value, 1));
  }

  void answer(int from, const std::vector<std::int64_t>& values) {
    const std::int64_t request = values[0];
    if (request == gossip::resume) {
      gradients_ -= values[1];
      return;
    }
    if (request == gossip::gradient) {
      if (options_.pairing == Pairing::poisson) observe(from);
      const bool more = gradients_ > 0;
      if (more) --gradients_;
      return send(from, gossip::turn, more ? 1 : 0);
    }
    if (request == gossip::leave) return leave(from);
    if (at(from).dismissed) return;
    if (at(from).neighbours == 0) return dismiss(from);
    if (options_.pairing == Pairing::poisson) return;
    const int neighbour = waiting_neighbour(from);
    at(from).waits = neighbour < 0;
    if (neighbour >= 0) pair(from, neighbour);
  }

  // A random one of those that wait; -1: none does.
  int waiting_neighbour(int of) {
    int chosen = -1;
    std::uint64_t seen = 0;
    for (const int neighbour : graph_.neighbours(of))
      if (at(neighbour).waits && service_.rng(Purpose::gossip).below(++seen) == 0)
        chosen = neighbour;
    return chosen;
  }

  void pair(int i, int j) {
    if (options_.paired) options_.paired(service_.now(), i, j);
    at(i).waits = at(j).waits = false;
    send(i, gossip::partner, j);
    send(j, gossip::partner, i);
  }

  void dismiss(int worker) {
    if (at(worker).dismissed) return;
    at(worker).dismissed = true;
    at(worker).waits = false;
    send(worker, gossip::partner, gossip::nobody);
  }

  void leave(int worker) {
    ++left_;
    at(worker).left = true;
    dismiss(worker);
    for (const int neighbour : graph_.neighbours(worker))
      if (--at(neighbour).neighbours == 0 && !at(neighbour).left &&
          (at(neighbour).waits || options_.pairing == Pairing::poisson))
        dismiss(neighbour);
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
    if (!at(i).dismissed && !at(j).dismissed) pair(i, j);
    wind(next_tick_);
  }

  Service& service_;
  const MatchmakerOptions& options_;
  const Graph& graph_;
  std::vector<Worker> workers_;
  std::size_t left_ = 0;
  std::int64_t gradients_;  // not yet dealt out
  Seconds unit_{0}, next_tick_ = forever;
};

}  // namespace

World::ServiceProgram matchmaker_program(const MatchmakerOptions& options) {
  return [options](Service& service) { Matchmaker(service, options).run(); };
}

}  // namespace orrery
