// Fully sharded data parallelism's memory, by how the program waits: 12 units of 1,024 elements on
// 4 ranks. The shards of parameters and gradients are 2 x 12 x 256 = 6,144 elements; what comes on
// top is a matter of `after` alone, and so the same in every world.
//
// The program: gathered parameters live on the gather stream, full gradients on the compute stream,
// reductions run on a third. The gather of the next unit is issued before the compute of this one
// (prefetch 1); the last unit of the forward pass stays gathered for its backward. A unit's
// parameters die after its compute, a full gradient after its reduce_scatter is issued.
#include <doctest/doctest.h>

#include <optional>

#include "tests/backend/fake_device.hpp"

using namespace orrery;

namespace {

struct Waits {
  bool gather_waits_for_free = true;            // of the unit whose compute ended two units back
  std::optional<int> reduce_awaited_after = 0;  // units later; none: never
};

class Fsdp {
 public:
  static constexpr int units = 12;
  static constexpr std::int64_t whole = 1024;

  Fsdp(Rank& rank, Waits waits)
      : rank_(rank),
        waits_(waits),
        compute_(rank.stream("compute")),
        gather_(rank.stream("gather")),
        reduce_(rank.stream("reduce")),
        gather_lane_(rank.channel(Axis::shard, "gather")),
        reduce_lane_(rank.channel(Axis::shard, "reduce")) {
    const std::int64_t part = whole / gather_lane_.size();
    for (int unit = 0; unit < units; ++unit) {
      parameters_.push_back(tensor(rank, gather_, part, "parameters", Label::parameters));
      gradients_.push_back(tensor(rank, reduce_, part, "gradients", Label::gradients));
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

 private:
  static std::size_t at(int unit) { return static_cast<std::size_t>(unit); }

  void gather(int unit) {
    if (waits_.gather_waits_for_free && computed_.size() >= 2)
      gather_.after(computed_[computed_.size() - 2]);
    gathered_[at(unit)] = tensor(rank_, gather_, whole, "gathered", Label::communication);
    gather_.all_gather(gathered_[at(unit)], parameters_[at(unit)], gather_lane_);
    ready_[at(unit)] = gather_.record();
  }

  void compute(int unit, bool backward) {
    compute_.after(ready_[at(unit)]);
    if (!backward) {
      compute_.launch(reader(rank_), {gathered_[at(unit)]});
      computed_.push_back(compute_.record());
      return;
    }
    const Tensor gradient = tensor(rank_, compute_, whole, "gradient", Label::gradients);
    compute_.launch(rank_.prepare(Kernel::timed("backward", Seconds(0), {Role::read, Role::write})),
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
  Waits waits_;
  Stream &compute_, &gather_, &reduce_;
  Channel &gather_lane_, &reduce_lane_;
  std::vector<Tensor> parameters_, gradients_, gathered_;
  std::array<Event, units> ready_;
  std::vector<Event> computed_, reduced_;
};

// The peak in elements, which every rank must agree on.
std::int64_t peak(Waits waits) {
  WorldOptions options;
  options.grid.set(Axis::shard, 4);
  FakeWorld world(options);
  std::vector<std::unique_ptr<Fsdp>> programs;
  for (int id = 0; id < 4; ++id) {
    programs.push_back(std::make_unique<Fsdp>(world.rank(id), waits));
    programs.back()->step();
  }
  for (int id = 0; id < 4; ++id)
    REQUIRE(world.rank(id).ledger(Place::device).peak() ==
            world.rank().ledger(Place::device).peak());
  return world.rank().ledger(Place::device).peak().value / 4;
}

constexpr std::int64_t shards = 2 * 12 * 256;

}  // namespace

TEST_CASE("FSDP whose gathers never wait for the free keeps every gathered unit: 30,720 elements") {
  CHECK(peak({false, 0}) == shards + (11 + 12) * 1024 + 1024);
  CHECK(peak({false, 0}) == 30'720);
}

TEST_CASE("FSDP whose gathers wait for the free two units back peaks at 10,240 elements") {
  CHECK(peak({true, 0}) == shards + 3 * 1024 + 1024);
  CHECK(peak({true, 0}) == 10'240);
}

TEST_CASE("FSDP whose gradients are awaited one unit late peaks at 11,264 elements") {
  CHECK(peak({true, 1}) == shards + 3 * 1024 + 2 * 1024);
  CHECK(peak({true, 1}) == 11'264);
}

TEST_CASE("FSDP whose gradients are never awaited keeps all twelve: 21,504 elements") {
  CHECK(peak({true, std::nullopt}) == shards + 3 * 1024 + 12 * 1024);
  CHECK(peak({true, std::nullopt}) == 21'504);
}
