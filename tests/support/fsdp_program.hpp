// A step of fully sharded data parallelism: 12 units of 1,024 elements. What it holds on top of the
// shards of parameters and gradients is a matter of `after` alone, and so the same in every world.
//
// Gathered parameters live on the gather stream, full gradients on the compute stream, reductions
// run on a third. The gather of the next unit is issued before the compute of this one (prefetch
// 1); the last unit of the forward pass stays gathered for its backward. A unit's parameters die
// after its compute, a full gradient after its reduce_scatter is issued.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "tests/support/toy.hpp"

namespace orrery {

struct FsdpWaits {
  bool gather_waits_for_free = true;            // of the unit whose compute ended two units back
  std::optional<int> reduce_awaited_after = 0;  // units later; none: never
  Seconds pause{0};  // of the host after each unit: time that orders nothing
};

class Fsdp {
 public:
  static constexpr int units = 12;
  static constexpr std::int64_t whole = 1024;

  Fsdp(Rank& rank, FsdpWaits waits)
      : rank_(rank),
        waits_(waits),
        compute_(rank.stream("compute")),
        gather_(rank.stream("gather")),
        reduce_(rank.stream("reduce")),
        gather_lane_(rank.channel(Axis::shard, "gather")),
        reduce_lane_(rank.channel(Axis::shard, "reduce")) {
    const std::int64_t part = whole / gather_lane_.size();
    for (int unit = 0; unit < units; ++unit) {
      parameters_.push_back(toy::vector(rank, gather_, part, "parameters", Label::parameters));
      gradients_.push_back(toy::vector(rank, reduce_, part, "gradients", Label::gradients));
      toy::fill(rank, gather_, parameters_.back(), unit + 1);
    }
    gathered_.resize(units);
  }

  void step() {
    gather(0);
    for (int unit = 0; unit < units; ++unit) {
      if (unit + 1 < units) gather(unit + 1);
      compute(unit, false);
      if (unit + 1 < units) gathered_[at(unit)] = {};
    }
    for (int unit = units - 1; unit >= 0; --unit) {
      if (unit > 0) gather(unit - 1);
      compute(unit, true);
      gathered_[at(unit)] = {};
    }
  }

  // Of the last unit, when the step has ended.
  double last_gradient() { return rank_.read(gradients_.back())[0]; }

 private:
  static std::size_t at(int unit) { return static_cast<std::size_t>(unit); }

  void gather(int unit) {
    if (waits_.gather_waits_for_free && computed_.size() >= 2)
      gather_.after(computed_[computed_.size() - 2]);
    gathered_[at(unit)] = toy::vector(rank_, gather_, whole, "gathered", Label::communication);
    gather_.all_gather(gathered_[at(unit)], parameters_[at(unit)], gather_lane_);
    ready_[at(unit)] = gather_.record();
  }

  void compute(int unit, bool backward) {
    if (waits_.pause > Seconds(0)) rank_.sleep(waits_.pause);
    compute_.after(ready_[at(unit)]);
    if (!backward) {
      compute_.launch(rank_.prepare(Kernel::timed("forward", Seconds(1e-6), {Role::read})),
                      {gathered_[at(unit)]});
      computed_.push_back(compute_.record());
      return;
    }
    const Tensor gradient = toy::vector(rank_, compute_, whole, "gradient", Label::gradients);
    toy::fill(rank_, compute_, gradient, unit);
    compute_.launch(
        rank_.prepare(Kernel::timed("backward", Seconds(2e-6), {Role::read, Role::update})),
        {gathered_[at(unit)], gradient});
    computed_.push_back(compute_.record());
    reduce_.after(compute_.record());
    reduced_.push_back(
        reduce_.reduce_scatter(gradients_[at(unit)], gradient, Reduce::mean, reduce_lane_));
    if (waits_.reduce_awaited_after.has_value()) {
      const int which = static_cast<int>(reduced_.size()) - 1 - *waits_.reduce_awaited_after;
      if (which >= 0) compute_.after(reduced_[at(which)]);
    }
  }

  Rank& rank_;
  FsdpWaits waits_;
  Stream &compute_, &gather_, &reduce_;
  Channel &gather_lane_, &reduce_lane_;
  std::vector<Tensor> parameters_, gradients_, gathered_;
  std::array<Event, units> ready_;
  std::vector<Event> computed_, reduced_;
};

}  // namespace orrery
