#include "backend/axes.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>

#include "backend/core/philox.hpp"
#include "tests/support/errors.hpp"

using namespace orrery;

namespace {

constexpr std::array<Axis, axis_count> axes_in_order{Axis::tensor,   Axis::context, Axis::expert,
                                                     Axis::pipeline, Axis::shard,   Axis::replicate,
                                                     Axis::island};

std::vector<Axis> random_order(Random& random) {
  std::vector<Axis> order(axes_in_order.begin(), axes_in_order.end());
  for (std::size_t i = order.size() - 1; i > 0; --i)
    std::swap(order[i], order[random.below(i + 1)]);
  return order;
}

Axes random_axes(Random& random) {
  Axes axes;
  for (Axis axis : axes_in_order)
    if (random.below(2) == 1) axes = axes | axis;
  return axes;
}

// By definition: the ranks that differ from `rank` in coordinates of `axes` only, ascending.
std::vector<int> members_by_definition(const Grid& grid, int rank, Axes axes) {
  std::vector<int> members;
  for (int other = 0; other < grid.size(); ++other) {
    bool same = true;
    for (Axis axis : axes_in_order)
      if (!axes.contains(axis) && grid.coordinate(other, axis) != grid.coordinate(rank, axis))
        same = false;
    if (same) members.push_back(other);
  }
  return members;
}

}  // namespace

TEST_CASE("groups of random grids are as defined: members ascending, leader first, index right") {
  Random random(1, Purpose::user);
  for (int round = 0; round < 150; ++round) {
    Grid grid;
    for (Axis axis : axes_in_order) {
      const int size = 1 + static_cast<int>(random.below(3));
      if (grid.size() * size <= 96) grid.set(axis, size);
    }
    grid.set_order(random_order(random));
    const Axes axes = random_axes(random);
    for (int rank = 0; rank < grid.size(); ++rank) {
      const std::vector<int> members = grid.members(rank, axes);
      REQUIRE(members == members_by_definition(grid, rank, axes));
      REQUIRE(static_cast<int>(members.size()) == grid.size(axes));
      REQUIRE(grid.group_leader(rank, axes) == members.front());
      REQUIRE(members[static_cast<std::size_t>(grid.index_in_group(rank, axes))] == rank);
    }
  }
}

TEST_CASE("coordinates of random grids name each rank once, and rank_with moves along one axis") {
  Random random(2, Purpose::user);
  for (int round = 0; round < 100; ++round) {
    Grid grid;
    for (Axis axis : axes_in_order)
      if (grid.size() <= 24) grid.set(axis, 1 + static_cast<int>(random.below(4)));
    grid.set_order(random_order(random));
    std::vector<std::array<int, axis_count>> seen;
    for (int rank = 0; rank < grid.size(); ++rank) {
      std::array<int, axis_count> at{};
      for (Axis axis : axes_in_order) {
        at[static_cast<std::size_t>(axis)] = grid.coordinate(rank, axis);
        REQUIRE(grid.coordinate(rank, axis) < grid.size(axis));
        for (int c = 0; c < grid.size(axis); ++c) {
          const int moved = grid.rank_with(rank, axis, c);
          for (Axis other : axes_in_order)
            REQUIRE(grid.coordinate(moved, other) ==
                    (other == axis ? c : grid.coordinate(rank, other)));
        }
      }
      REQUIRE(std::find(seen.begin(), seen.end(), at) == seen.end());
      seen.push_back(at);
    }
  }
}

TEST_CASE("ranks are numbered as Megatron does: tensor fastest, then data, then pipeline") {
  Grid grid;
  grid.set(Axis::tensor, 2).set(Axis::shard, 2).set(Axis::replicate, 2).set(Axis::pipeline, 2);
  CHECK(grid.size() == 16);
  CHECK(grid.members(0, Axis::tensor) == std::vector{0, 1});
  CHECK(grid.members(0, Axis::shard) == std::vector{0, 2});
  CHECK(grid.members(0, Axis::replicate) == std::vector{0, 4});
  CHECK(grid.members(0, batch_axes) == std::vector{0, 2, 4, 6});
  CHECK(grid.members(3, Axis::pipeline) == std::vector{3, 11});
}

TEST_CASE("the first axis of an order varies fastest") {
  Grid grid;
  grid.set(Axis::tensor, 2).set(Axis::pipeline, 3);
  grid.set_order({Axis::pipeline, Axis::tensor, Axis::context, Axis::expert, Axis::shard,
                  Axis::replicate, Axis::island});
  CHECK(grid.members(0, Axis::pipeline) == std::vector{0, 1, 2});
  CHECK(grid.members(0, Axis::tensor) == std::vector{0, 3});
}

TEST_CASE("an order that is no permutation of all axes, and a size below one, are refused") {
  Grid grid;
  CHECK(error_of([&] { grid.set_order({Axis::tensor}); }).category() == Category::config);
  CHECK(error_of([&] {
          grid.set_order({Axis::tensor, Axis::tensor, Axis::expert, Axis::pipeline, Axis::shard,
                          Axis::replicate, Axis::island});
        }).category() == Category::config);
  const Error error = error_of([&] { grid.set(Axis::expert, 0); });
  CHECK(error.category() == Category::config);
  CHECK(mentions(error, "expert"));
}

TEST_CASE("a set of axes prints in the order of the axes, whatever order it was made in") {
  CHECK(Axes{Axis::replicate, Axis::shard}.to_string() == "shard+replicate");
  CHECK(Axes().to_string().empty());
  CHECK(Axes().empty());
  CHECK((Axes(Axis::shard) | Axes(Axis::replicate)) == Axes{Axis::replicate, Axis::shard});
}
