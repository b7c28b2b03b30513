// Batch norms, pools and the loading of pictures. Sums over rows are taken in double from the first
// row to the last and rounded once.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/core/error.hpp"
#include "backend/core/philox.hpp"
#include "backend/cpu/operands.hpp"

namespace orrery::cpu {

namespace {

// sums[column] = sum over rows of term(element, column).
template <class Term>
void column_sums(std::int64_t rows, std::int64_t cols, std::vector<double>& sums,
                 const Term& term) {
  sums.assign(static_cast<std::size_t>(cols), 0.0);
  double* to = sums.data();
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t c = 0; c < cols; ++c) to[c] += static_cast<double>(term(row * cols + c, c));
}

// Of each column, over the rows.
struct ColumnStatistics {
  std::vector<float> mean, scale;  // scale: 1 / sqrt(variance + epsilon)
  std::vector<double> sums;        // of squared distances to the mean

  void find(const float* x, std::int64_t rows, std::int64_t cols, double epsilon) {
    const auto n = static_cast<double>(rows);
    mean.resize(static_cast<std::size_t>(cols));
    scale.resize(mean.size());
    column_sums(rows, cols, sums, [x](std::int64_t i, std::int64_t) { return x[i]; });
    for (std::size_t c = 0; c < mean.size(); ++c) mean[c] = static_cast<float>(sums[c] / n);
    const float* m = mean.data();
    column_sums(rows, cols, sums, [x, m](std::int64_t i, std::int64_t c) {
      const double distance = static_cast<double>(x[i]) - static_cast<double>(m[c]);
      return distance * distance;
    });
    for (std::size_t c = 0; c < scale.size(); ++c)
      scale[c] = static_cast<float>(1.0 / std::sqrt(sums[c] / n + epsilon));
  }
};

// One per thread: buffers are kept for the next kernel.
ColumnStatistics& statistics() {
  thread_local ColumnStatistics all;
  return all;
}

void move_running(const ColumnStatistics& s, std::int64_t rows, double momentum, float* running) {
  const double unbiased = static_cast<double>(std::max<std::int64_t>(rows - 1, 1));
  const std::size_t cols = s.mean.size();
  for (std::size_t c = 0; c < cols; ++c) {
    running[c] = static_cast<float>((1 - momentum) * static_cast<double>(running[c]) +
                                    momentum * static_cast<double>(s.mean[c]));
    running[cols + c] = static_cast<float>((1 - momentum) * static_cast<double>(running[cols + c]) +
                                           momentum * s.sums[c] / unbiased);
  }
}

}  // namespace

void batch_norm(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const bool evaluates = kernel.dims[2] != 0;
  const float* x = operands.fp32(0, rows * cols);
  const float* gain = operands.fp32(1, cols);
  const float* bias = operands.fp32(2, cols);
  float* y = operands.fp32(3, rows * cols);
  ColumnStatistics& s = statistics();
  if (evaluates) {
    const float* running = operands.fp32(4, 2 * cols);
    s.mean.assign(running, running + cols);
    s.scale.resize(s.mean.size());
    for (std::int64_t c = 0; c < cols; ++c)
      s.scale[static_cast<std::size_t>(c)] = static_cast<float>(
          1.0 / std::sqrt(static_cast<double>(running[cols + c]) + kernel.scalars[0]));
  } else {
    s.find(x, rows, cols, kernel.scalars[0]);
    if (operands.has(4)) move_running(s, rows, kernel.scalars[1], operands.fp32(4, 2 * cols));
  }
  const float *mean = s.mean.data(), *scale = s.scale.data();
  for (std::int64_t row = 0; row < rows; ++row, x += cols, y += cols)
    for (std::int64_t c = 0; c < cols; ++c) y[c] = (x[c] - mean[c]) * scale[c] * gain[c] + bias[c];
}

// With n = (x - mean) scale:  dX = gain scale (dY - mean(dY) - n mean(dY n)).
void batch_norm_backward(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const float* dy = operands.fp32(0, rows * cols);
  const float* x = operands.fp32(1, rows * cols);
  const float* gain = operands.fp32(2, cols);
  float* dgain = operands.fp32(3, cols);
  float* dbias = operands.fp32(4, cols);
  float* dx = operands.fp32(5, rows * cols);
  ColumnStatistics& s = statistics();
  s.find(x, rows, cols, kernel.scalars[0]);
  const float *mean = s.mean.data(), *scale = s.scale.data();
  thread_local std::vector<double> sums, along;
  column_sums(rows, cols, sums, [dy](std::int64_t i, std::int64_t) { return dy[i]; });
  column_sums(rows, cols, along, [=](std::int64_t i, std::int64_t c) {
    return dy[i] * ((x[i] - mean[c]) * scale[c]);
  });
  const auto n = static_cast<double>(rows);
  thread_local std::vector<float> average, projection;
  average.resize(sums.size());
  projection.resize(sums.size());
  for (std::size_t c = 0; c < sums.size(); ++c) {
    dbias[c] += static_cast<float>(sums[c]);
    dgain[c] += static_cast<float>(along[c]);
    average[c] = static_cast<float>(sums[c] / n);
    projection[c] = static_cast<float>(along[c] / n);
  }
  for (std::int64_t row = 0; row < rows; ++row, dy += cols, x += cols, dx += cols)
    for (std::int64_t c = 0; c < cols; ++c) {
      const auto at = static_cast<std::size_t>(c);
      const float normed = (x[c] - mean[c]) * scale[c];
      dx[c] = gain[c] * scale[c] * (dy[c] - average[at] - normed * projection[at]);
    }
}

namespace {

struct Pool {
  std::int64_t samples, size, channels, kernel, stride;
  explicit Pool(const Kernel& k)
      : samples(k.dims[0]),
        size(k.dims[1]),
        channels(k.dims[2]),
        kernel(k.dims[3]),
        stride(k.dims[4]) {}
  std::int64_t pad() const { return (kernel - 1) / 2; }
  std::int64_t side() const { return (size + 2 * pad() - kernel) / stride + 1; }
  std::int64_t inputs() const { return samples * size * size * channels; }
  std::int64_t outputs() const { return samples * side() * side() * channels; }

  // Calls f(pixel, largest) for each window and channel: places of the output and of the input.
  template <class F>
  void for_windows(const float* x, const F& f) const {
    std::int64_t to = 0;
    for (std::int64_t sample = 0; sample < samples; ++sample)
      for (std::int64_t top = -pad(), row = 0; row < side(); ++row, top += stride)
        for (std::int64_t left = -pad(), column = 0; column < side(); ++column, left += stride)
          for (std::int64_t c = 0; c < channels; ++c, ++to) f(to, largest(x, sample, top, left, c));
  }

 private:
  std::int64_t largest(const float* x, std::int64_t sample, std::int64_t top, std::int64_t left,
                       std::int64_t channel) const {
    std::int64_t best = -1;
    for (std::int64_t row = std::max<std::int64_t>(top, 0); row < std::min(top + kernel, size);
         ++row)
      for (std::int64_t column = std::max<std::int64_t>(left, 0);
           column < std::min(left + kernel, size); ++column) {
        const std::int64_t at = ((sample * size + row) * size + column) * channels + channel;
        if (best < 0 || x[at] > x[best]) best = at;
      }
    return best;
  }
};

}  // namespace

void max_pool(const Kernel& kernel, const Operands& operands) {
  const Pool pool(kernel);
  const float* x = operands.fp32(0, pool.inputs());
  float* y = operands.fp32(1, pool.outputs());
  pool.for_windows(x, [=](std::int64_t to, std::int64_t largest) { y[to] = x[largest]; });
}

void max_pool_backward(const Kernel& kernel, const Operands& operands) {
  const Pool pool(kernel);
  const float* x = operands.fp32(0, pool.inputs());
  const float* dy = operands.fp32(1, pool.outputs());
  float* dx = operands.fp32(2, pool.inputs());
  std::fill_n(dx, pool.inputs(), 0.0F);
  pool.for_windows(x, [=](std::int64_t to, std::int64_t largest) { dx[largest] += dy[to]; });
}

void average_pool(const Kernel& kernel, const Operands& operands) {
  const auto [samples, size, channels, unused0, unused1, unused2] = kernel.dims;
  const std::int64_t pixels = size * size;
  const float* x = operands.fp32(0, samples * pixels * channels);
  float* y = operands.fp32(1, samples * channels);
  thread_local std::vector<double> sums;
  for (std::int64_t sample = 0; sample < samples; ++sample, x += pixels * channels) {
    column_sums(pixels, channels, sums, [x](std::int64_t i, std::int64_t) { return x[i]; });
    for (std::int64_t c = 0; c < channels; ++c)
      y[sample * channels + c] =
          static_cast<float>(sums[static_cast<std::size_t>(c)] / static_cast<double>(pixels));
  }
}

void average_pool_backward(const Kernel& kernel, const Operands& operands) {
  const auto [samples, size, channels, unused0, unused1, unused2] = kernel.dims;
  const std::int64_t pixels = size * size;
  const float* dy = operands.fp32(0, samples * channels);
  float* dx = operands.fp32(1, samples * pixels * channels);
  const float share = 1.0F / static_cast<float>(pixels);
  for (std::int64_t sample = 0; sample < samples; ++sample, dy += channels)
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel, dx += channels)
      for (std::int64_t c = 0; c < channels; ++c) dx[c] = dy[c] * share;
}

void picture_batch(const Kernel& kernel, const Operands& operands) {
  const auto [samples, size, in_order, unused0, unused1, unused2] = kernel.dims;
  const std::int64_t pixels = size * size;
  const auto first = static_cast<std::uint64_t>(operands.scalar(0));
  float* x = operands.fp32(1, 3 * samples * pixels);
  std::int32_t* labels = operands.int32(2, samples);
  const auto record = static_cast<std::size_t>(3 * pixels + 1);
  if (kernel.text == nullptr || kernel.text->empty() || kernel.text->size() % record != 0)
    throw Error(Category::invalid_program, "picture_batch: pictures of side " +
                                               std::to_string(size) + " are whole records of " +
                                               std::to_string(record) + " bytes");
  const std::uint64_t records = kernel.text->size() / record;
  const Philox order(kernel.seed, Purpose::data_order);
  for (std::int64_t sample = 0; sample < samples; ++sample) {
    const std::uint64_t number = first + static_cast<std::uint64_t>(sample);
    const std::uint64_t place = in_order != 0 ? number : order.below(number, records);
    if (place >= records)
      throw Error(Category::invalid_program, "picture_batch: there is no picture " +
                                                 std::to_string(place) + " of " +
                                                 std::to_string(records));
    const auto* bytes =
        reinterpret_cast<const unsigned char*>(kernel.text->data()) + place * record;
    labels[sample] = bytes[0];
    for (std::int64_t colour = 0; colour < 3; ++colour)
      for (std::int64_t pixel = 0; pixel < pixels; ++pixel)
        x[(sample * pixels + pixel) * 3 + colour] =
            (static_cast<float>(bytes[1 + colour * pixels + pixel]) - 128.0F) / 64.0F;
  }
}

}  // namespace orrery::cpu
