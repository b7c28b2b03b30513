// What a learned optimizer sees of one parameter.
//
// Metz et al. 2022, "Practical tradeoffs between memory, compute, and performance in learned
// optimizers" (arXiv 2203.11860), small_fc_lopt, in the order of its code. Of a parameter p in a
// tensor, with g its Delta (lagg-a: each worker's Delta, and g their mean), i = 1 ... 3 decays:
//
//   g (lagg-a: g of worker 1 ... K), p
//   m_i <- b_i m_i + (1 - b_i) g;       v <- b v + (1 - b) g^2
//   m_i, v, m_i / sqrt(v), 1 / sqrt(v)
//   r_i and c_i, factors of the second moment as Adafactor has them: running means of g^2 over the
//     longer and over the shorter dimension of a matrix; both the second moment of a vector
//   g / sqrt(r_i c_i / mean r_i), r_i, c_i, 1 / sqrt(r_i), 1 / sqrt(c_i), m_i / sqrt(r_i c_i /
//   mean)
//
// each over its root mean square in the tensor, so that no scale is left, and behind them
//   tanh(t / x - 1) for x = 1, 3, 10, ..., 100000, t counting meetings from 0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace orrery {

inline constexpr std::size_t decay_count = 3;
inline constexpr std::size_t fixed_features = 27, time_features = 11;  // beside the Deltas

inline std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

std::array<float, time_features> time_features_at(double t);

// A parameter, whole: ranks may have parts of it.
struct LearnedTensor {
  std::int64_t elements = 0, columns = 0;  // of a matrix, stored by rows; 0 columns: a vector
  // What this rank has of a matrix: all columns from first_column on of rows from first_row on.
  std::int64_t own_columns = 0, first_row = 0, first_column = 0;
  // Of a matrix: where its line sums begin among those of all matrices, first the rows' or the
  // columns', whichever are fewer.
  std::int64_t place = 0;
  double rate = 1;   // factor of its steps
  double share = 1;  // 1 / ranks that have the same part, in sums over all ranks

  std::int64_t rows() const { return columns == 0 ? 0 : elements / columns; }
  bool tall() const { return rows() > columns; }
  std::int64_t fewer() const { return tall() ? columns : rows(); }
  std::int64_t more() const { return tall() ? rows() : columns; }
  // Line of an element of this rank's part in the shorter and in the longer dimension.
  std::int64_t line_of_fewer(std::int64_t at) const { return tall() ? column(at) : row(at); }
  std::int64_t line_of_more(std::int64_t at) const { return tall() ? row(at) : column(at); }

 private:
  std::int64_t row(std::int64_t at) const { return first_row + at / own_columns; }
  std::int64_t column(std::int64_t at) const { return first_column + at % own_columns; }
};

// Consecutive elements of a tensor that are stepped here.
struct LearnedSegment {
  std::size_t tensor = 0;
  std::int64_t from = 0, elements = 0;  // of what this rank has of the tensor
  std::int64_t own = 0;                 // place among all that is stepped here
  std::int64_t vector = 0;              // of a vector: place among the vectors' elements of that
};

// The state from which features are computed, of `stride` elements.
struct FeatureState {
  std::int64_t stride = 0;
  std::size_t workers = 1;
  std::span<const float> theta;    // [stride]
  std::span<const float> deltas;   // [workers][stride]
  std::span<const float> moments;  // [4][stride]: m_1 ... m_3, v
  std::span<const float> lines;    // [3][all lines]
  std::span<const float> vectors;  // [3][elements of vectors here]

  float delta(std::int64_t own) const;  // mean over the workers
};

// Those of the parameters of a segment.
class Features {
 public:
  Features(const FeatureState& state, const LearnedTensor& tensor, const LearnedSegment& segment);
  std::size_t size() const { return s_.workers + fixed_features; }
  // Of the segment's i-th element, not yet over their root mean squares, without those of time.
  void at(std::int64_t i, std::span<float> x) const;

 private:
  struct Factors {
    std::array<float, decay_count> row, column, of_delta, of_momentum;
  };
  Factors factors(std::int64_t i) const;
  const FeatureState& s_;
  const LearnedTensor& tensor_;
  const LearnedSegment& segment_;
  std::array<float, decay_count> row_means_{};
};

}  // namespace orrery
