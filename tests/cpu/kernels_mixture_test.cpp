// Routers: who is chosen, with what weight, who finds a place, and the gradients of the weights.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/cpu/kernel_run.hpp"

namespace orrery {
namespace {

using Ints = std::vector<std::int32_t>;

TEST_CASE("a router chooses the largest logits, and who comes late finds no place") {
  // Three rows, all of whose first choice is expert 1, which has two places; ties go to the lower.
  Floats logits{0, 3, 1, 0, 4, 4, 2, 5, 0}, weights(6);
  Ints choices(12);
  run(Kernel::route(3, 3, 2, 2, Router::softmax, Dtype::fp32),
      {view(logits), view(weights), view(choices)});
  CHECK(choices == Ints{1, 2, 1, 2, 1, 0, 2, 4, 3, 5, -1, 0});
  const float second = 1 / (1 + std::exp(2.0F));
  CHECK(weights[0] == doctest::Approx(1 - second));
  CHECK(weights[1] == doctest::Approx(second));
  CHECK(weights[2] == doctest::Approx(0.5));
}

TEST_CASE("places are filled by first choices before second ones") {
  Floats logits{2, 1, 1, 2}, weights(4);
  Ints choices(8);
  run(Kernel::route(2, 2, 2, 1, Router::softmax, Dtype::fp32),
      {view(logits), view(weights), view(choices)});
  CHECK(choices == Ints{0, 1, 1, 0, 0, -1, 1, -1});
}

TEST_CASE("a bias chooses experts and has no part in their weights, who chose is counted") {
  Floats logits{2, 1, 0, 2, 1, 0}, bias{0, 0, 0.5F}, counts{5, 0, 0}, weights(4), plain(4);
  Ints choices(8);
  run(Kernel::route(2, 3, 2, 1, Router::sigmoid, Dtype::fp32),
      {view(logits), view(weights), view(choices), view(bias), view(counts)});
  // sigmoids 0.88, 0.73, 0.50 + 0.5: the last first, and expert 1 not at all. Who finds no place
  // counts as well.
  CHECK(choices == Ints{2, 0, 2, 0, 2, 0, -1, -1});
  CHECK(counts == Floats{7, 0, 2});
  const float first = 0.5F, second = 1 / (1 + std::exp(-2.0F));
  CHECK(weights[0] == doctest::Approx(first / (first + second)));
  CHECK(weights[1] == doctest::Approx(second / (first + second)));
}

TEST_CASE("a router's weights sum to one over the chosen, or over all") {
  Floats logits = numbers(40, 3), weights(16);
  Ints choices(32);
  for (const Router router : {Router::softmax, Router::softmax_all, Router::sigmoid}) {
    run(Kernel::route(8, 5, 2, 8, router, Dtype::fp32),
        {view(logits), view(weights), view(choices)});
    for (std::size_t row = 0; row < 8; ++row) {
      const double sum = static_cast<double>(weights[2 * row]) + weights[2 * row + 1];
      double all = 0;
      for (std::size_t e = 0; e < 5; ++e) all += std::exp(static_cast<double>(logits[5 * row + e]));
      const auto first = static_cast<std::size_t>(choices[2 * row]);
      if (router == Router::softmax_all)
        CHECK(weights[2 * row] == doctest::Approx(std::exp(logits[5 * row + first]) / all));
      else
        CHECK(sum == doctest::Approx(1));
    }
  }
}

TEST_CASE("the gradient of a router's weights is that of finite differences") {
  for (const Router router : {Router::softmax, Router::softmax_all, Router::sigmoid}) {
    Floats logits = numbers(20, 7), weights(8), d_weights = numbers(8, 9), d_logits(20);
    Ints choices(16);
    const auto weigh = [&](Floats& at, Floats& to, Ints& chosen) {
      run(Kernel::route(4, 5, 2, 4, router, Dtype::fp32), {view(at), view(to), view(chosen)});
    };
    weigh(logits, weights, choices);
    run(Kernel::route_backward(4, 5, 2, router, Dtype::fp32),
        {view(d_weights), view(logits), view(weights), view(choices), view(d_logits)});
    for (std::size_t i = 0; i < logits.size(); ++i) {
      double change = 0;
      for (const float h : {0.01F, -0.01F}) {
        Floats moved = logits, there(8);
        Ints chosen(16);
        moved[i] += h;
        weigh(moved, there, chosen);
        REQUIRE(chosen == choices);
        for (std::size_t j = 0; j < 8; ++j)
          change += (h > 0 ? 1 : -1) * static_cast<double>(d_weights[j]) * there[j] / 0.02;
      }
      CHECK(static_cast<double>(d_logits[i]) == doctest::Approx(change).epsilon(0.01).scale(0.1));
    }
  }
}

TEST_CASE("dispatch and combine are each other's transpose, but for the weights") {
  Floats x = numbers(6 * 3, 1), weights = numbers(12, 2), d(8 * 3), y(6 * 3, 0.0F);
  Ints choices(24, 0);
  const Ints places{0, 2, 1, 3, -1, 4, 5, -1, 6, 7, -1, -1};
  std::copy(places.begin(), places.end(), choices.begin() + 12);
  run(Kernel::dispatch(6, 3, 2, 8, Dtype::fp32), {view(x), view(choices), view(d)});
  CHECK(Floats(d.begin() + 3 * 4, d.begin() + 3 * 5) == Floats(x.begin() + 6, x.begin() + 9));
  run(Kernel::combine(6, 3, 2, 8, Dtype::fp32), {view(d), view(weights), view(choices), view(y)});
  for (std::size_t row = 0; row < 6; ++row) {
    float sum = 0;
    for (std::size_t i = 0; i < 2; ++i)
      if (places[2 * row + i] >= 0) sum += weights[2 * row + i];
    for (std::size_t j = 0; j < 3; ++j)
      CHECK(y[3 * row + j] == doctest::Approx(sum * x[3 * row + j]).epsilon(1e-5));
  }
  // <dispatch x, g> = <x, dispatch_backward g>.
  Floats g = numbers(8 * 3, 4), back(6 * 3);
  run(Kernel::dispatch_backward(6, 3, 2, 8, 1, Dtype::fp32), {view(g), view(choices), view(back)});
  CHECK(dot(wide(d), wide(g)) == doctest::Approx(dot(wide(x), wide(back))));
}

TEST_CASE("a grouped product is the products of its groups, bit for bit") {
  Floats a = numbers(3 * 4 * 5, 1), b = numbers(3 * 5 * 6, 2), c(3 * 4 * 6), one(4 * 6);
  run(Kernel::grouped_gemm(3, 4, 6, 5, Dtype::fp32), {view(a), view(b), view(c)});
  for (std::ptrdiff_t group = 0; group < 3; ++group) {
    Floats left(a.begin() + 20 * group, a.begin() + 20 * (group + 1)),
        right(b.begin() + 30 * group, b.begin() + 30 * (group + 1));
    run(Kernel::gemm(4, 6, 5, Dtype::fp32), {view(left), view(right), view(one)});
    CHECK(one == Floats(c.begin() + 24 * group, c.begin() + 24 * (group + 1)));
  }
}

}  // namespace
}  // namespace orrery
