// Where a token stands: rotary embedding and learned tables.
#include <cmath>
#include <vector>

#include "backend/cpu/operands.hpp"

namespace orrery::cpu {

namespace {

// cos and sin of position * theta^(-2i/size), for i < size/2: computed in double, rounded once.
struct Angles {
  std::vector<float> cos, sin;  // [position, size/2]

  Angles(std::int64_t positions, std::int64_t half, double theta) {
    cos.resize(static_cast<std::size_t>(positions * half));
    sin.resize(cos.size());
    for (std::int64_t i = 0; i < half; ++i) {
      const double step = std::pow(theta, -static_cast<double>(i) / static_cast<double>(half));
      for (std::int64_t p = 0; p < positions; ++p) {
        const auto at = static_cast<std::size_t>(p * half + i);
        cos[at] = static_cast<float>(std::cos(static_cast<double>(p) * step));
        sin[at] = static_cast<float>(std::sin(static_cast<double>(p) * step));
      }
    }
  }
};

}  // namespace

void rotary(const Kernel& kernel, const Operands& operands) {
  const auto [batch, sequence, heads, heads_per_token, size, inverse] = kernel.dims;
  float* x = operands.fp32(0, batch * sequence * heads_per_token * size);
  const std::int64_t half = size / 2;
  const Angles angles(sequence, half, kernel.scalars[0]);
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
  const float* table = operands.fp32(0, sequence * cols);
  float* y = operands.fp32(1, rows * cols);
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* position = table + row % sequence * cols;
    for (std::int64_t i = 0; i < cols; ++i) y[row * cols + i] += position[i];
  }
}

// Rows are added in order.
void positions_backward(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1], sequence = kernel.dims[2];
  const float* dy = operands.fp32(0, rows * cols);
  float* dtable = operands.fp32(1, sequence * cols);
  for (std::int64_t row = 0; row < rows; ++row) {
    float* position = dtable + row % sequence * cols;
    for (std::int64_t i = 0; i < cols; ++i) position[i] += dy[row * cols + i];
  }
}

}  // namespace orrery::cpu
