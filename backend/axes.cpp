#include "backend/axes.hpp"

#include <algorithm>

#include "backend/core/error.hpp"

namespace orrery {

namespace {
constexpr std::array<const char*, axis_count> axis_names{
    "tensor", "context", "expert", "pipeline", "shard", "replicate", "island"};
}  // namespace

const char* name(Axis axis) { return axis_names.at(static_cast<std::size_t>(axis)); }

std::string Axes::to_string() const {
  std::string text;
  for (int i = 0; i < axis_count; ++i) {
    const Axis axis = static_cast<Axis>(i);
    if (contains(axis)) text += (text.empty() ? "" : "+") + std::string(name(axis));
  }
  return text;
}

Grid::Grid()
    : order_{Axis::tensor,    Axis::context,  Axis::expert, Axis::shard,
             Axis::replicate, Axis::pipeline, Axis::island} {
  sizes_.fill(1);
}

Grid& Grid::set(Axis axis, int size) {
  if (size < 1)
    throw Error(Category::config, std::string("axis ") + name(axis) + " has size " +
                                      std::to_string(size) + "; it must be at least 1");
  sizes_[static_cast<std::size_t>(axis)] = size;
  return *this;
}

Grid& Grid::set_order(const std::vector<Axis>& order) {
  Axes seen;
  for (Axis axis : order) seen = seen | axis;
  if (order.size() != axis_count || !(seen == all_axes))
    throw Error(Category::config, "a rank order names every axis once");
  std::copy(order.begin(), order.end(), order_.begin());
  return *this;
}

int Grid::size() const { return size(all_axes); }

int Grid::size(Axes axes) const {
  int product = 1;
  for (Axis axis : order_)
    if (axes.contains(axis)) product *= size(axis);
  return product;
}

int Grid::coordinate(int rank, Axis axis) const {
  for (Axis faster : order_) {
    if (faster == axis) return rank % size(axis);
    rank /= size(faster);
  }
  return 0;
}

int Grid::rank_with(int rank, Axis axis, int coordinate_wanted) const {
  int stride = 1;
  for (Axis faster : order_) {
    if (faster == axis) break;
    stride *= size(faster);
  }
  return rank + (coordinate_wanted - coordinate(rank, axis)) * stride;
}

int Grid::group_leader(int rank, Axes axes) const {
  for (Axis axis : order_)
    if (axes.contains(axis)) rank = rank_with(rank, axis, 0);
  return rank;
}

std::vector<int> Grid::members(int rank, Axes axes) const {
  std::vector<int> group{group_leader(rank, axes)};
  // Axes in order of stride, so that appending keeps the list ascending when the slower axes come
  // later.
  for (Axis axis : order_) {
    if (!axes.contains(axis)) continue;
    const std::vector<int> base = group;
    for (int c = 1; c < size(axis); ++c)
      for (int member : base) group.push_back(rank_with(member, axis, c));
  }
  return group;
}

int Grid::index_in_group(int rank, Axes axes) const {
  int index = 0, stride = 1;
  for (Axis axis : order_) {
    if (!axes.contains(axis)) continue;
    index += coordinate(rank, axis) * stride;
    stride *= size(axis);
  }
  return index;
}

}  // namespace orrery
