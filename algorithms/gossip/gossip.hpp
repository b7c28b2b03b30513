// Workers that each compute gradients and, beside that, average with one neighbour at a time: what
// AD-PSGD, A2CiD2 and DADAO have in common.
//
// A worker has two flows. One computes gradients at a copy of its parameters x and steps x as each
// is done; the other asks the matchmaker for a partner, exchanges x with it and moves both towards
// each other. What either does to x, they do in turns, in the order in which the host comes to it:
// these orders, who was paired with whom, and the times at which it happened are in the decision
// log, so that a run can be repeated bit for bit in any world.
//
// Cost, for P parameters:
//   communication  4 P bytes sent and received per averaging and worker, and by two where one
//                  joins; one all-reduce of 4 P bytes at the end, after which all workers have the
//                  mean
//   memory         beside parameters, gradients and optimizer: 4 P each for what is sent and for
//                  what is received, and P parameters of a copy that gradients are computed at
//                  (none where they read what an averaging may be writing)
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "algorithms/algorithm.hpp"
#include "algorithms/gossip/matchmaker.hpp"
#include "algorithms/gossip/pace.hpp"
#include "algorithms/members.hpp"
#include "algorithms/optimizers/optimizer_spec.hpp"
#include "algorithms/replica.hpp"
#include "backend/core/config.hpp"

namespace orrery {

// The keys that they share; describe_gossip registers them.
struct GossipOptions {
  std::string graph = "ring";  // as Graph takes it
  double rate = 1;             // averagings per gradient of a worker
  Pairing pairing = Pairing::available;
  bool exact_rate = false;  // not by Poisson numbers
  bool racy_reads = false;  // gradients read x itself
  bool final_average = true;
  std::vector<Member> members;      // those that come or go on the way
  std::optional<Seconds> deadline;  // after which a silent worker is lost; absent: nobody dies
  std::optional<double> clip_norm;
  OptimizerSpec optimizer;
};

template <class Options>
void describe_graph(Fields<Options>& f) {
  const auto own = []<class M>(M GossipOptions::*member) {
    return static_cast<M Options::*>(member);
  };
  f.field("graph", own(&GossipOptions::graph))
      .doc("who averages with whom: ring, exponential, torus, complete, or a file of edges");
  f.field("pairing", own(&GossipOptions::pairing))
      .one_of({{"available", Pairing::available}, {"poisson", Pairing::poisson}})
      .doc("with a neighbour that waits, or when an edge's Poisson clock ticks");
  f.field("exact_rate", own(&GossipOptions::exact_rate))
      .doc("the same number of averagings for each gradient, not a Poisson number");
  f.field("final_average", own(&GossipOptions::final_average))
      .doc("all workers take their mean at the end, where all stay until then");
  f.list("members", own(&GossipOptions::members))
      .doc(
          "workers that come or go on the way: {worker, joins_after, leaves_after or dies_after}; "
          "one that joins takes the parameters of a neighbour");
  f.field("deadline", own(&GossipOptions::deadline))
      .positive()
      .doc(
          "a worker that is silent for so long is lost to the others; longer than a gradient and "
          "an averaging; absent: nobody dies");
  f.check([](const Options& options, const SectionProblems& p) {
    const GossipOptions& o = options;
    check_graph_name(o.graph, graph_names(), p);
    check_members_noticed(o.members, o.deadline, p);
    if (o.deadline && o.pairing == Pairing::poisson)
      p.add("deadline", "not available yet: workers that die while edges have Poisson clocks",
            "use pairing available");
  });
}

template <class Options>
void describe_gossip(Fields<Options>& f) {
  const auto own = []<class M>(M GossipOptions::*member) {
    return static_cast<M Options::*>(member);
  };
  f.section("optimizer", own(&GossipOptions::optimizer));
  f.field("rate", own(&GossipOptions::rate))
      .positive()
      .doc("averagings of a worker per gradient, on average");
  describe_graph(f);
  f.field("racy_reads", own(&GossipOptions::racy_reads))
      .doc("gradients read parameters that an averaging may be writing, not a copy");
  f.field("clip_norm", own(&GossipOptions::clip_norm))
      .positive()
      .doc("largest norm of a gradient; absent: not clipped");
}

// Error{config} where one of `members` is no worker of the graph, or where those that are there
// from the start are fewer than two or have no path to each other, or one that joins has no
// neighbour among them.
void check_members(const std::vector<Member>& members, const Graph& graph);

// The graph over so many workers, made once for all ranks.
class GraphOnce {
 public:
  explicit GraphOnce(std::string name) : name_(std::move(name)) {}
  std::shared_ptr<const Graph> of(int workers);

 private:
  std::string name_;
  std::mutex mutex_;
  std::shared_ptr<const Graph> graph_;
};

class Gossip : public Algorithm {
 public:
  // One gradient, and the step that it makes.
  StepEnd issue(Progress& progress) final;
  void visit(Archive& archive) final;
  // Waits for the last averaging; then all workers take their mean, where all are there.
  void finish() override;
  // By the averagings that were made, which no plan foretells.
  std::optional<Bytes> sent(std::int64_t steps) const override;

 protected:
  Gossip(Replica& replica, const GossipOptions& options);

  // x, which operations on `stream` have their turn at, and what goes with it move on to now.
  virtual void move_to_now(Stream& stream) = 0;
  // Whether x is moved on before it is sent, or only when the partner's has come.
  virtual bool sends_moved() const { return true; }
  // What a partner is told: x, unless said otherwise.
  virtual void pack(Stream& stream, const Tensor& message);
  // A step towards a partner, who told something `difference` away.
  virtual void approach(Stream& stream, const Tensor& difference) = 0;
  // A step by a gradient that has been computed: the optimizer's, unless said otherwise.
  virtual void take_step(Stream& stream);
  // What goes with x and outlives a step.
  virtual void visit_companion(Archive&) {}
  // The time in units of what a gradient takes, since it was asked last; 0 before there was a
  // gradient. It stands still from when the state is saved until a run goes on from it.
  double elapsed();
  Tensor x() const { return replica_.flat().weights(); }
  const Tensor& point() const { return point_; }  // where the gradient was computed
  Prepared combination(double a, double b, bool with_scalars = false) const;

  Replica& replica_;
  Rank& rank_;

 private:
  template <class Operations>
  void in_turn(Stream& stream, const Operations& operations);
  void start(Progress& progress);
  // Differences of whole picoseconds do not depend on when a run began.
  Time now() const { return to_time(rank_.now()); }
  bool joins_late() const;
  bool join();
  void average_while_training();
  void exchange_with(int partner);
  void average_with(int partner);
  int next_partner();
  bool leaves_now(std::int64_t gradients);
  void wait_while_paused();
  bool all_stay() const { return options_.members.empty() && !options_.deadline; }

  GossipOptions options_;
  Stream &compute_, &communication_;
  Channel& workers_;
  int matchmaker_;
  Pace pace_;
  Tensor mine_, theirs_, point_;  // sent, received, where gradients are computed
  Task averaging_{};
  bool started_ = false, dead_ = false, paused_ = false, waits_for_resume_ = false;
  bool stays_away_ = false;     // it was to join and was not needed any more
  std::int64_t exchanges_ = 0;  // averagings, and what was given or taken to join
  Signal& resumed_;
  Event last_turn_{};
  Seconds unit_{0};  // what a gradient takes, a moving average
  Time moved_;       // when x was moved last, and what goes with it
};

}  // namespace orrery
