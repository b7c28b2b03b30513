// Every kernel body against sums written out plainly, or against finite differences.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "backend/core/error.hpp"
#include "tests/cpu/kernel_run.hpp"

using namespace orrery;

namespace {

// d f / d x by central differences, f in double.
Floats slope(Floats x, const std::function<double(Floats&)>& f, float h = 1e-2F) {
  Floats gradient(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float at = x[i];
    x[i] = at + h;
    const double above = f(x);
    x[i] = at - h;
    gradient[i] = static_cast<float>((above - f(x)) / (2.0 * static_cast<double>(h)));
    x[i] = at;
  }
  return gradient;
}

double dot(const Floats& a, const Floats& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

float naive_gelu(float x) {
  const auto d = static_cast<double>(x);
  return static_cast<float>(0.5 * d * (1 + std::erf(d / std::sqrt(2.0))));
}

}  // namespace

TEST_CASE("gemm is the product of its matrices, transposed and accumulated as told") {
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {1, 1, 1}, {3, 5, 7}, {1, 33, 9}, {40, 1, 17}, {16, 16, 16}, {65, 31, 130}})
    for (int flags = 0; flags < 8; ++flags) {
      const bool ta = (flags & 1) != 0, tb = (flags & 2) != 0, add = (flags & 4) != 0;
      Floats a = numbers(m * k, 1), b = numbers(k * n, 2), c = numbers(m * n, 3);
      Floats expected = c;
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < n; ++j) {
          double sum = 0;
          for (std::int64_t l = 0; l < k; ++l)
            sum += static_cast<double>(a[static_cast<std::size_t>(ta ? l * m + i : i * k + l)]) *
                   static_cast<double>(b[static_cast<std::size_t>(tb ? j * k + l : l * n + j)]);
          float& e = expected[static_cast<std::size_t>(i * n + j)];
          e = static_cast<float>(sum + (add ? static_cast<double>(e) : 0));
        }
      run(Kernel::gemm(m, n, k, Dtype::fp32, ta, tb, add), {view(a), view(b), view(c)});
      CHECK(distance(c, expected) < 1e-4);
    }
}

TEST_CASE("bias and activation: none, relu, gelu in its exact form") {
  constexpr std::int64_t rows = 5, cols = 37;
  Floats x = numbers(rows * cols, 1, 3), b = numbers(cols, 2), y(x.size());
  for (const Activation activation : {Activation::none, Activation::relu, Activation::gelu}) {
    run(Kernel::bias_activation(rows, cols, activation, Dtype::fp32), {view(x), view(b), view(y)});
    Floats expected(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float z = x[i] + b[i % cols];
      expected[i] = activation == Activation::none   ? z
                    : activation == Activation::relu ? std::max(z, 0.0F)
                                                     : naive_gelu(z);
    }
    CHECK(distance(y, expected) < 2e-6);
  }
}

TEST_CASE("the gradient of bias and activation agrees with finite differences") {
  constexpr std::int64_t rows = 3, cols = 11;
  Floats x = numbers(rows * cols, 1), b = numbers(cols, 2), dy = numbers(rows * cols, 3);
  for (const Activation activation : {Activation::none, Activation::relu, Activation::gelu}) {
    const Kernel forward = Kernel::bias_activation(rows, cols, activation, Dtype::fp32);
    Floats dx(x.size());
    run(Kernel::bias_activation_backward(rows, cols, activation, Dtype::fp32),
        {view(dy), view(x), view(b), view(dx)});
    const Floats expected = slope(
        x,
        [&](Floats& at) {
          Floats y(x.size());
          run(forward, {view(at), view(b), view(y)});
          return dot(y, dy);
        },
        1e-3F);
    CHECK(distance(dx, expected) < 2e-3);
  }
}

TEST_CASE("a sum over rows adds to what is there") {
  constexpr std::int64_t rows = 9, cols = 300;
  Floats x = numbers(rows * cols, 1), y = numbers(cols, 2), expected = y;
  for (std::size_t i = 0; i < static_cast<std::size_t>(cols); ++i) {
    double sum = 0;
    for (std::size_t row = 0; row < rows; ++row) sum += static_cast<double>(x[row * cols + i]);
    expected[i] = static_cast<float>(static_cast<double>(y[i]) + sum);
  }
  run(Kernel::column_sum(rows, cols, Dtype::fp32), {view(x), view(y)});
  CHECK(distance(y, expected) < 1e-5);
}

TEST_CASE("an embedding looks up rows; its gradient adds them where they came from") {
  std::vector<std::int32_t> tokens{2, 0, 2, 3};
  Floats table = numbers(4 * 6, 1), y(4 * 6), dy = numbers(4 * 6, 2), dtable(4 * 6, 1.0F);
  run(Kernel::embedding(4, 6, 4, Dtype::fp32), {view(tokens), view(table), view(y)});
  run(Kernel::embedding_backward(4, 6, 4, Dtype::fp32), {view(tokens), view(dy), view(dtable)});
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t row = 0; row < 4; ++row)
      CHECK(y[row * 6 + i] == table[static_cast<std::size_t>(tokens[row]) * 6 + i]);
    CHECK(dtable[0 * 6 + i] == 1.0F + dy[1 * 6 + i]);
    CHECK(dtable[1 * 6 + i] == 1.0F);
    CHECK(dtable[2 * 6 + i] == (1.0F + dy[0 * 6 + i]) + dy[2 * 6 + i]);
  }
  tokens[1] = 4;
  CHECK_THROWS_AS(
      run(Kernel::embedding(4, 6, 4, Dtype::fp32), {view(tokens), view(table), view(y)}), Error);
}

TEST_CASE("cross-entropy is stable, and its gradient agrees with finite differences") {
  constexpr std::int64_t rows = 4, vocabulary = 19;
  std::vector<std::int32_t> targets{0, 18, 7, 7};
  const Floats logits = numbers(rows * vocabulary, 1, 2);
  const auto loss_of = [&](const Floats& at) {
    double loss = 0;
    for (std::size_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (std::size_t i = 0; i < vocabulary; ++i)
        sum += std::exp(static_cast<double>(at[row * vocabulary + i]));
      loss += std::log(sum) -
              static_cast<double>(at[row * vocabulary + static_cast<std::size_t>(targets[row])]);
    }
    return 0.25 * loss;
  };
  const Kernel kernel = Kernel::cross_entropy(rows, vocabulary, 0.25, Dtype::fp32);
  Floats gradient = logits, loss{10.0F};
  run(kernel, {view(gradient), view(targets), view(loss)});
  CHECK(static_cast<double>(loss[0]) == doctest::Approx(10 + loss_of(logits)).epsilon(1e-6));
  CHECK(distance(gradient, slope(logits, [&](Floats& at) { return loss_of(at); })) < 1e-5);
  Floats large = logits, loss_of_large{0.0F};
  for (float& x : large) x += 1e4F;
  run(kernel, {view(large), view(targets), view(loss_of_large)});
  CHECK(std::isfinite(loss_of_large[0]));
  Floats infinite = logits, loss_of_nan{0.0F};
  infinite[3] = std::numeric_limits<float>::quiet_NaN();
  run(kernel, {view(infinite), view(targets), view(loss_of_nan)});
  CHECK(std::isnan(loss_of_nan[0]));
  targets[2] = 19;
  CHECK_THROWS_AS(run(kernel, {view(gradient), view(targets), view(loss)}), Error);
}

TEST_CASE("the gradients of a whole two-layer network agree with finite differences") {
  constexpr std::int64_t batch = 4, in = 5, hidden = 7, out = 6;
  Floats x = numbers(batch * in, 1), w1 = numbers(in * hidden, 2, 0.5), b1 = numbers(hidden, 3);
  Floats w2 = numbers(hidden * out, 4, 0.5), b2 = numbers(out, 5);
  std::vector<std::int32_t> targets{1, 0, 5, 3};
  Floats pre(batch * hidden), h(batch * hidden), scores(batch * out), logits(batch * out);
  const auto forward = [&](Floats& weights1, Floats& bias1, Floats& weights2) {
    Floats loss{0.0F};
    run(Kernel::gemm(batch, hidden, in, Dtype::fp32), {view(x), view(weights1), view(pre)});
    run(Kernel::bias_activation(batch, hidden, Activation::gelu, Dtype::fp32),
        {view(pre), view(bias1), view(h)});
    run(Kernel::gemm(batch, out, hidden, Dtype::fp32), {view(h), view(weights2), view(scores)});
    run(Kernel::bias_activation(batch, out, Activation::none, Dtype::fp32),
        {view(scores), view(b2), view(logits)});
    run(Kernel::cross_entropy(batch, out, 1.0 / batch, Dtype::fp32),
        {view(logits), view(targets), view(loss)});
    return static_cast<double>(loss[0]);
  };
  forward(w1, b1, w2);
  Floats dh(h.size()), dpre(h.size()), dw1(w1.size()), dw2(w2.size()), db1(b1.size());
  run(Kernel::gemm(hidden, out, batch, Dtype::fp32, true), {view(h), view(logits), view(dw2)});
  run(Kernel::gemm(batch, hidden, out, Dtype::fp32, false, true),
      {view(logits), view(w2), view(dh)});
  run(Kernel::bias_activation_backward(batch, hidden, Activation::gelu, Dtype::fp32),
      {view(dh), view(pre), view(b1), view(dpre)});
  run(Kernel::column_sum(batch, hidden, Dtype::fp32), {view(dpre), view(db1)});
  run(Kernel::gemm(in, hidden, batch, Dtype::fp32, true), {view(x), view(dpre), view(dw1)});
  CHECK(distance(dw1, slope(w1, [&](Floats& at) { return forward(at, b1, w2); })) < 2e-3);
  CHECK(distance(dw2, slope(w2, [&](Floats& at) { return forward(w1, b1, at); })) < 2e-3);
  CHECK(distance(db1, slope(b1, [&](Floats& at) { return forward(w1, at, w2); })) < 2e-3);
}

TEST_CASE("linear combinations, with coefficients from operands, in every type") {
  Floats x{1, 2, 3}, y{10, 20, std::numeric_limits<float>::quiet_NaN()}, two{2};
  run(Kernel::linear_combination(3, 3, 0, Dtype::fp32), {view(x), view(y)});
  CHECK(y == Floats{3, 6, 9});
  run(Kernel::linear_combination(3, 1, 0.5, Dtype::fp32, true),
      {view(x), view(y), view(two), View{}});
  CHECK(y == Floats{3.5, 7, 10.5});
  run(Kernel::linear_combination(3, 0, -1, Dtype::fp32), {view(x), view(y)});
  CHECK(y == Floats{-3.5, -7, -10.5});
  std::vector<double> p{1e-12, 2}, q{1, 1};
  run(Kernel::linear_combination(2, 1, 1, Dtype::fp64), {view(p), view(q)});
  CHECK(q == std::vector<double>{1 + 1e-12, 3});
  std::vector<std::int64_t> n{16777217}, total{1};
  run(Kernel::linear_combination(1, 1, 1, Dtype::int64), {view(n), view(total)});
  CHECK(total[0] == 16777218);
}

TEST_CASE("fill, cast, norms and clipping") {
  std::vector<std::int32_t> whole(3);
  run(Kernel::fill(3, 7, Dtype::int32), {view(whole)});
  CHECK(whole == std::vector<std::int32_t>{7, 7, 7});
  Floats x(3);
  run(Kernel::cast(3, Dtype::int32, Dtype::fp32), {view(whole), view(x)});
  CHECK(x == Floats{7, 7, 7});
  std::vector<std::uint16_t> half(3);
  const View stored{half.data(), 3, Dtype::bf16};
  run(Kernel::cast(3, Dtype::fp32, Dtype::bf16), {view(x), stored});
  CHECK(half[0] == to_bf16(7));
  Floats many = numbers(1003, 1), s{0.5F}, scale{0};
  run(Kernel::sum_squares(1003, Dtype::fp32), {view(many), view(s)});
  CHECK(static_cast<double>(s[0]) == doctest::Approx(0.5 + dot(many, many)).epsilon(1e-6));
  s[0] = 16;
  run(Kernel::clip_scale(2), {view(s), view(scale)});
  CHECK(scale[0] == 0.5F);
  run(Kernel::clip_scale(5), {view(s), view(scale)});
  CHECK(scale[0] == 1.0F);
  s[0] = 0;
  run(Kernel::clip_scale(5), {view(s), view(scale)});
  CHECK(scale[0] == 1.0F);
}

TEST_CASE("sgd: plain, momentum, Nesterov, decay, scale, schedule, master copy") {
  Floats g{0.5F}, scale{2}, step{1, 0.5F};
  Floats p{1}, m{3};
  run(Kernel::sgd(1, 0.1, 0, false, 0, Dtype::fp32),
      {view(p), view(g), View{}, View{}, View{}, View{}});
  CHECK(p[0] == doctest::Approx(0.95));
  p[0] = 1;
  run(Kernel::sgd(1, 0.1, 0.9, false, 0.01, Dtype::fp32),
      {view(p), view(g), view(m), View{}, View{}, View{}});
  CHECK(m[0] == doctest::Approx(3.2));
  CHECK(p[0] == doctest::Approx(1 - 0.1 * (3.2 + 0.01)));
  p[0] = 1, m[0] = 3;
  run(Kernel::sgd(1, 0.1, 0.9, true, 0, Dtype::fp32),
      {view(p), view(g), view(m), View{}, view(scale), view(step)});
  CHECK(m[0] == doctest::Approx(3.7));
  CHECK(p[0] == doctest::Approx(1 - 0.05 * (1 + 0.9 * 3.7)));
  std::vector<std::uint16_t> stored{to_bf16(1)};
  const View bf16{stored.data(), 1, Dtype::bf16};
  Floats master{1.0009765625F}, small{0.0009765625F};
  run(Kernel::sgd(1, 1, 0, false, 0, Dtype::bf16),
      {bf16, view(small), View{}, view(master), View{}, View{}});
  CHECK(master[0] == 1.0F);
  CHECK(from_bf16(stored[0]) == 1.0F);
}

TEST_CASE("adamw follows the paper over several steps, with scale and schedule") {
  constexpr std::int64_t n = 33;
  Floats p = numbers(n, 1), m(n), v(n), scale{0.5F};
  std::vector<double> rp(p.begin(), p.end()), rm(n), rv(n);
  for (int t = 1; t <= 5; ++t) {
    Floats g = numbers(n, 10 + static_cast<std::uint64_t>(t)), step{static_cast<float>(t), 0.5F};
    run(Kernel::adamw(n, 0.01, 0.9, 0.95, 1e-8, 0.1, Dtype::fp32),
        {view(p), view(g), view(m), view(v), View{}, view(scale), view(step)});
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      const double gradient = 0.5 * static_cast<double>(g[i]);
      rm[i] = 0.9 * rm[i] + 0.1 * gradient;
      rv[i] = 0.95 * rv[i] + 0.05 * gradient * gradient;
      const double mh = rm[i] / (1 - std::pow(0.9, t)), vh = rv[i] / (1 - std::pow(0.95, t));
      rp[i] -= 0.005 * (mh / (std::sqrt(vh) + 1e-8) + 0.1 * rp[i]);
    }
  }
  CHECK(distance(p, Floats(rp.begin(), rp.end())) < 1e-6);
  CHECK_THROWS_AS(run(Kernel::adamw(n, 0.01, 0.9, 0.95, 1e-8, 0.1, Dtype::fp32),
                      {view(p), view(p), view(m), view(v), View{}, View{}, View{}}),
                  Error);
}

TEST_CASE("initial values do not depend on how a tensor is divided") {
  Floats whole(100), first(60), second(40);
  run(Kernel::initialise(100, 0, 0.02, 5, 3, Dtype::fp32), {view(whole)});
  run(Kernel::initialise(60, 0, 0.02, 5, 3, Dtype::fp32), {view(first)});
  run(Kernel::initialise(40, 60, 0.02, 5, 3, Dtype::fp32), {view(second)});
  first.insert(first.end(), second.begin(), second.end());
  CHECK(first == whole);
  Floats other(100);
  run(Kernel::initialise(100, 0, 0.02, 5, 4, Dtype::fp32), {view(other)});
  CHECK(other != whole);
  const Philox numbers_of(5, Purpose::initial_values);
  CHECK(whole[7] == static_cast<float>(0.02 * numbers_of.normal((std::uint64_t{3} << 40) + 7)));
}

TEST_CASE("a batch of text is drawn by sample number; targets are the next bytes") {
  const auto text =
      std::make_shared<const std::string>("the quick brown fox jumps over\xff the lazy dog");
  constexpr std::int64_t samples = 50, context = 4;
  std::vector<std::int64_t> cursor{7};
  std::vector<std::int32_t> tokens(samples * context), targets(samples);
  run(Kernel::text_batch(samples, context, 9, text), {view(cursor), view(tokens), view(targets)});
  const Philox order(9, Purpose::data_order);
  for (std::size_t s = 0; s < samples; ++s) {
    const std::size_t at = order.below(7 + s, text->size() - context);
    for (std::size_t i = 0; i < context; ++i)
      CHECK(tokens[s * context + i] == static_cast<unsigned char>((*text)[at + i]));
    CHECK(targets[s] == static_cast<unsigned char>((*text)[at + context]));
  }
  const auto tiny = std::make_shared<const std::string>("abc");
  CHECK_THROWS_AS(
      run(Kernel::text_batch(1, 3, 9, tiny), {view(cursor), view(tokens), view(targets)}), Error);
}

TEST_CASE("timing models have no values; timed does nothing; custom runs its body") {
  Floats x(4);
  CHECK_THROWS_AS(
      run(Kernel::implicit_gemm("conv", 1, 1, 1, 4, 4, Dtype::fp32, {Role::update}), {view(x)}),
      Error);
  CHECK_THROWS_AS(run(Kernel::streaming("norm", 4, 4, Dtype::fp32, {Role::update}), {view(x)}),
                  Error);
  run(Kernel::timed("wait", Seconds(1)), {});
  run(Kernel::custom("set", {Role::write},
                     [](auto views) { static_cast<float*>(views[0].data)[2] = 5; }),
      {view(x)});
  CHECK(x == Floats{0, 0, 5, 0});
  Floats few(2);
  CHECK_THROWS_AS(run(Kernel::sum_squares(4, Dtype::fp32), {view(few), view(x)}), Error);
  CHECK_THROWS_AS(run(Kernel::sum_squares(4, Dtype::fp32), {View{}, view(x)}), Error);
}
