// Axes of parallelism, the grid of ranks they span, and groups of ranks.
//
// A rank has one coordinate per axis. A group is a set of axes: the ranks that differ from me in
// these coordinates only. Its members are ordered by their global rank, which is the order every
// reduction folds in.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace orrery {

enum class Axis : std::uint8_t { tensor, context, expert, pipeline, shard, replicate, island };
inline constexpr int axis_count = 7;
const char* name(Axis);

// A set of axes.
class Axes {
 public:
  constexpr Axes() = default;
  constexpr Axes(Axis axis) : bits_(bit(axis)) {}  // NOLINT: an axis is a set of one
  constexpr Axes(std::initializer_list<Axis> axes) {
    for (Axis axis : axes) bits_ = static_cast<std::uint8_t>(bits_ | bit(axis));
  }
  constexpr bool contains(Axis axis) const { return (bits_ & bit(axis)) != 0; }
  constexpr bool intersects(Axes o) const { return (bits_ & o.bits_) != 0; }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr Axes operator|(Axes o) const {
    return Axes(static_cast<std::uint8_t>(bits_ | o.bits_), 0);
  }
  constexpr bool operator==(const Axes&) const = default;
  constexpr std::uint8_t bits() const { return bits_; }
  // The first of them in the order of `Axis`. There must be one.
  constexpr Axis first() const { return static_cast<Axis>(__builtin_ctz(bits_)); }
  std::string to_string() const;  // "shard+replicate", in the order of `Axis`

 private:
  constexpr Axes(std::uint8_t bits, int) : bits_(bits) {}
  static constexpr std::uint8_t bit(Axis axis) {
    return static_cast<std::uint8_t>(1U << static_cast<unsigned>(axis));
  }
  std::uint8_t bits_ = 0;
};

// Batches divide over `batch_axes`; gradients reduce over `gradient_axes`.
inline constexpr Axes batch_axes{Axis::shard, Axis::replicate};
inline constexpr Axes gradient_axes{Axis::shard, Axis::replicate, Axis::context};
inline constexpr Axes all_axes{Axis::tensor, Axis::context,   Axis::expert, Axis::pipeline,
                               Axis::shard,  Axis::replicate, Axis::island};

// Sizes of the axes and the order in which ranks are numbered: the first axis of `order` varies
// fastest. The default is Megatron's tp-cp-ep-dp-pp (NVIDIA/Megatron-LM,
// megatron/core/parallel_state.py) with dp = shard, then replicate.
class Grid {
 public:
  Grid();  // one rank
  Grid& set(Axis axis, int size);
  Grid& set_order(
      const std::vector<Axis>& order);  // a permutation of all axes; Error{config} otherwise

  int size() const;
  int size(Axis axis) const { return sizes_[static_cast<std::size_t>(axis)]; }
  int size(Axes axes) const;
  int coordinate(int rank, Axis axis) const;
  int rank_with(int rank, Axis axis, int coordinate) const;  // `rank` moved along one axis
  // The group of `rank` over `axes`, by ascending global rank.
  std::vector<int> members(int rank, Axes axes) const;
  // Index of `rank` in members(rank, axes), without building it.
  int index_in_group(int rank, Axes axes) const;
  // A number that is equal for two ranks exactly when they share a group over `axes` (its smallest
  // member).
  int group_leader(int rank, Axes axes) const;

 private:
  std::array<int, axis_count> sizes_;
  std::array<Axis, axis_count> order_;
};

// Ranks in classes of which a world runs one member each, the representative.
struct Partition {
  std::vector<std::uint32_t> class_of;  // by rank
  std::vector<int> representatives;     // by class: its lowest rank
  std::vector<int> sizes;               // by class

  std::uint32_t classes() const { return static_cast<std::uint32_t>(representatives.size()); }
  int representative_of(int rank) const {
    return representatives[class_of[static_cast<std::size_t>(rank)]];
  }
  bool represents(int rank) const { return representative_of(rank) == rank; }
};

}  // namespace orrery
