#include "algorithms/gossip/gossip.hpp"

namespace orrery {

std::shared_ptr<const Graph> GraphOnce::of(int workers) {
  const std::lock_guard lock(mutex_);
  if (graph_ == nullptr || graph_->workers() != workers)
    graph_ = std::make_shared<const Graph>(name_, workers);
  return graph_;
}

void check_members(const std::vector<Member>& members, const Graph& graph) {
  std::vector<bool> there(static_cast<std::size_t>(graph.workers()), true);
  const auto refused = [](const std::string& why) { return Error(Category::config, why); };
  for (const Member& m : members) {
    if (m.worker >= graph.workers())
      throw refused("members: there is no worker " + std::to_string(m.worker) + " of " +
                    std::to_string(graph.workers()));
    if (m.joins_after) there[static_cast<std::size_t>(m.worker)] = false;
  }
  const auto first = std::ranges::find(there, true);
  if (std::ranges::count(there, false) == 0) return;
  if (std::ranges::count(there, true) < 2)
    throw refused("members: two workers have to be there from the start");
  const std::vector<bool> reached =
      graph.reached_from(static_cast<int>(first - there.begin()), there);
  for (int i = 0; i < graph.workers(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const bool alone = std::ranges::none_of(
        graph.neighbours(i), [&](int j) { return there[static_cast<std::size_t>(j)]; });
    if (there[at] && !reached[at])
      throw refused("members: until others join, no path leads from worker " +
                    std::to_string(first - there.begin()) + " to worker " + std::to_string(i));
    if (!there[at] && alone)
      throw refused("members: worker " + std::to_string(i) +
                    " joins and has no neighbour that is there from the start");
  }
}

Gossip::Gossip(Replica& replica, const GossipOptions& options)
    : replica_(replica),
      rank_(replica.rank()),
      options_(options),
      compute_(replica.compute()),
      communication_(rank_.stream("gossip")),
      workers_(rank_.channel(Axis::island, "gossip")),
      matchmaker_(rank_.service(gossip::matchmaker)),
      pace_(rank_, options.rate, options.exact_rate),
      resumed_(rank_.signal("resumed")) {
  const auto buffer = [&](const char* name) {
    return rank_.allocate(communication_, Label::communication, x().elements(), Dtype::fp32,
                          {.name = name});
  };
  mine_ = buffer("gossip.mine");
  theirs_ = buffer("gossip.theirs");
  const Tensor& values = replica.flat().all_values();
  point_ = options.racy_reads ? values.racy()
                              : rank_.allocate(compute_, Label::parameters, values.elements(),
                                               values.dtype(), {.name = "gossip.point"});
}

// What two flows do to x is ordered by whose turn the host came to first.
template <class Operations>
void Gossip::in_turn(Stream& stream, const Operations& operations) {
  stream.after(last_turn_);
  operations();
  last_turn_ = stream.record();
}

Prepared Gossip::combination(double a, double b, bool with_scalars) const {
  return rank_.prepare(Kernel::linear_combination(x().elements(), a, b, Dtype::fp32, with_scalars));
}

double Gossip::elapsed() {
  const Time since = now() - moved_;
  moved_ += since;
  return unit_ > Seconds(0) ? since.seconds().value / unit_.value : 0;
}

// ---- Gradients

void Gossip::start(Progress& progress) {
  started_ = true;
  progress.take_turns();
  last_turn_ = compute_.record();
  rank_.wait(last_turn_);  // of set-up, and of what was restored
  if (progress.step() == 0 && joins_late() && !join()) {
    stays_away_ = true;
    progress.end();
    return;
  }
  moved_ = now();
  if (progress.step() > 0)
    rank_.control_send(matchmaker_, gossip::request, {gossip::resume, progress.step()});
  averaging_ = rank_.fork("gossip", [this] { average_while_training(); });
}

StepEnd Gossip::issue(Progress& progress) {
  if (!started_) start(progress);
  if (stays_away_) return {compute_.record(), {}};
  const Time begin = now();
  Staleness& staleness = replica_.staleness();
  staleness.reads(staleness.current());
  if (!options_.racy_reads)
    in_turn(compute_, [&] {
      compute_.copy(replica_.flat().all_values(), point_);
      staleness.reads(staleness.current());
    });
  replica_.zero_gradients();
  for (int i = 0; i < replica_.options().micro_batches; ++i)
    replica_.accumulate_micro_batch(progress.draw(replica_.model().micro_batch), point_);
  rank_.control_send(matchmaker_, gossip::request, {gossip::gradient});
  rank_.wait(compute_.record());
  const Seconds took = (now() - begin).seconds();
  unit_ = unit_ > Seconds(0) ? Seconds(0.5 * (unit_ + took).value) : took;
  in_turn(compute_, [&] {
    move_to_now(compute_);
    take_step(compute_);
  });
  rank_.wait(compute_.record());
  moved_ = now();  // a step is an instant: time stands still in it
  const bool last = rank_.control_receive(gossip::turn, matchmaker_)->values[0] == 0;
  if (leaves_now(progress.step() + 1) || last)
    progress.end();
  else if (options_.pairing == Pairing::available)
    pace_.gradient_done();
  return {compute_.record(), replica_.loss()};
}

bool Gossip::leaves_now(std::int64_t gradients) {
  if (options_.members.empty()) return false;
  const int me = rank_.coordinate(Axis::island);
  bool leaves = false;
  for (const Member& m : options_.members) {
    if (m.worker != me) continue;
    dead_ = dead_ || (m.dies_after && *m.dies_after <= gradients);
    leaves = leaves || dead_ || (m.leaves_after && *m.leaves_after <= gradients);
  }
  return leaves;
}

bool Gossip::joins_late() const {
  if (options_.members.empty()) return false;
  const int me = rank_.coordinate(Axis::island);
  return std::ranges::any_of(options_.members,
                             [me](const Member& m) { return m.worker == me && m.joins_after; });
}

// Waits for its time, and for a neighbour whose x it begins with; whether they come.
bool Gossip::join() {
  while (true) {
    const auto message = rank_.control_receive(gossip::partner, matchmaker_);
    if (message->values[0] == gossip::nobody) return false;
    if (message->values[1] == gossip::take) {
      exchange_with(static_cast<int>(message->values[0]));
      break;
    }
    rank_.control_send(matchmaker_, gossip::request, {gossip::here});
  }
  in_turn(communication_, [&] {
    communication_.copy(theirs_, x());
    replica_.flat().weights_changed(communication_, 0, x().elements());
  });
  rank_.wait(last_turn_);
  if (options_.pairing == Pairing::poisson)
    rank_.control_send(matchmaker_, gossip::request, {gossip::ready});
  return true;
}

void Gossip::take_step(Stream& stream) {
  const Tensor scale =
      options_.clip_norm ? replica_.clip_scale(stream, *options_.clip_norm) : Tensor();
  replica_.optimizer_step(stream, replica_.parameters(), scale);
}

// ---- Averagings

void Gossip::pack(Stream& stream, const Tensor& message) { stream.copy(x(), message); }

// A dead worker says nothing any more. What is still sent to it is taken in, so that nothing is
// left when the run ends.
int Gossip::next_partner() {
  const auto ready = [&] { rank_.control_send(matchmaker_, gossip::request, {gossip::ready}); };
  if (options_.pairing == Pairing::available && pace_.may_average()) ready();
  while (true) {
    const auto message = rank_.control_receive(gossip::partner, matchmaker_);
    const auto other = static_cast<int>(message->values[0]);
    if (message->values[1] == gossip::go) return other;
    if (message->values[1] == gossip::give) {
      exchange_with(other);
      if (!pace_.gradients_ended()) ready();
    } else if (!dead_) {
      rank_.control_send(matchmaker_, gossip::request, {gossip::here});
    }
  }
}

void Gossip::average_while_training() {
  for (int partner = next_partner(); partner != gossip::nobody; partner = next_partner()) {
    average_with(partner);
    pace_.averaging_done();
    if (options_.pairing == Pairing::poisson && !pace_.gradients_ended())
      rank_.control_send(matchmaker_, gossip::request, {gossip::ready});
  }
  pace_.no_more_averagings();
}

void Gossip::wait_while_paused() {
  while (paused_) {
    waits_for_resume_ = true;
    rank_.wait(resumed_);
  }
}

void Gossip::exchange_with(int partner) {
  ++exchanges_;
  wait_while_paused();
  in_turn(communication_, [&] {
    if (sends_moved()) move_to_now(communication_);
    pack(communication_, mine_);
  });
  rank_.wait(communication_.exchange(mine_, theirs_, partner, workers_));
}

void Gossip::average_with(int partner) {
  exchange_with(partner);
  wait_while_paused();
  in_turn(communication_, [&] {
    if (!sends_moved()) move_to_now(communication_);
    communication_.launch(combination(-1, 1), {sends_moved() ? mine_ : x(), theirs_});
    approach(communication_, theirs_);
    replica_.staleness().changed();
    replica_.flat().weights_changed(communication_, 0, x().elements());
  });
}

// ---- The end, and state

void Gossip::finish() {
  if (stays_away_) return;
  pace_.no_more_gradients();
  if (!dead_) rank_.control_send(matchmaker_, gossip::request, {gossip::leave});
  if (started_)
    rank_.join(averaging_);
  else
    rank_.control_receive(gossip::partner, matchmaker_);
  if (options_.final_average && all_stay()) {
    compute_.after(last_turn_);
    if (started_) move_to_now(compute_);
    communication_.after(compute_.record());
    communication_.all_reduce(x(), Reduce::mean, workers_);
    replica_.flat().weights_changed(communication_, 0, x().elements());
  }
  compute_.after(communication_.record());
}

std::optional<Bytes> Gossip::sent(std::int64_t) const {
  const Bytes averaged = x().bytes() * exchanges_;
  if (!options_.final_average || !all_stay()) return averaged;
  return averaged + wire_bytes(Collective::all_reduce, x().bytes(), workers_.size());
}

void Gossip::visit(Archive& archive) {
  paused_ = true;
  replica_.visit(archive);
  const Archive::Scope scope(archive, "gossip");
  archive.field("unit", unit_.value);
  visit_companion(archive);
  paused_ = false;
  if (waits_for_resume_) rank_.raise(resumed_);
  waits_for_resume_ = false;
}

}  // namespace orrery
