// The bodies of a transformer's kernels against formulas written out in double, their gradients
// against finite differences of those formulas.
#include <doctest/doctest.h>

#include "backend/core/error.hpp"
#include "tests/cpu/kernel_run.hpp"

using namespace orrery;

namespace {

constexpr std::int64_t rows = 4, cols = 21;
const auto n_cols = static_cast<std::size_t>(cols);

double naive(Activation activation, double x) {
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::gelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::silu:
      return x / (1 + std::exp(-x));
  }
  return 0;
}

// `bias` may be empty.
Doubles naive_norm(const Doubles& x, const Doubles& gain, const Doubles& bias, Norm kind,
                   double epsilon) {
  Doubles y(x.size());
  const std::size_t n = gain.size();
  for (std::size_t row = 0; row < x.size(); row += n) {
    double mean = 0, squares = 0;
    if (kind == Norm::layer)
      for (std::size_t i = 0; i < n; ++i) mean += x[row + i] / static_cast<double>(n);
    for (std::size_t i = 0; i < n; ++i) squares += (x[row + i] - mean) * (x[row + i] - mean);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + epsilon);
    for (std::size_t i = 0; i < n; ++i)
      y[row + i] = (x[row + i] - mean) * scale * gain[i] + (bias.empty() ? 0 : bias[i]);
  }
  return y;
}

Doubles naive_gated(const Doubles& x, const Doubles& bias, Activation activation) {
  Doubles y(x.size() / 2);
  for (std::size_t i = 0; i < y.size(); ++i) {
    const std::size_t at = i / n_cols * 2 * n_cols + i % n_cols;
    y[i] =
        naive(activation, x[at] + bias[i % n_cols]) * (x[at + n_cols] + bias[n_cols + i % n_cols]);
  }
  return y;
}

Doubles naive_activation(const Doubles& x, const Doubles& bias, Activation activation) {
  Doubles y(x.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = naive(activation, x[i] + bias[i % n_cols]);
  return y;
}

// x[batch, sequence, per_token, size]
Doubles naive_rotary(Doubles x, std::size_t sequence, std::size_t heads, std::size_t per_token,
                     std::size_t size, double theta) {
  for (std::size_t token = 0; token < x.size() / (per_token * size); ++token)
    for (std::size_t head = 0; head < heads; ++head)
      for (std::size_t i = 0; i < size / 2; ++i) {
        const double angle =
            static_cast<double>(token % sequence) *
            std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(size));
        double& a = x[(token * per_token + head) * size + i];
        double& b = x[(token * per_token + head) * size + i + size / 2];
        const double turned = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = turned;
      }
  return x;
}

}  // namespace

TEST_CASE("RMS norm and layer norm are their formulas, and so are their gradients") {
  const Floats x = numbers(rows * cols, 1, 2), gain = numbers(cols, 2),
               dy = numbers(rows * cols, 3), skip = numbers(rows * cols, 4);
  for (const Norm kind : {Norm::rms, Norm::layer}) {
    const Floats bias = kind == Norm::layer ? numbers(cols, 5) : Floats{};
    const double epsilon = 1e-2;
    const Floats y = run_at(Kernel::norm(rows, cols, kind, epsilon, Dtype::fp32),
                            {x, gain, bias, Floats(x.size())}, 0)[3];
    CHECK(distance(y, narrow(naive_norm(wide(x), wide(gain), wide(bias), kind, epsilon))) < 2e-6);
    const Floats before = numbers(cols, 6);  // gradients are added to what is there
    const auto got =
        run_at(Kernel::norm_backward(rows, cols, kind, epsilon, true, Dtype::fp32),
               {dy, x, gain, skip, before, bias.empty() ? bias : before, Floats(x.size())}, 0);
    Floats dx = difference(wide(x), dy, [&](const Doubles& at) {
      return naive_norm(at, wide(gain), wide(bias), kind, epsilon);
    });
    for (std::size_t i = 0; i < dx.size(); ++i) dx[i] += skip[i];
    CHECK(distance(got[6], dx) < 1e-5);
    Floats dgain = difference(wide(gain), dy, [&](const Doubles& at) {
      return naive_norm(wide(x), at, wide(bias), kind, epsilon);
    });
    for (std::size_t i = 0; i < n_cols; ++i) dgain[i] += before[i];
    CHECK(distance(got[4], dgain) < 1e-5);
    if (bias.empty()) continue;
    Floats dbias = difference(wide(bias), dy, [&](const Doubles& at) {
      return naive_norm(wide(x), wide(gain), at, kind, epsilon);
    });
    for (std::size_t i = 0; i < n_cols; ++i) dbias[i] += before[i];
    CHECK(distance(got[5], dbias) < 1e-5);
  }
}

TEST_CASE("a norm of a row of zeros is finite") {
  const auto y =
      run_at(Kernel::norm(1, cols, Norm::layer, 1e-5, Dtype::fp32),
             {Floats(n_cols), Floats(n_cols, 1.0F), Floats(n_cols, 0.5F), Floats(n_cols)}, 0)[3];
  CHECK(y == Floats(n_cols, 0.5F));
}

TEST_CASE("gates and plain activations are their formulas, with and without a bias") {
  const Floats x = numbers(rows * 2 * cols, 1, 2), dy = numbers(rows * cols, 2);
  const Floats half(x.begin(), x.begin() + rows * cols);
  for (const Activation activation : {Activation::silu, Activation::gelu, Activation::relu})
    for (const bool with_bias : {false, true}) {
      const Floats bias = with_bias ? numbers(2 * cols, 3) : Floats{};
      const Doubles added = with_bias ? wide(bias) : Doubles(2 * n_cols);
      const auto gated = Kernel::gated_activation(rows, cols, activation, Dtype::fp32, with_bias);
      CHECK(distance(run_at(gated, {x, bias, dy}, 0)[2],
                     narrow(naive_gated(wide(x), added, activation))) < 1e-5);
      const auto d =
          run_at(Kernel::gated_activation_backward(rows, cols, activation, Dtype::fp32, with_bias),
                 {dy, x, bias, x}, 0);
      CHECK(distance(d[3], difference(wide(x), dy, [&](const Doubles& at) {
                       return naive_gated(at, added, activation);
                     })) < 2e-5);
      const auto plain = Kernel::bias_activation(rows, cols, activation, Dtype::fp32, with_bias);
      CHECK(distance(run_at(plain, {half, bias, dy}, 0)[2],
                     narrow(naive_activation(wide(half), added, activation))) < 1e-5);
      const auto e =
          run_at(Kernel::bias_activation_backward(rows, cols, activation, Dtype::fp32, with_bias),
                 {dy, half, bias, dy}, 0);
      CHECK(distance(e[3], difference(wide(half), dy, [&](const Doubles& at) {
                       return naive_activation(at, added, activation);
                     })) < 2e-5);
    }
}

TEST_CASE("a residual is the sum of its inputs and the bias") {
  const Floats x = numbers(rows * cols, 1), y = numbers(rows * cols, 2), b = numbers(cols, 3);
  const auto plain =
      run_at(Kernel::residual_add(rows, cols, Dtype::fp32), {x, y, {}, Floats(x.size())}, 0)[3];
  const auto biased = run_at(Kernel::residual_add(rows, cols, Dtype::fp32, true),
                             {x, y, b, Floats(x.size())}, 0)[3];
  for (std::size_t i = 0; i < x.size(); ++i) {
    CHECK(plain[i] == x[i] + y[i]);
    CHECK(biased[i] == x[i] + (y[i] + b[i % n_cols]));
  }
}

TEST_CASE("a product with a bias is the product, plus the bias in every row") {
  const Floats a = numbers(5 * 7, 1), b = numbers(7 * 3, 2), bias = numbers(3, 3);
  Floats expected = run_at(Kernel::gemm(5, 3, 7, Dtype::fp32), {a, b, Floats(15)}, 0)[2];
  for (std::size_t i = 0; i < 15; ++i) expected[i] += bias[i % 3];
  CHECK(run_at(Kernel::gemm_bias(5, 3, 7, Dtype::fp32), {a, b, Floats(15), bias}, 0)[2] ==
        expected);
}

TEST_CASE("rotary embedding turns pairs by their position, leaves values alone, and turns back") {
  constexpr std::int64_t batch = 2, sequence = 5, heads = 3, per_token = 4, size = 6;
  const Floats x = numbers(batch * sequence * per_token * size, 1);
  const auto turn = [&](const Floats& at, bool inverse) {
    return run_at(
        Kernel::rotary(batch, sequence, heads, per_token, size, 100, Dtype::fp32, inverse), {at},
        0)[0];
  };
  const Floats y = turn(x, false);
  CHECK(distance(y, narrow(naive_rotary(wide(x), sequence, heads, per_token, size, 100))) < 1e-6);
  CHECK(distance(turn(y, true), x) < 1e-6);
  const Floats dy = numbers(batch * sequence * per_token * size, 2);
  CHECK(distance(turn(dy, true), difference(wide(x), dy, [&](const Doubles& at) {
                   return naive_rotary(at, sequence, heads, per_token, size, 100);
                 })) < 1e-6);
  for (std::size_t token = 0; token < batch * sequence; ++token)
    for (std::size_t i = 0; i < size; ++i)
      CHECK(y[(token * per_token + heads) * size + i] == x[(token * per_token + heads) * size + i]);
}

TEST_CASE("learned positions are added to every sequence; their gradients are summed over them") {
  constexpr std::int64_t sequence = 3, batch = 2;
  const Floats table = numbers(8 * cols, 1), x = numbers(batch * sequence * cols, 2);
  const Floats y = run_at(Kernel::add_positions(batch * sequence, cols, sequence, Dtype::fp32),
                          {table, x}, 0)[1];
  const Floats d = run_at(Kernel::positions_backward(batch * sequence, cols, sequence, Dtype::fp32),
                          {x, table}, 0)[1];
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(y[i] == x[i] + table[i % (3 * n_cols)]);
  for (std::size_t i = 0; i < table.size(); ++i)
    CHECK(d[i] == (i < 3 * n_cols ? (table[i] + x[i]) + x[i + 3 * n_cols] : table[i]));
}

TEST_CASE("the targets of a language model are the next byte at every position") {
  const auto text = std::make_shared<const std::string>("abcdefghijklmnopqrstuvwxyz");
  std::vector<std::int64_t> cursor{1};
  std::vector<std::int32_t> tokens(3 * 4), targets(3 * 4);
  run(Kernel::text_batch(3, 4, 9, text, 4, 5), {view(cursor), view(tokens), view(targets)});
  for (int s = 0; s < 3; ++s)
    for (int i = 0; i < 4; ++i) {
      CHECK(tokens[static_cast<std::size_t>(s * 4 + i)] == 'a' + 5 * (s + 1) + i);
      CHECK(targets[static_cast<std::size_t>(s * 4 + i)] == 'a' + 5 * (s + 1) + i + 1);
    }
  std::vector<std::int32_t> again(3 * 4), last(3);
  run(Kernel::text_batch(3, 4, 9, text), {view(cursor), view(tokens), view(last)});
  run(Kernel::text_batch(3, 4, 9, text, 4), {view(cursor), view(again), view(targets)});
  CHECK(again == tokens);  // drawn alike
  for (std::size_t s = 0; s < 3; ++s) CHECK(targets[s * 4 + 3] == last[s]);
  cursor[0] = 5;
  CHECK_THROWS_AS(
      run(Kernel::text_batch(1, 4, 9, text, 4, 5), {view(cursor), view(tokens), view(targets)}),
      Error);
}

TEST_CASE("the bits of a transformer's kernels do not depend on where their operands lie") {
  struct Case {
    Kernel kernel;
    std::vector<std::int64_t> sizes;
  };
  constexpr std::int64_t r = 6, c = 45, all = r * c;
  const Dtype t = Dtype::fp32;
  const std::int64_t q = 2 * 3 * 4 * 9, kv = 2 * 3 * 2 * 9;  // batch 2, sequence 3, heads 4 and 2
  for (const auto& [kernel, sizes] : std::vector<Case>{
           {Kernel::norm(r, c, Norm::rms, 1e-5, t), {all, c, 0, all}},
           {Kernel::norm(r, c, Norm::layer, 1e-5, t), {all, c, c, all}},
           {Kernel::norm_backward(r, c, Norm::rms, 1e-5, true, t), {all, all, c, all, c, 0, all}},
           {Kernel::norm_backward(r, c, Norm::layer, 1e-5, false, t), {all, all, c, 0, c, c, all}},
           {Kernel::rotary(2, 3, 1, 3, 15 * 2, 1e4, t), {2 * 3 * 3 * 30}},
           {Kernel::gated_activation(r, c, Activation::silu, t, true), {2 * all, 2 * c, all}},
           {Kernel::gated_activation_backward(r, c, Activation::gelu, t),
            {all, 2 * all, 0, 2 * all}},
           {Kernel::bias_activation(r, c, Activation::silu, t, false), {all, 0, all}},
           {Kernel::residual_add(r, c, t, true), {all, all, c, all}},
           {Kernel::add_positions(r, c, 3, t), {3 * c, all}},
           {Kernel::positions_backward(r, c, 3, t), {all, 3 * c}},
           {Kernel::gemm_bias(r, c, 17, t), {r * 17, 17 * c, all, c}},
           {Kernel::attention(2, 4, 2, 3, 9, true, t), {q + 2 * kv, 0, 0, q, 24}},
           {Kernel::attention_backward(2, 4, 2, 3, 9, true, t),
            {q, q + 2 * kv, 0, 0, q, 24, q + 2 * kv, 0, 0}}}) {
    CAPTURE(name(kernel.op));
    std::vector<Floats> operands;
    for (std::size_t i = 0; i < sizes.size(); ++i) operands.push_back(numbers(sizes[i], i));
    const auto expected = run_at(kernel, operands, 0);
    CHECK(expected != operands);
    for (const std::size_t offset : {1UL, 3UL, 7UL, 13UL})
      CHECK(run_at(kernel, operands, offset) == expected);
  }
}
