// Convolutions as matrix products of windows, several pictures at a time. How many, and so every
// order of summation, depends on the shape only.
#include <algorithm>
#include <array>
#include <vector>

#include "backend/cpu/operands.hpp"

namespace orrery::cpu {

namespace {

constexpr std::int64_t rows_at_once = 1024;  // of windows, so that they stay in the cache

// A row of windows for each pixel of the output of some pictures.
class Windows {
 public:
  explicit Windows(const ConvolutionShape& shape)
      : s_(shape), side_(shape.out_size()), pad_((shape.kernel - 1) / 2) {}

  // They are the picture itself: every row is a pixel.
  bool trivial() const { return s_.kernel == 1 && s_.stride == 1; }
  std::int64_t pixels() const { return side_ * side_; }  // of a picture's output
  std::int64_t pictures_at_once() const {
    return std::clamp<std::int64_t>(rows_at_once / pixels(), 1, s_.samples);
  }

  void gather(const float* x, std::int64_t pictures, float* rows) const {
    const std::int64_t width = s_.kernel * s_.in;
    for_lines(pictures,
              [&](std::int64_t picture, std::int64_t line, std::int64_t left, std::int64_t row) {
                float* to = rows + row * width;
                if (line < 0 || line >= s_.size) {
                  std::fill_n(to, width, 0.0F);
                  return;
                }
                const float* from = x + (picture * s_.size + line) * s_.size * s_.in;
                for (std::int64_t k = 0; k < s_.kernel; ++k, to += s_.in) {
                  const std::int64_t column = left + k;
                  if (column < 0 || column >= s_.size)
                    std::fill_n(to, s_.in, 0.0F);
                  else
                    std::copy_n(from + column * s_.in, s_.in, to);
                }
              });
  }

  // Adds what each window holds to the pixels that it saw, in the order of the windows.
  void scatter(const float* rows, std::int64_t pictures, float* x) const {
    const std::int64_t width = s_.kernel * s_.in;
    for_lines(pictures,
              [&](std::int64_t picture, std::int64_t line, std::int64_t left, std::int64_t row) {
                if (line < 0 || line >= s_.size) return;
                const float* from = rows + row * width;
                float* to = x + (picture * s_.size + line) * s_.size * s_.in;
                for (std::int64_t k = 0; k < s_.kernel; ++k, from += s_.in) {
                  const std::int64_t column = left + k;
                  if (column < 0 || column >= s_.size) continue;
                  float* pixel = to + column * s_.in;
                  for (std::int64_t c = 0; c < s_.in; ++c) pixel[c] += from[c];
                }
              });
  }

 private:
  // Calls f(picture, line, first column, number) for each line of each window.
  template <class F>
  void for_lines(std::int64_t pictures, const F& f) const {
    std::int64_t number = 0;
    for (std::int64_t picture = 0; picture < pictures; ++picture)
      for (std::int64_t y = 0; y < side_; ++y)
        for (std::int64_t x = 0; x < side_; ++x)
          for (std::int64_t k = 0; k < s_.kernel; ++k)
            f(picture, y * s_.stride + k - pad_, x * s_.stride - pad_, number++);
  }

  ConvolutionShape s_;
  std::int64_t side_, pad_;
};

View view_of(const float* data, std::int64_t elements) {
  return {const_cast<float*>(data), elements, Dtype::fp32};
}

void product(const Kernel& kernel, const float* a, const float* b, float* c) {
  const auto [m, n, k, unused0, unused1, unused2] = kernel.dims;
  const std::array<View, 3> views{view_of(a, m * k), view_of(b, k * n), view_of(c, m * n)};
  gemm(kernel, Operands(kernel, views));
}

// Calls f(first picture, pictures, rows of windows) until all pictures are done.
template <class F>
void in_turn(const ConvolutionShape& s, const Windows& windows, const F& f) {
  for (std::int64_t first = 0; first < s.samples;) {
    const std::int64_t pictures = std::min(windows.pictures_at_once(), s.samples - first);
    f(first, pictures, pictures * windows.pixels());
    first += pictures;
  }
}

float* scratch(std::int64_t elements) {
  thread_local std::vector<float> rows;
  if (rows.size() < static_cast<std::size_t>(elements))
    rows.resize(static_cast<std::size_t>(elements));
  return rows.data();
}

}  // namespace

void convolution(const Kernel& kernel, const Operands& operands) {
  const ConvolutionShape s = convolution_of(kernel);
  const Windows windows(s);
  const float* x = operands.fp32(0, s.inputs());
  const float* weights = operands.fp32(1, s.weights());
  float* y = operands.fp32(2, s.outputs());
  in_turn(s, windows, [&](std::int64_t first, std::int64_t pictures, std::int64_t rows) {
    const float* from = x + first * s.size * s.size * s.in;
    float* gathered = scratch(rows * s.window());
    if (!windows.trivial()) windows.gather(from, pictures, gathered);
    product(Kernel::gemm(rows, s.out, s.window(), Dtype::fp32), windows.trivial() ? from : gathered,
            weights, y + first * windows.pixels() * s.out);
  });
}

void convolution_input_gradient(const Kernel& kernel, const Operands& operands) {
  const ConvolutionShape s = convolution_of(kernel);
  const Windows windows(s);
  const float* dy = operands.fp32(0, s.outputs());
  const float* weights = operands.fp32(1, s.weights());
  float* dx = operands.fp32(2, s.inputs());
  if (!kernel.accumulate) std::fill_n(dx, s.inputs(), 0.0F);
  in_turn(s, windows, [&](std::int64_t first, std::int64_t pictures, std::int64_t rows) {
    float* gathered = scratch(rows * s.window());
    product(Kernel::gemm(rows, s.window(), s.out, Dtype::fp32, false, true),
            dy + first * windows.pixels() * s.out, weights, gathered);
    windows.scatter(gathered, pictures, dx + first * s.size * s.size * s.in);
  });
}

void convolution_weight_gradient(const Kernel& kernel, const Operands& operands) {
  const ConvolutionShape s = convolution_of(kernel);
  const Windows windows(s);
  const float* x = operands.fp32(0, s.inputs());
  const float* dy = operands.fp32(1, s.outputs());
  float* gradient = operands.fp32(2, s.weights());
  in_turn(s, windows, [&](std::int64_t first, std::int64_t pictures, std::int64_t rows) {
    const float* from = x + first * s.size * s.size * s.in;
    float* gathered = scratch(rows * s.window());
    if (!windows.trivial()) windows.gather(from, pictures, gathered);
    product(Kernel::gemm(s.window(), s.out, rows, Dtype::fp32, true, false, true),
            windows.trivial() ? from : gathered, dy + first * windows.pixels() * s.out, gradient);
  });
}

}  // namespace orrery::cpu
