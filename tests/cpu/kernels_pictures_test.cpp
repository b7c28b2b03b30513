// Kernels on pictures against formulas written out in double, their gradients against finite
// differences of those formulas.
#include <doctest/doctest.h>

#include "backend/core/error.hpp"
#include "tests/cpu/kernel_run.hpp"

using namespace orrery;

namespace {

Doubles naive_convolution(const Doubles& x, const Doubles& w, const ConvolutionShape& s) {
  const std::int64_t side = s.out_size(), pad = (s.kernel - 1) / 2;
  Doubles y(static_cast<std::size_t>(s.outputs()));
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  for (std::int64_t b = 0; b < s.samples; ++b)
    for (std::int64_t row = 0; row < side; ++row)
      for (std::int64_t column = 0; column < side; ++column)
        for (std::int64_t o = 0; o < s.out; ++o) {
          double sum = 0;
          for (std::int64_t i = 0; i < s.kernel; ++i)
            for (std::int64_t j = 0; j < s.kernel; ++j) {
              const std::int64_t r = row * s.stride + i - pad, c = column * s.stride + j - pad;
              if (r < 0 || c < 0 || r >= s.size || c >= s.size) continue;
              for (std::int64_t k = 0; k < s.in; ++k)
                sum += x[at(((b * s.size + r) * s.size + c) * s.in + k)] *
                       w[at(((i * s.kernel + j) * s.in + k) * s.out + o)];
            }
          y[at(((b * side + row) * side + column) * s.out + o)] = sum;
        }
  return y;
}

// As in ResNets; one of more pictures than are gathered at once.
const std::vector<ConvolutionShape> convolutions{{2, 5, 3, 4, 3, 1}, {2, 6, 2, 5, 3, 2},
                                                 {3, 5, 4, 3, 1, 1}, {2, 5, 3, 4, 1, 2},
                                                 {1, 9, 3, 2, 7, 2}, {5, 20, 2, 3, 3, 1}};

constexpr std::int64_t norm_rows = 14, norm_cols = 5;

Doubles naive_batch_norm(const Doubles& x, const Doubles& gain, const Doubles& bias) {
  Doubles y(x.size());
  const std::size_t n = gain.size(), count = x.size() / n;
  for (std::size_t c = 0; c < n; ++c) {
    double mean = 0, squares = 0;
    for (std::size_t r = 0; r < count; ++r) mean += x[r * n + c] / static_cast<double>(count);
    for (std::size_t r = 0; r < count; ++r)
      squares += (x[r * n + c] - mean) * (x[r * n + c] - mean);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(count) + 1e-5);
    for (std::size_t r = 0; r < count; ++r)
      y[r * n + c] = (x[r * n + c] - mean) * scale * gain[c] + bias[c];
  }
  return y;
}

Doubles naive_max_pool(const Doubles& x, std::int64_t samples, std::int64_t size, std::int64_t n,
                       std::int64_t kernel, std::int64_t stride) {
  const std::int64_t pad = (kernel - 1) / 2, side = (size + 2 * pad - kernel) / stride + 1;
  Doubles y;
  for (std::int64_t b = 0; b < samples; ++b)
    for (std::int64_t row = 0; row < side; ++row)
      for (std::int64_t column = 0; column < side; ++column)
        for (std::int64_t c = 0; c < n; ++c) {
          double most = -1e300;
          for (std::int64_t i = 0; i < kernel; ++i)
            for (std::int64_t j = 0; j < kernel; ++j) {
              const std::int64_t r = row * stride + i - pad, k = column * stride + j - pad;
              if (r >= 0 && k >= 0 && r < size && k < size)
                most = std::max(most,
                                x[static_cast<std::size_t>(((b * size + r) * size + k) * n + c)]);
            }
          y.push_back(most);
        }
  return y;
}

}  // namespace

TEST_CASE("a convolution is the sum over its window, and its gradients are those of that sum") {
  for (const ConvolutionShape& s : convolutions) {
    CAPTURE(s.size);
    CAPTURE(s.kernel);
    CAPTURE(s.stride);
    Floats x = numbers(s.inputs(), 1), w = numbers(s.weights(), 2), dy = numbers(s.outputs(), 3);
    Floats y(dy.size());
    run(Kernel::convolution(s, Dtype::fp32), {view(x), view(w), view(y)});
    CHECK(distance(y, narrow(naive_convolution(wide(x), wide(w), s))) < 1e-5);

    Floats dx = numbers(s.inputs(), 4), dw = numbers(s.weights(), 5);
    const Floats before = dw, before_x = dx;
    run(Kernel::convolution_input_gradient(s, Dtype::fp32), {view(dy), view(w), view(dx)});
    run(Kernel::convolution_weight_gradient(s, Dtype::fp32), {view(x), view(dy), view(dw)});
    const Floats by_x =
        difference(wide(x), dy, [&](const Doubles& v) { return naive_convolution(v, wide(w), s); });
    CHECK(distance(dx, by_x) < 1e-4);
    Floats by_w =
        difference(wide(w), dy, [&](const Doubles& v) { return naive_convolution(wide(x), v, s); });
    for (std::size_t i = 0; i < by_w.size(); ++i) by_w[i] += before[i];
    CHECK(distance(dw, by_w) < 2e-3);

    Floats added = before_x, sum = by_x;
    run(Kernel::convolution_input_gradient(s, Dtype::fp32, true), {view(dy), view(w), view(added)});
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += before_x[i];
    CHECK(distance(added, sum) < 1e-4);
  }
}

TEST_CASE("a convolution gives the same bits wherever its operands lie") {
  const ConvolutionShape s = convolutions[0];
  const std::vector<Floats> operands{numbers(s.inputs(), 1), numbers(s.weights(), 2),
                                     Floats(static_cast<std::size_t>(s.outputs()))};
  for (std::size_t offset : {1, 2, 5})
    CHECK(run_at(Kernel::convolution(s, Dtype::fp32), operands, offset) ==
          run_at(Kernel::convolution(s, Dtype::fp32), operands, 0));
}

TEST_CASE("a batch norm normalises columns, and its gradients are those of the formula") {
  Floats x = numbers(norm_rows * norm_cols, 1, 2), gain = numbers(norm_cols, 2),
         bias = numbers(norm_cols, 3);
  const Floats dy = numbers(norm_rows * norm_cols, 4);
  Floats y(x.size()), running(2 * norm_cols, 0.5F);
  run(Kernel::batch_norm(norm_rows, norm_cols, 1e-5, 0.1, Dtype::fp32),
      {view(x), view(gain), view(bias), view(y), view(running)});
  CHECK(distance(y, narrow(naive_batch_norm(wide(x), wide(gain), wide(bias)))) < 1e-5);

  Floats d = dy, dgain = numbers(norm_cols, 5), dbias = numbers(norm_cols, 6), dx(x.size());
  const Floats gain_before = dgain, bias_before = dbias;
  run(Kernel::batch_norm_backward(norm_rows, norm_cols, 1e-5, Dtype::fp32),
      {view(d), view(x), view(gain), view(dgain), view(dbias), view(dx)});
  const auto added = [](Floats a, const Floats& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
  };
  CHECK(distance(dx, difference(wide(x), dy, [&](const Doubles& v) {
                   return naive_batch_norm(v, wide(gain), wide(bias));
                 })) < 1e-4);
  CHECK(distance(dgain, added(gain_before, difference(wide(gain), dy, [&](const Doubles& v) {
                                return naive_batch_norm(wide(x), v, wide(bias));
                              }))) < 1e-4);
  CHECK(distance(dbias, added(bias_before, difference(wide(bias), dy, [&](const Doubles& v) {
                                return naive_batch_norm(wide(x), wide(gain), v);
                              }))) < 1e-4);
}

TEST_CASE("running statistics move by the momentum, and evaluation uses them and leaves them") {
  Floats x = numbers(norm_rows * norm_cols, 1, 2), gain(norm_cols, 1), bias(norm_cols, 0),
         y(x.size());
  Floats running(2 * norm_cols);
  for (std::size_t c = 0; c < norm_cols; ++c) running[norm_cols + c] = 1;
  run(Kernel::batch_norm(norm_rows, norm_cols, 1e-5, 0.1, Dtype::fp32),
      {view(x), view(gain), view(bias), view(y), view(running)});
  for (std::size_t c = 0; c < norm_cols; ++c) {
    double mean = 0, squares = 0;
    for (std::size_t r = 0; r < norm_rows; ++r) mean += x[r * norm_cols + c] / double{norm_rows};
    for (std::size_t r = 0; r < norm_rows; ++r)
      squares += (x[r * norm_cols + c] - mean) * (x[r * norm_cols + c] - mean);
    CHECK(running[c] == doctest::Approx(0.1 * mean).epsilon(1e-5));
    CHECK(running[norm_cols + c] ==
          doctest::Approx(0.9 + 0.1 * squares / (norm_rows - 1)).epsilon(1e-5));
  }
  const Floats kept = running;
  run(Kernel::batch_norm(norm_rows, norm_cols, 1e-5, 0.1, Dtype::fp32, true),
      {view(x), view(gain), view(bias), view(y), view(running)});
  CHECK(running == kept);
  for (std::size_t i = 0; i < x.size(); ++i)
    CHECK(y[i] == doctest::Approx((x[i] - kept[i % norm_cols]) /
                                  std::sqrt(kept[norm_cols + i % norm_cols] + 1e-5))
                      .epsilon(1e-4));
  // Without running statistics the result is that with them.
  Floats with(y.size()), without(y.size());
  run(Kernel::batch_norm(norm_rows, norm_cols, 1e-5, 0.1, Dtype::fp32),
      {view(x), view(gain), view(bias), view(with), view(running)});
  run(Kernel::batch_norm(norm_rows, norm_cols, 1e-5, 0.1, Dtype::fp32),
      {view(x), view(gain), view(bias), view(without), View{}});
  CHECK(with == without);
}

TEST_CASE("pools take the largest and the mean of windows, and hand gradients back to them") {
  for (const auto& [kernel, stride, size] : {std::tuple{3, 2, 7}, {2, 2, 6}, {3, 1, 4}}) {
    constexpr std::int64_t samples = 2, n = 3;
    Floats x = numbers(samples * size * size * n, 7);
    const Doubles expected = naive_max_pool(wide(x), samples, size, n, kernel, stride);
    Floats y(expected.size()), dx(x.size(), 9);
    Floats dy = numbers(static_cast<std::int64_t>(y.size()), 8);
    run(Kernel::max_pool(samples, size, n, kernel, stride, Dtype::fp32), {view(x), view(y)});
    CHECK(y == narrow(expected));
    run(Kernel::max_pool_backward(samples, size, n, kernel, stride, Dtype::fp32),
        {view(x), view(dy), view(dx)});
    CHECK(distance(dx, difference(wide(x), dy, [&](const Doubles& v) {
                     return naive_max_pool(v, samples, size, n, kernel, stride);
                   })) < 1e-4);
  }
  Floats x = numbers(2 * 9 * 4, 7), y(2 * 4), dy = numbers(2 * 4, 8), dx(x.size());
  run(Kernel::average_pool(2, 3, 4, Dtype::fp32), {view(x), view(y)});
  run(Kernel::average_pool_backward(2, 3, 4, Dtype::fp32), {view(dy), view(dx)});
  for (std::size_t b = 0; b < 2; ++b)
    for (std::size_t c = 0; c < 4; ++c) {
      double sum = 0;
      for (std::size_t p = 0; p < 9; ++p) sum += x[(b * 9 + p) * 4 + c];
      CHECK(y[b * 4 + c] == doctest::Approx(sum / 9).epsilon(1e-5));
      for (std::size_t p = 0; p < 9; ++p)
        CHECK(dx[(b * 9 + p) * 4 + c] == doctest::Approx(dy[b * 4 + c] / 9));
    }
}

TEST_CASE("a sum behind which a ReLU is hands back the gradient where the sum was positive") {
  Floats x = numbers(norm_rows * norm_cols, 1), y = numbers(norm_rows * norm_cols, 2),
         dz = numbers(norm_rows * norm_cols, 3);
  Floats z(x.size()), dx(x.size());
  run(Kernel::residual_add(norm_rows, norm_cols, Dtype::fp32, false, Activation::relu),
      {view(x), view(y), View{}, view(z)});
  run(Kernel::residual_add_backward(norm_rows, norm_cols, Activation::relu, Dtype::fp32),
      {view(dz), view(x), view(y), view(dx)});
  for (std::size_t i = 0; i < x.size(); ++i) {
    CHECK(z[i] == std::max(0.0F, x[i] + y[i]));
    CHECK(dx[i] == (z[i] > 0 ? dz[i] : 0.0F));
  }
}

TEST_CASE(
    "pictures are the records drawn for their sample numbers, colour by colour, or in order") {
  constexpr std::int64_t size = 2, record = 3 * size * size + 1, records = 5;
  std::string bytes;
  for (int i = 0; i < records * record; ++i)
    bytes += static_cast<char>(i % record == 0 ? i / record : 17 * i % 256);
  const auto pictures = std::make_shared<const std::string>(bytes);
  std::vector<std::int64_t> cursor{3};
  constexpr std::int64_t samples = 20;
  Floats x(samples * (record - 1));
  std::vector<std::int32_t> labels(samples);
  run(Kernel::picture_batch(samples, size, 9, pictures, Dtype::fp32),
      {view(cursor), view(x), view(labels)});
  const Philox order(9, Purpose::data_order);
  for (std::size_t s = 0; s < samples; ++s) {
    const std::size_t from = order.below(3 + s, records) * record;
    CHECK(labels[s] == bytes[from]);
    for (std::size_t pixel = 0; pixel < 4; ++pixel)
      for (std::size_t colour = 0; colour < 3; ++colour)
        CHECK(x[(s * 4 + pixel) * 3 + colour] == (static_cast<float>(static_cast<unsigned char>(
                                                      bytes[from + 1 + colour * 4 + pixel])) -
                                                  128.0F) /
                                                     64.0F);
  }
  run(Kernel::picture_batch(2, size, 9, pictures, Dtype::fp32, true),
      {view(cursor), view(x), view(labels)});
  CHECK(labels[0] == 3);
  CHECK(labels[1] == 4);
  CHECK_THROWS_AS(run(Kernel::picture_batch(3, size, 9, pictures, Dtype::fp32, true),
                      {view(cursor), view(x), view(labels)}),
                  Error);  // there is no sixth
  CHECK_THROWS_AS(run(Kernel::picture_batch(1, 3, 9, pictures, Dtype::fp32),
                      {view(cursor), view(x), view(labels)}),
                  Error);  // of another size
}
