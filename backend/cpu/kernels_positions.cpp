// Where a token stands: rotary embedding, learned tables, and the order of sequences in parts.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/operands.hpp"

namespace orrery::cpu {

namespace {

// cos and sin of position * theta^(-2i/size), for i < size/2: computed in double, rounded once.
struct Angles {
  std::vector<float> cos, sin;  // [token of the part, size/2]

  Angles(std::int64_t tokens, std::int64_t half, double theta, const SequencePart& part) {
    cos.resize(static_cast<std::size_t>(tokens * half));
    sin.resize(cos.size());
    for (std::int64_t i = 0; i < half; ++i) {
      const double step = std::pow(theta, -static_cast<double>(i) / static_cast<double>(half));
      for (std::int64_t token = 0; token < tokens; ++token) {
        const auto at = static_cast<std::size_t>(token * half + i);
        const auto position = static_cast<double>(part.position(token, tokens));
        cos[at] = static_cast<float>(std::cos(position * step));
        sin[at] = static_cast<float>(std::sin(position * step));
      }
    }
  }
};

// The row of the table for a row of the activations.
std::int64_t position_of(const Kernel& kernel, std::int64_t row) {
  const std::int64_t sequence = kernel.dims[2];
  return kernel.part.position((kernel.dims[3] + row) % sequence, sequence);
}

}  // namespace

void rotary(const Kernel& kernel, const Operands& operands) {
  const auto [batch, sequence, heads, heads_per_token, size, inverse] = kernel.dims;
  float* x = operands.fp32(0, batch * sequence * heads_per_token * size);
  const std::int64_t half = size / 2;
  const Angles angles(sequence, half, kernel.scalars[0], kernel.part);
  const float sign = inverse != 0 ? -1.0F : 1.0F;
  for (std::int64_t row = 0; row < batch * sequence; ++row) {
    const float* cos = angles.cos.data() + row % sequence * half;
    const float* sin = angles.sin.data() + row % sequence * half;
    for (std::int64_t head = 0; head < heads; ++head) {
      float* low = x + (row * heads_per_token + head) * size;
      float* high = low + half;
      for (std::int64_t i = 0; i < half; ++i) {
        const float a = low[i], b = high[i], s = sign * sin[i];
        low[i] = a * cos[i] - b * s;
        high[i] = b * cos[i] + a * s;
      }
    }
  }
}

void add_positions(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1], sequence = kernel.dims[2];
  const float* table = operands.fp32(0, sequence * kernel.part.of * cols);
  float* y = operands.fp32(1, rows * cols);
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* position = table + position_of(kernel, row) * cols;
    for (std::int64_t i = 0; i < cols; ++i) y[row * cols + i] += position[i];
  }
}

// Rows are added in order.
void positions_backward(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1], sequence = kernel.dims[2];
  const float* dy = operands.fp32(0, rows * cols);
  float* dtable = operands.fp32(1, sequence * kernel.part.of * cols);
  for (std::int64_t row = 0; row < rows; ++row) {
    float* position = dtable + position_of(kernel, row) * cols;
    for (std::int64_t i = 0; i < cols; ++i) position[i] += dy[row * cols + i];
  }
}

void permute(const Kernel& kernel, const Operands& operands) {
  const auto [n_i, n_j, inner, stride_i, stride_j, inverse] = kernel.dims;
  float* x = operands.fp32(0, (n_i - 1) * stride_i + (n_j - 1) * stride_j + inner);
  float* y = operands.fp32(1, n_i * n_j * inner);
  for (std::int64_t j = 0; j < n_j; ++j)
    for (std::int64_t i = 0; i < n_i; ++i) {
      float *there = x + i * stride_i + j * stride_j, *here = y + (j * n_i + i) * inner;
      if (inverse != 0)
        std::copy_n(here, inner, there);
      else
        std::copy_n(there, inner, here);
    }
}

void reorder(const Kernel& kernel, const Operands& operands) {
  const std::int64_t batch = kernel.dims[0], length = kernel.dims[1], width = kernel.dims[2];
  const bool inverse = kernel.dims[3] != 0;
  const std::int64_t of = kernel.part.of, all = of * batch * length * width;
  const float* from = operands.fp32(0, all);
  float* to = operands.fp32(1, all);
  SequencePart part = kernel.part;
  for (std::int64_t rank = 0; rank < of; ++rank) {
    part.index = static_cast<std::int32_t>(rank);
    for (std::int64_t b = 0; b < batch; ++b)
      for (std::int64_t i = 0; i < length; ++i) {
        const std::int64_t apart = ((rank * batch + b) * length + i) * width;
        const std::int64_t ordered = (b * of * length + part.position(i, length)) * width;
        std::copy_n(from + (inverse ? ordered : apart), width, to + (inverse ? apart : ordered));
      }
  }
}

}  // namespace orrery::cpu
