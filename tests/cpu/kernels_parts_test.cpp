// Kernels on parts of a sequence or of a vocabulary add up to the kernels on the whole.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/cpu/kernel_run.hpp"

namespace orrery {
namespace {

constexpr std::int64_t batch = 2, heads = 2, length = 8, size = 4;

TEST_CASE("attention to halves of the keys, merged, is attention to all") {
  const std::int64_t n = batch * length * heads * size, s = batch * heads * length;
  Floats q = numbers(n, 1), k = numbers(n, 2), v = numbers(n, 3);
  Floats whole(n), whole_s(s), o(n), o_s(s), other(n), other_s(s), late_k(n), late_v(n);
  const auto attend = [&](AttentionPart which, Floats& keys, Floats& values, Floats& out,
                          Floats& statistics) {
    run(Kernel::attention(batch, heads, heads, length, size, which, Dtype::fp32),
        {view(q), view(keys), view(values), view(out), view(statistics)});
  };
  attend(AttentionPart::full, k, v, whole, whole_s);
  attend(AttentionPart::early_keys, k, v, o, o_s);
  // The later half of the keys in the place of the earlier.
  const std::int64_t half = length / 2 * heads * size;
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t at = b * 2 * half;
    std::copy_n(k.begin() + at + half, half, late_k.begin() + at);
    std::copy_n(v.begin() + at + half, half, late_v.begin() + at);
  }
  attend(AttentionPart::early_keys, late_k, late_v, other, other_s);
  run(Kernel::attention_merge(batch, heads, length, size, AttentionPart::full, Dtype::fp32),
      {view(o), view(o_s), view(other), view(other_s)});
  CHECK(distance(o, whole) < 2e-6);
  CHECK(distance(o_s, whole_s) < 2e-6);
}

TEST_CASE("late queries are those of the second half, and the others are left alone") {
  const std::int64_t n = batch * length * heads * size, s = batch * heads * length;
  Floats q = numbers(n, 1), k = numbers(n, 2), v = numbers(n, 3), whole(n), statistics(s);
  run(Kernel::attention(batch, heads, heads, length, size, AttentionPart::full, Dtype::fp32),
      {view(q), view(k), view(v), view(whole), view(statistics)});
  Floats late(n, 7.0F);
  run(Kernel::attention(batch, heads, heads, length, size, AttentionPart::late_queries,
                        Dtype::fp32),
      {view(q), view(k), view(v), view(late), view(statistics)});
  const std::int64_t half = length / 2 * heads * size;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t i = 0; i < 2 * half; ++i) {
      const auto at = static_cast<std::size_t>(b * 2 * half + i);
      CHECK(late[at] == (i < half ? 7.0F : whole[at]));
    }
}

TEST_CASE("the loss over parts of a vocabulary is that over the whole, and so is its gradient") {
  const std::int64_t rows = 5, vocabulary = 12, parts = 3, cols = vocabulary / parts;
  Floats logits = numbers(rows * vocabulary, 4, 3), loss(1), whole = logits, shared_loss(1);
  std::vector<std::int32_t> targets{0, 11, 5, 4, 7};
  run(Kernel::cross_entropy(rows, vocabulary, 0.25, Dtype::fp32),
      {view(whole), view(targets), view(loss)});
  std::vector<Floats> part(3, Floats(static_cast<std::size_t>(rows * cols)));
  Floats maxima(5, -1e30F), sums(10), max(5), sum(10);
  for (std::int64_t p = 0; p < parts; ++p) {
    Floats& mine = part[static_cast<std::size_t>(p)];
    for (std::int64_t row = 0; row < rows; ++row)
      std::copy_n(logits.begin() + row * vocabulary + p * cols, cols, mine.begin() + row * cols);
    run(Kernel::row_maximum(rows, cols, Dtype::fp32), {view(mine), view(max)});
    for (std::size_t i = 0; i < 5; ++i) maxima[i] = std::max(maxima[i], max[i]);
  }
  for (std::int64_t p = 0; p < parts; ++p) {
    run(Kernel::softmax_sums(rows, cols, p * cols, Dtype::fp32),
        {view(part[static_cast<std::size_t>(p)]), view(targets), view(maxima), view(sum)});
    for (std::size_t i = 0; i < 10; ++i) sums[i] += sum[i];
  }
  for (std::int64_t p = 0; p < parts; ++p) {
    Floats& mine = part[static_cast<std::size_t>(p)];
    shared_loss[0] = 0;
    run(Kernel::softmax_gradient(rows, cols, p * cols, 0.25, Dtype::fp32),
        {view(mine), view(targets), view(sums), view(shared_loss)});
    CHECK(shared_loss[0] == doctest::Approx(loss[0]).epsilon(1e-6));
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t i = 0; i < cols; ++i)
        CHECK(mine[static_cast<std::size_t>(row * cols + i)] ==
              doctest::Approx(whole[static_cast<std::size_t>(row * vocabulary + p * cols + i)])
                  .epsilon(1e-5)
                  .scale(0.01));
  }
}

TEST_CASE("rows of an embedding lie in one part of the table, and parts add up") {
  Floats table = numbers(6 * 3, 1), whole(4 * 3), sum(4 * 3, 0.0F), part(4 * 3);
  std::vector<std::int32_t> tokens{5, 0, 3, 2};
  run(Kernel::embedding(4, 3, 6, Dtype::fp32), {view(tokens), view(table), view(whole)});
  for (std::int64_t p = 0; p < 2; ++p) {
    Floats mine(table.begin() + p * 9, table.begin() + (p + 1) * 9);
    run(Kernel::embedding(4, 3, 3, Dtype::fp32, 3 * p, true),
        {view(tokens), view(mine), view(part)});
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
  }
  CHECK(sum == whole);
}

TEST_CASE("permuting and reordering forth and back changes nothing") {
  Floats x = numbers(2 * 3 * 4, 1), y(24), z(24, 0.0F);
  run(Kernel::permute(3, 2, 4, 8, 4, Dtype::fp32), {view(x), view(y)});
  CHECK(Floats(y.begin() + 12, y.begin() + 16) == Floats(x.begin() + 4, x.begin() + 8));
  run(Kernel::permute(3, 2, 4, 8, 4, Dtype::fp32, true), {view(z), view(y)});
  CHECK(z == x);
  const SequencePart part{0, 3, true};  // parts (0, 5), (1, 4), (2, 3) of six tokens
  Floats apart{0, 5, 1, 4, 2, 3}, ordered(6), again(6);
  run(Kernel::reorder(1, 2, 1, Dtype::fp32, part), {view(apart), view(ordered)});
  CHECK(ordered == Floats{0, 1, 2, 3, 4, 5});
  run(Kernel::reorder(1, 2, 1, Dtype::fp32, part, true), {view(ordered), view(again)});
  CHECK(again == apart);
}

}  // namespace
}  // namespace orrery
