// Attention's bodies against the softmax written out in double, and finite differences of it.
#include <doctest/doctest.h>

#include "backend/core/error.hpp"
#include "tests/cpu/kernel_run.hpp"

using namespace orrery;

namespace {

struct Shape {
  std::size_t batch, heads, kv_heads, sequence, size;
  bool causal;
  std::int64_t q() const { return static_cast<std::int64_t>(batch * sequence * heads * size); }
  std::int64_t kv() const { return static_cast<std::int64_t>(batch * sequence * kv_heads * size); }
  std::int64_t statistics() const { return static_cast<std::int64_t>(batch * heads * sequence); }
  Kernel kernel(bool backward, Dtype dtype = Dtype::fp32) const {
    const auto i = [](std::size_t v) { return static_cast<std::int64_t>(v); };
    const auto which = causal ? AttentionPart::causal : AttentionPart::full;
    return backward ? Kernel::attention_backward(i(batch), i(heads), i(kv_heads), i(sequence),
                                                 i(size), which, dtype)
                    : Kernel::attention(i(batch), i(heads), i(kv_heads), i(sequence), i(size),
                                        which, dtype);
  }
};

const std::vector<Shape> shapes{
    {2, 4, 2, 7, 6, true}, {1, 3, 1, 5, 4, false}, {2, 2, 2, 9, 5, true}, {1, 1, 1, 1, 8, true}};

Doubles naive_attention(const Shape& s, const Doubles& q, const Doubles& k, const Doubles& v,
                        Doubles* statistics = nullptr) {
  Doubles o(q.size());
  const double scale = 1 / std::sqrt(static_cast<double>(s.size));
  for (std::size_t b = 0; b < s.batch; ++b)
    for (std::size_t h = 0; h < s.heads; ++h)
      for (std::size_t row = 0; row < s.sequence; ++row) {
        const std::size_t kv = h / (s.heads / s.kv_heads), n = s.causal ? row + 1 : s.sequence;
        const std::size_t at = ((b * s.sequence + row) * s.heads + h) * s.size;
        const auto of = [&](std::size_t j) {
          return ((b * s.sequence + j) * s.kv_heads + kv) * s.size;
        };
        Doubles p(n);
        double sum = 0;
        for (std::size_t j = 0; j < n; ++j) {
          for (std::size_t i = 0; i < s.size; ++i) p[j] += q[at + i] * k[of(j) + i];
          p[j] = std::exp(scale * p[j]);
          sum += p[j];
        }
        for (std::size_t j = 0; j < n; ++j)
          for (std::size_t i = 0; i < s.size; ++i) o[at + i] += p[j] / sum * v[of(j) + i];
        if (statistics != nullptr)
          (*statistics)[(b * s.heads + h) * s.sequence + row] = std::log(sum);
      }
  return o;
}

// Token by token: all heads of Q, then K, then V.
Floats pack(const Shape& s, const Floats& q, const Floats& k, const Floats& v) {
  Floats all;
  for (std::size_t token = 0; token < s.batch * s.sequence; ++token)
    for (const auto& [part, heads] : {std::pair{&q, s.heads}, {&k, s.kv_heads}, {&v, s.kv_heads}})
      all.insert(all.end(), part->begin() + static_cast<std::ptrdiff_t>(token * heads * s.size),
                 part->begin() + static_cast<std::ptrdiff_t>((token + 1) * heads * s.size));
  return all;
}

}  // namespace

TEST_CASE("attention is softmax(Q K^T / sqrt d) V; its gradients agree with finite differences") {
  for (const Shape& s : shapes) {
    CAPTURE(s.sequence);
    const Floats q = numbers(s.q(), 1, 2), k = numbers(s.kv(), 2, 2), v = numbers(s.kv(), 3),
                 d = numbers(s.q(), 4);
    const auto out =
        run_at(s.kernel(false),
               {q, k, v, Floats(q.size()), Floats(static_cast<std::size_t>(s.statistics()))}, 0);
    Doubles statistics(static_cast<std::size_t>(s.statistics()));
    CHECK(distance(out[3], narrow(naive_attention(s, wide(q), wide(k), wide(v), &statistics))) <
          3e-6);
    CHECK(distance(out[4], narrow(statistics)) < 3e-6);
    const auto got = run_at(s.kernel(true), {d, q, k, v, out[3], out[4], q, k, v}, 0);
    CHECK(distance(got[6], difference(wide(q), d, [&](const Doubles& at) {
                     return naive_attention(s, at, wide(k), wide(v));
                   })) < 2e-5);
    CHECK(distance(got[7], difference(wide(k), d, [&](const Doubles& at) {
                     return naive_attention(s, wide(q), at, wide(v));
                   })) < 2e-5);
    CHECK(distance(got[8], difference(wide(v), d, [&](const Doubles& at) {
                     return naive_attention(s, wide(q), wide(k), at);
                   })) < 2e-5);
  }
}

TEST_CASE("attention gives the same bits whether Q, K and V lie apart or side by side") {
  for (const Shape& s : shapes) {
    const Floats q = numbers(s.q(), 1), k = numbers(s.kv(), 2), v = numbers(s.kv(), 3),
                 d = numbers(s.q(), 4);
    const Floats statistics(static_cast<std::size_t>(s.statistics()));
    const auto apart = run_at(s.kernel(false), {q, k, v, Floats(q.size()), statistics}, 0);
    const Floats all = pack(s, q, k, v);
    const auto packed = run_at(s.kernel(false), {all, {}, {}, Floats(q.size()), statistics}, 0);
    CHECK(packed[3] == apart[3]);
    CHECK(packed[4] == apart[4]);
    const auto d_apart = run_at(s.kernel(true), {d, q, k, v, apart[3], apart[4], q, k, v}, 0);
    const auto d_packed =
        run_at(s.kernel(true), {d, all, {}, {}, apart[3], apart[4], all, {}, {}}, 0);
    CHECK(d_packed[6] == pack(s, d_apart[6], d_apart[7], d_apart[8]));
  }
}

TEST_CASE("a causal row does not see later positions, and large scores do not overflow") {
  const Shape s{1, 1, 1, 4, 4, true};
  Floats q = numbers(s.q(), 1, 50), k = numbers(s.kv(), 2, 50), v = numbers(s.kv(), 3);
  const Floats o(q.size()), statistics(4);
  const auto first = run_at(s.kernel(false), {q, k, v, o, statistics}, 0);
  for (const float x : first[3]) CHECK(std::isfinite(x));
  for (std::size_t i = 12; i < 16; ++i) k[i] = v[i] = 7;
  const auto second = run_at(s.kernel(false), {q, k, v, o, statistics}, 0);
  for (std::size_t i = 0; i < 12; ++i) CHECK(second[3][i] == first[3][i]);
  CHECK(std::equal(v.begin(), v.begin() + 4, first[3].begin()));
  q[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(run_at(s.kernel(false), {q, k, v, o, statistics}, 0)[3][4]));
}

TEST_CASE("in bf16 a row's statistic keeps 16 bits, and gradients those of their storage") {
  const Shape s{2, 4, 2, 7, 6, true};
  const Floats q = numbers(s.q(), 1, 2), k = numbers(s.kv(), 2, 2), v = numbers(s.kv(), 3),
               d = numbers(s.q(), 4);
  const auto stored = [](const Floats& x) {
    Floats y;
    for (const float value : x) y.push_back(from_bf16(to_bf16(value)));
    return y;
  };
  const auto count = static_cast<std::size_t>(s.statistics());
  const auto narrow_out =
      run_in_bf16(s.kernel(false, Dtype::bf16), {q, k, v, Floats(q.size()), Floats(2 * count)});
  const auto wide_out = run_at(
      s.kernel(false), {stored(q), stored(k), stored(v), Floats(q.size()), Floats(count)}, 0);
  CHECK(narrow_out[3] == stored(wide_out[3]));
  for (std::size_t i = 0; i < count; ++i)
    CHECK(std::fabs(narrow_out[4][2 * i] + narrow_out[4][2 * i + 1] - wide_out[4][i]) <=
          std::fabs(wide_out[4][i]) / 65536);
  const auto narrow_d =
      run_in_bf16(s.kernel(true, Dtype::bf16), {d, q, k, v, narrow_out[3], narrow_out[4], q, k, v});
  const auto wide_d =
      run_at(s.kernel(true),
             {stored(d), stored(q), stored(k), stored(v), wide_out[3], wide_out[4], q, k, v}, 0);
  for (std::size_t i = 6; i < 9; ++i) CHECK(distance(narrow_d[i], wide_d[i]) < 0.05);
}
