// SGP and overlap-SGP: stochastic gradient push over a directed graph.
//
// Assran, Loizou, Ballas and Rabbat, "Stochastic Gradient Push for Distributed Deep Learning", ICML
// 2019 (arXiv 1811.10792), algorithms 1 and 2. Worker i holds x_i and a weight w_i, at first 1;
// what it knows of the mean is z_i = x_i / w_i. In step k, with out-neighbours of then:
//
//   x_i <- optimizer(x_i, gradient at z_i)
//   send (p_i x_i, p_i w_i) to every out-neighbour;   p_i = 1 / (1 + their number)
//   x_i <- p_i x_i + sum of what came;   w_i <- p_i w_i + likewise;   z_i <- x_i / w_i
//
// The exponential graph has one out-neighbour in round k, 2^(k mod log2 n) workers on. Overlap-SGP
// absorbs what was sent in step k in step k + tau only, and then sends again: a round is tau steps.
// Where all workers send to as many as they receive from, and at once, all weights stay 1 and are
// left out.
//
// Cost, for P parameters, d neighbours in a step, and messages every max(1, tau) steps:
//   communication  d messages of 4 P bytes (and 4 of the weight, where there is one) per worker;
//                  hidden behind tau steps; one all-reduce of 4 P bytes at the end
//   memory         beside parameters, gradients and optimizer: 4 P of what is sent, 4 P for each
//                  in-neighbour there can be, and P parameters of z where there are weights
#include "algorithms/sgp.hpp"

#include <algorithm>
#include <map>

#include "algorithms/codecs/view.hpp"
#include "algorithms/gossip/graph.hpp"

namespace orrery {

namespace {
const std::vector<std::string>& push_graph_names() {
  static const std::vector<std::string> all{"exponential", "ring"};
  return all;
}

template <class Options>
void describe_push(Fields<Options>& f) {
  const auto own = []<class M>(M PushOptions::*member) {
    return static_cast<M Options::*>(member);
  };
  f.section("optimizer", own(&PushOptions::optimizer));
  f.field("graph", own(&PushOptions::graph))
      .doc("exponential: one neighbour a step; ring; or a file of edges 'i j', i sends to j");
  f.field("final_average", own(&PushOptions::final_average))
      .doc("all workers take their mean at the end");
  f.check([](const Options& options, const SectionProblems& p) {
    check_graph_name(options.graph, push_graph_names(), p);
  });
}
}  // namespace

void describe(Fields<SgpOptions>& f) { describe_push(f); }

void describe(Fields<OverlapSgpOptions>& f) {
  describe_push(f);
  f.field("overlap", &OverlapSgpOptions::overlap).at_least(1).doc("tau: steps that hide a message");
}

Sgp::Sgp(Replica& replica, const PushOptions& options, std::int64_t overlap)
    : replica_(replica),
      rank_(replica.rank()),
      compute_(replica.compute()),
      out_(rank_.stream("sgp.out")),
      in_(rank_.stream("sgp.in")),
      workers_(rank_.channel(Axis::island, "sgp")),
      context_(replica),
      overlap_(overlap),
      final_average_(options.final_average) {
  open_edges(options);
  weighted_ = !edges_.empty() && (weighted_ || overlap_ > 0);
  const std::int64_t size = x().elements(), message = size + (weighted_ ? 1 : 0);
  const auto tensor = [&](Stream& home, Label label, std::int64_t elements, Dtype dtype,
                          const char* name) {
    return rank_.allocate(home, label, elements, dtype, {.name = name});
  };
  mine_ = tensor(compute_, Label::communication, message, Dtype::fp32, "sgp.mine");
  for (Edge& edge : edges_)
    if (edge.receives) {
      edge.theirs = tensor(in_, Label::communication, message, Dtype::fp32, "sgp.theirs");
      in_.launch(rank_.prepare(Kernel::fill(message, 0, Dtype::fp32)), {edge.theirs});
    }
  if (!weighted_) return;
  weight_ = tensor(compute_, Label::optimizer, 1, Dtype::fp32, "sgp.weight");
  compute_.launch(rank_.prepare(Kernel::fill(1, 1, Dtype::fp32)), {weight_});
  inverse_ = tensor(compute_, Label::workspace, 1, Dtype::fp32, "sgp.inverse");
  const Tensor& values = replica.flat().all_values();
  z_ = tensor(compute_, Label::parameters, values.elements(), values.dtype(), "sgp.z");
  compute_.copy(values, z_);
  invert_ = rank_.prepare(
      Kernel::custom("1 / weight", {Role::read, Role::write},
                     [](std::span<const View> v) { floats(v[1])[0] = 1 / floats(v[0])[0]; }));
}

void Sgp::check_graph(const std::string& graph, int workers) {
  const std::vector<std::string>& names = push_graph_names();
  if (std::ranges::find(names, graph) == names.end()) read_edges(graph, workers, true);
}

void Sgp::open_edges(const PushOptions& options) {
  const int n = rank_.size(Axis::island);
  if (n == 1) return;
  const auto open = [&](int shift, bool sends, bool receives) {
    edges_.push_back({&rank_.edge(Axis::island, shift, "sgp"), sends, receives});
  };
  if (options.graph == "ring") return open(1, true, true);
  if (options.graph == "exponential") {
    for (int shift = 1; shift < n; shift *= 2) open(shift, true, true);
    return;
  }
  const int me = rank_.coordinate(Axis::island);
  std::map<int, std::pair<bool, bool>> shifts;
  std::vector<int> balance(static_cast<std::size_t>(n));
  int neighbours = 0;
  for (const auto& [from, to] : read_edges(options.graph, n, true)) {
    auto& [sends, receives] = shifts[(to - from + n) % n];
    sends = sends || from == me;
    receives = receives || to == me;
    neighbours += from == me ? 1 : 0;
  }
  for (const auto& [shift, use] : shifts) open(shift, use.first, use.second);
  in_rounds_ = false;
  weighted_ = true;
  share_ = 1.0 / (1 + neighbours);
}

template <class F>
void Sgp::for_edges(std::int64_t step, F f) {
  const std::int64_t round = step / std::max<std::int64_t>(1, overlap_);
  if (in_rounds_) return f(edges_[static_cast<std::size_t>(round) % edges_.size()]);
  for (Edge& edge : edges_) f(edge);
}

Prepared Sgp::scaled(std::int64_t elements, double a, double b, bool with_scalars) const {
  return rank_.prepare(Kernel::linear_combination(elements, a, b, Dtype::fp32, with_scalars));
}

void Sgp::share(std::int64_t step) {
  const std::int64_t size = x().elements();
  compute_.launch(scaled(size, share_, 0), {x(), mine_.slice(0, size)});
  compute_.copy(mine_.slice(0, size), x());
  if (weighted_) {
    compute_.launch(scaled(1, share_, 0), {weight_, mine_.slice(size, size + 1)});
    compute_.copy(mine_.slice(size, size + 1), weight_);
  }
  out_.after(compute_.record());
  in_.after(compute_.record());
  for_edges(step, [this](Edge& edge) {
    if (edge.sends) out_.send(mine_, *edge.channel);
    if (edge.receives) in_.receive(edge.theirs, *edge.channel);
  });
  began_ = step;
  under_way_ = 1;
}

void Sgp::absorb() {
  const std::int64_t size = x().elements();
  compute_.after(in_.record());
  compute_.after(out_.record());  // what was sent may be overwritten
  for_edges(began_, [&](Edge& edge) {
    if (!edge.receives) return;
    compute_.launch(scaled(size, 1, 1), {edge.theirs.slice(0, size), x()});
    if (weighted_) compute_.launch(scaled(1, 1, 1), {edge.theirs.slice(size, size + 1), weight_});
  });
  under_way_ = 0;
}

void Sgp::remove_bias() {
  replica_.flat().weights_changed(compute_, 0, x().elements());
  if (!weighted_) return;
  compute_.launch(invert_, {weight_, inverse_});
  compute_.launch(scaled(x().elements(), 1, 0, true), {x(), z_, inverse_, {}});
}

void Sgp::push(std::int64_t step) {
  if (under_way_ != 0 && step - began_ >= overlap_) absorb();
  if (under_way_ == 0) share(step);
  if (overlap_ == 0) absorb();
  remove_bias();
}

StepEnd Sgp::issue(Progress& progress) {
  const std::int64_t k = progress.step();
  replica_.accumulate_gradients(progress, z_);
  context_.take();
  replica_.optimizer_step(compute_, replica_.parameters());
  if (!edges_.empty()) push(k);
  return {compute_.record(), replica_.loss()};
}

void Sgp::finish() {
  if (under_way_ != 0) absorb();
  if (final_average_) {
    out_.after(compute_.record());
    compute_.after(out_.all_reduce(x(), Reduce::mean, workers_));
    if (weighted_) compute_.launch(rank_.prepare(Kernel::fill(1, 1, Dtype::fp32)), {weight_});
  }
  remove_bias();
  if (!weighted_ || final_average_) return;
  // What the worker knows of the mean is what it leaves behind.
  compute_.launch(scaled(x().elements(), 0, 1, true), {x(), x(), {}, inverse_});
  compute_.launch(rank_.prepare(Kernel::fill(1, 1, Dtype::fp32)), {weight_});
  replica_.flat().weights_changed(compute_, 0, x().elements());
}

std::optional<Bytes> Sgp::sent(std::int64_t steps) const {
  const auto receivers = in_rounds_ ? std::min<std::int64_t>(1, std::ssize(edges_))
                                    : std::ranges::count_if(edges_, &Edge::sends);
  const std::int64_t every = std::max<std::int64_t>(1, overlap_);
  const Bytes pushed = mine_.bytes() * (receivers * ((steps + every - 1) / every));
  if (!final_average_) return pushed;
  return pushed + wire_bytes(Collective::all_reduce, x().bytes(), workers_.size());
}

void Sgp::visit(Archive& archive) {
  replica_.visit(archive);
  const Archive::Scope scope(archive, "sgp");
  archive.field("began", began_);
  archive.field("under_way", under_way_);
  if (!weighted_) return;
  archive.field("weight", weight_);
  archive.field("z", z_);
  for (std::size_t i = 0; i < edges_.size(); ++i)
    if (edges_[i].receives) archive.field("from " + std::to_string(i), edges_[i].theirs);
}

}  // namespace orrery

// Differences from the paper: overlapped messages are absorbed tau steps after they were sent and
// never before, also where they came earlier, so that a run can be repeated; the authors' code
// (facebookresearch/stochastic_gradient_push) absorbs them by then. Any optimizer may step x. On
// a file's graph every worker sends to all its neighbours in each step.
