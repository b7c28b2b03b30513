// Products in fp8 against their definition, written out in double.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "backend/fp8.hpp"
#include "tests/cpu/kernel_run.hpp"

using namespace orrery;

namespace {

struct Shape8 {
  std::int64_t m, n, k;
  bool transpose_a, transpose_b;
};

Kernel kernel_of(const Shape8& s, const Fp8Product& how, bool accumulate = false) {
  return in_fp8(Kernel::gemm(s.m, s.n, s.k, Dtype::fp8, s.transpose_a, s.transpose_b, accumulate),
                how);
}

double largest(const Doubles& x) {
  double most = 0;
  for (const double v : x) most = std::max(most, std::fabs(v));
  return most;
}

// op(A) by rows of the depth, or op(B)' likewise.
Doubles by_rows(const Floats& x, std::int64_t rows, std::int64_t depth, bool transposed) {
  Doubles out(x.size());
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t d = 0; d < depth; ++d)
      out[static_cast<std::size_t>(i * depth + d)] = static_cast<double>(
          x[static_cast<std::size_t>(transposed ? d * rows + i : i * depth + d)]);
  return out;
}

// What the numbers x[rows, depth] stand for when they are rounded with a scale for each block.
Doubles rounded(const Doubles& x, std::int64_t rows, std::int64_t depth, std::int64_t tall,
                std::int64_t wide, Fp8Scaling scaling, Float8 type) {
  std::map<std::pair<std::int64_t, std::int64_t>, double> largest_of_block;
  const auto each = [&](const auto& action) {
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t d = 0; d < depth; ++d)
        action(static_cast<std::size_t>(i * depth + d), largest_of_block[{i / tall, d / wide}]);
  };
  each([&](std::size_t at, double& most) { most = std::max(most, std::fabs(x[at])); });
  Doubles out(x.size());
  each([&](std::size_t at, double most) {
    const float scale = fp8_scale(scaling, static_cast<float>(most), type);
    out[at] = static_cast<double>(from_fp8(to_fp8(static_cast<float>(x[at]) * scale, type), type)) /
              static_cast<double>(scale);
  });
  return out;
}

struct Blocks {
  Fp8Product how;
  std::int64_t a_tall, b_tall, wide;
};
constexpr std::int64_t everything = 1 << 20;
const Blocks all_blocks[] = {
    {{Fp8Scaling::tensor}, everything, everything, everything},
    {{Fp8Scaling::tensor, Float8::e5m2, Float8::e4m3}, everything, everything, everything},
    {{Fp8Scaling::tensor, Float8::e4m3, Float8::e5m2}, everything, everything, everything},
    {{Fp8Scaling::block}, 1, 1, 128},
    {{Fp8Scaling::block, Float8::e4m3, Float8::e4m3, true}, 1, 128, 128},
    {{Fp8Scaling::mx}, 1, 1, 32}};

// Rows of such different sizes that scales of blocks differ.
Floats uneven(std::int64_t n, std::uint64_t seed) {
  Floats x = numbers(n, seed);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= std::exp2(static_cast<float>(i % 61) / 8 - 4);
  return x;
}

std::vector<View> with_largest(std::vector<View> views, const Fp8Product& how, Floats* a = nullptr,
                               Floats* b = nullptr) {
  if (how.scaling != Fp8Scaling::tensor) return views;
  if (views.size() < 4) views.push_back({});
  views.push_back(a != nullptr ? view(*a) : View{});
  views.push_back(b != nullptr ? view(*b) : View{});
  return views;
}

}  // namespace

TEST_CASE("a product in fp8 is that of its rounded operands, by blocks along the depth") {
  for (const Blocks& blocks : all_blocks)
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        const Shape8 s{7, 130, 150, ta, tb};
        Floats a = uneven(s.m * s.k, 1), b = uneven(s.k * s.n, 2), c = numbers(s.m * s.n, 3);
        const Floats before = c;
        const Doubles a8 = rounded(by_rows(a, s.m, s.k, ta), s.m, s.k, blocks.a_tall, blocks.wide,
                                   blocks.how.scaling, blocks.how.a),
                      b8 = rounded(by_rows(b, s.n, s.k, !tb), s.n, s.k, blocks.b_tall, blocks.wide,
                                   blocks.how.scaling, blocks.how.b);
        const auto views = with_largest({view(a), view(b), view(c)}, blocks.how);
        cpu_bodies().run(kernel_of(s, blocks.how, true), views);
        double off = 0, most = 0;
        for (std::int64_t i = 0; i < s.m; ++i)
          for (std::int64_t j = 0; j < s.n; ++j) {
            const auto at = static_cast<std::size_t>(i * s.n + j);
            double sum = static_cast<double>(before[at]);
            for (std::int64_t d = 0; d < s.k; ++d)
              sum += a8[static_cast<std::size_t>(i * s.k + d)] *
                     b8[static_cast<std::size_t>(j * s.k + d)];
            off = std::max(off, std::fabs(sum - static_cast<double>(c[at])));
            most = std::max(most, std::fabs(sum));
          }
        CHECK(off < 1e-5 * most);
      }
}

// Each factor is off by half a unit in the last place at most: 2^-4 of it in E4M3, or, of those far
// below the largest, 2^-10 units of the scale.
TEST_CASE("a product in fp8 is within the rounding of its factors of the exact one") {
  const Shape8 s{16, 24, 96, false, false};
  const Floats a = numbers(s.m * s.k, 1), b = numbers(s.k * s.n, 2);
  const double least_a = largest(wide(a)) / 448 * 0x1p-10,
               least_b = largest(wide(b)) / 448 * 0x1p-10;
  Floats x = a, y = b, c(static_cast<std::size_t>(s.m * s.n));
  cpu_bodies().run(kernel_of(s, {Fp8Scaling::tensor}),
                   with_largest({view(x), view(y), view(c)}, {Fp8Scaling::tensor}));
  bool differs = false;
  for (std::int64_t i = 0; i < s.m; ++i)
    for (std::int64_t j = 0; j < s.n; ++j) {
      double exact = 0, bound = 0;
      for (std::int64_t d = 0; d < s.k; ++d) {
        const auto u = static_cast<double>(a[static_cast<std::size_t>(i * s.k + d)]),
                   v = static_cast<double>(b[static_cast<std::size_t>(d * s.n + j)]);
        const double off_u = std::max(std::fabs(u) * 0x1p-4, least_a),
                     off_v = std::max(std::fabs(v) * 0x1p-4, least_b);
        exact += u * v;
        bound += std::fabs(u) * off_v + std::fabs(v) * off_u + off_u * off_v;
      }
      const double off =
          std::fabs(exact - static_cast<double>(c[static_cast<std::size_t>(i * s.n + j)]));
      CHECK(off <= 1.0001 * bound);
      differs = differs || off > 1e-3;
    }
  CHECK(differs);
}

TEST_CASE("the cast to fp8 finds the largest magnitude, which a product then takes") {
  const Shape8 s{3, 5, 40, false, false};
  const Fp8Product how{Fp8Scaling::tensor};
  Floats a = numbers(s.m * s.k, 1), b = numbers(s.k * s.n, 2), of_a(1), of_b(1);
  a[17] = -9;
  run(fp8_cast(s.m * s.k, Fp8Scaling::tensor, Dtype::fp32), {view(a), view(of_a)});
  run(fp8_cast(s.k * s.n, Fp8Scaling::tensor, Dtype::fp32), {view(b), view(of_b)});
  CHECK(of_a[0] == 9);
  Floats own(static_cast<std::size_t>(s.m * s.n)), given = own, halved = own;
  const auto multiply = [&](Floats& c, Floats* largest_a, Floats* largest_b) {
    cpu_bodies().run(kernel_of(s, how),
                     with_largest({view(a), view(b), view(c)}, how, largest_a, largest_b));
  };
  multiply(own, nullptr, nullptr);
  multiply(given, &of_a, &of_b);
  CHECK(given == own);
  of_a[0] = 4.5F;  // what is beyond becomes 4.5
  multiply(halved, &of_a, &of_b);
  CHECK(halved != own);
}

TEST_CASE("a cast with scales per block finds nothing") {
  Floats x = numbers(64, 1);
  for (const Fp8Scaling scaling : {Fp8Scaling::block, Fp8Scaling::mx})
    run(fp8_cast(64, scaling, Dtype::fp32), {view(x), View{}});
  CHECK(x == numbers(64, 1));
}

TEST_CASE("the products of a group share a scale per tensor, and have blocks of their own") {
  constexpr std::int64_t groups = 3, m = 2, n = 4, k = 33;
  for (const Blocks& blocks : all_blocks) {
    Floats a = uneven(groups * m * k, 1), b = uneven(groups * k * n, 2),
           all(static_cast<std::size_t>(groups * m * n)), one(m * n);
    Floats of_a{static_cast<float>(largest(wide(a)))}, of_b{static_cast<float>(largest(wide(b)))};
    cpu_bodies().run(in_fp8(Kernel::grouped_gemm(groups, m, n, k, Dtype::fp8), blocks.how),
                     with_largest({view(a), view(b), view(all)}, blocks.how));
    for (std::int64_t g = 0; g < groups; ++g) {
      const View part_a{a.data() + g * m * k, m * k, Dtype::fp32},
          part_b{b.data() + g * k * n, k * n, Dtype::fp32};
      cpu_bodies().run(kernel_of({m, n, k, false, false}, blocks.how),
                       with_largest({part_a, part_b, view(one)}, blocks.how, &of_a, &of_b));
      CHECK(std::equal(one.begin(), one.end(), all.begin() + g * m * n));
    }
  }
}

TEST_CASE("products take operands from storage in fp8 as they are") {
  std::vector<std::uint8_t> a{to_fp8(3), to_fp8(-0.5F)}, b{to_fp8(2), to_fp8(8)};
  Floats c(1);
  run(Kernel::gemm(1, 1, 2, Dtype::fp8),
      {View{a.data(), 2, Dtype::fp8}, View{b.data(), 2, Dtype::fp8}, view(c)});
  CHECK(c[0] == 2);
}
