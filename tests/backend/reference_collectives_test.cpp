#include "backend/reference_collectives.hpp"

#include <doctest/doctest.h>

#include <bit>
#include <cstring>

#include "backend/core/philox.hpp"
#include "tests/support/errors.hpp"

using namespace orrery;

namespace {

template <class T>
View view(std::vector<T>& values, Dtype dtype) {
  return {values.data(), static_cast<std::int64_t>(values.size()), dtype};
}

template <class T>
std::vector<View> views(std::vector<std::vector<T>>& inputs, Dtype dtype) {
  std::vector<View> all;
  for (auto& input : inputs) all.push_back(view(input, dtype));
  return all;
}

template <class T>
std::vector<T> values_of(std::span<const std::byte> bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

Communication operation(Collective kind, std::int64_t elements, Reduce reduce = Reduce::sum) {
  Communication c;
  c.kind = kind;
  c.elements = elements;
  c.reduce = reduce;
  return c;
}

// What each member gets.
template <class T>
std::vector<std::vector<T>> run(const Communication& c, std::vector<std::vector<T>> inputs,
                                Dtype dtype) {
  const auto results = collective_result(c, views(inputs, dtype));
  std::vector<std::vector<T>> all;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    all.push_back(values_of<T>(result_for(c, results, static_cast<int>(i))));
  return all;
}

}  // namespace

TEST_CASE("a sum folds from the left in group order: the bits tell") {
  const std::vector<std::vector<float>> inputs{{1e8F}, {1.0F}, {-1e8F}, {1.0F}};
  const float left = ((1e8F + 1.0F) + -1e8F) + 1.0F;
  const float right = 1e8F + (1.0F + (-1e8F + 1.0F));
  const float pairs = (1e8F + 1.0F) + (-1e8F + 1.0F);
  REQUIRE(left == 1.0F);
  REQUIRE(right == 0.0F);
  REQUIRE(pairs != left);
  CHECK(run(operation(Collective::all_reduce, 1), inputs, Dtype::fp32)[0][0] == left);
  CHECK(run<float>(operation(Collective::all_reduce, 1), {{1.0F}, {1e8F}, {1.0F}, {-1e8F}},
                   Dtype::fp32)[0][0] == 0.0F);
}

TEST_CASE("random sums are the left fold, bit for bit, for all sizes of group") {
  Random random(5, Purpose::user);
  for (std::size_t members = 1; members <= 9; ++members) {
    std::vector<std::vector<float>> inputs(members, std::vector<float>(33));
    for (auto& input : inputs)
      for (float& x : input) x = static_cast<float>(random.normal() * 1e3);
    const auto sums = run(operation(Collective::all_reduce, 33), inputs, Dtype::fp32);
    const auto means =
        run(operation(Collective::all_reduce, 33, Reduce::mean), inputs, Dtype::fp32);
    for (std::size_t i = 0; i < 33; ++i) {
      float sum = inputs[0][i];
      for (std::size_t m = 1; m < members; ++m) sum += inputs[m][i];
      for (std::size_t m = 0; m < members; ++m) {
        REQUIRE(std::bit_cast<std::uint32_t>(sums[m][i]) == std::bit_cast<std::uint32_t>(sum));
        REQUIRE(means[m][i] == sum / static_cast<float>(members));
      }
    }
  }
}

TEST_CASE("16-bit sums are made in fp32 and rounded once") {
  // Rounding after every addition would lose each 1: neighbours of 256 in bf16 are 2 apart.
  const std::vector<std::uint16_t> big{to_bf16(256.0F)}, one{to_bf16(1.0F)};
  const auto sum =
      run<std::uint16_t>(operation(Collective::all_reduce, 1), {big, one, one}, Dtype::bf16);
  CHECK(from_bf16(sum[0][0]) == 258.0F);
  const std::vector<std::uint16_t> large{to_fp16(60000.0F)};
  const auto mean = run<std::uint16_t>(operation(Collective::all_reduce, 1, Reduce::mean),
                                       {large, large, large}, Dtype::fp16);
  CHECK(from_fp16(mean[0][0]) == from_fp16(to_fp16(60000.0F)));  // the sum alone would overflow
}

TEST_CASE("integers and fp64 add in their own type") {
  CHECK(run<std::int64_t>(operation(Collective::all_reduce, 1),
                          {{(std::int64_t{1} << 60) + 1}, {1}},
                          Dtype::int64)[1][0] == (std::int64_t{1} << 60) + 2);
  CHECK(run<std::int32_t>(operation(Collective::all_reduce, 1, Reduce::mean), {{7}, {2}},
                          Dtype::int32)[0][0] == 4);
  CHECK(run<double>(operation(Collective::all_reduce, 1), {{1.0}, {0x1p-40}}, Dtype::fp64)[0][0] ==
        1.0 + 0x1p-40);
}

TEST_CASE("a reduction of bytes has no meaning and is refused") {
  std::vector<std::vector<std::uint8_t>> inputs{{1}, {2}};
  CHECK(error_of([&] {
          collective_result(operation(Collective::all_reduce, 1), views(inputs, Dtype::uint8));
        }).category() == Category::invalid_program);
}

TEST_CASE("all_gather concatenates in group order; any type passes") {
  const auto all = run<std::uint8_t>(operation(Collective::all_gather, 6), {{1, 2}, {3, 4}, {5, 6}},
                                     Dtype::uint8);
  for (const auto& member : all) CHECK(member == std::vector<std::uint8_t>{1, 2, 3, 4, 5, 6});
}

TEST_CASE("reduce_scatter gives each member its part of the sum, equal to all_reduce's bits") {
  const std::vector<std::vector<float>> inputs{
      {1e8F, 2, 3, 4, 5, 6}, {1, 20, 30, 40, 50, 60}, {-1e8F, 200, 300, 400, 500, 600}};
  const auto whole = run(operation(Collective::all_reduce, 6), inputs, Dtype::fp32)[0];
  const auto parts = run(operation(Collective::reduce_scatter, 6), inputs, Dtype::fp32);
  for (std::size_t m = 0; m < 3; ++m)
    CHECK(parts[m] == std::vector<float>(whole.begin() + static_cast<std::ptrdiff_t>(2 * m),
                                         whole.begin() + static_cast<std::ptrdiff_t>(2 * m + 2)));
  const auto means =
      run(operation(Collective::reduce_scatter, 6, Reduce::mean), inputs, Dtype::fp32);
  CHECK(means[1][0] == 333.0F / 3.0F);
}

TEST_CASE("broadcast gives everyone the root's buffer") {
  Communication c = operation(Collective::broadcast, 2);
  c.root = 2;
  for (const auto& member : run<float>(c, {{1, 2}, {3, 4}, {5, 6}}, Dtype::fp32))
    CHECK(member == std::vector<float>{5, 6});
}

TEST_CASE("all_to_all transposes: member i gets part i of everyone, in group order") {
  const auto all = run<std::int32_t>(
      operation(Collective::all_to_all, 6),
      {{1, 2, 3, 4, 5, 6}, {11, 12, 13, 14, 15, 16}, {21, 22, 23, 24, 25, 26}}, Dtype::int32);
  CHECK(all[0] == std::vector<std::int32_t>{1, 2, 11, 12, 21, 22});
  CHECK(all[2] == std::vector<std::int32_t>{5, 6, 15, 16, 25, 26});
}

TEST_CASE("a send reaches the receiver alone, an exchange swaps") {
  std::vector<std::vector<float>> inputs{{1, 2}, {}};
  const Communication send = operation(Collective::send, 2);
  const auto results = collective_result(send, views(inputs, Dtype::fp32));
  CHECK(result_for(send, results, 0).empty());
  CHECK(values_of<float>(result_for(send, results, 1)) == std::vector<float>{1, 2});
  const auto swapped =
      run<float>(operation(Collective::exchange, 2), {{1, 2}, {3, 4}}, Dtype::fp32);
  CHECK(swapped[0] == std::vector<float>{3, 4});
  CHECK(swapped[1] == std::vector<float>{1, 2});
}
