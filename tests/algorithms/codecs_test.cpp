// Codecs: exact sizes, values they must keep, errors they may make; and means through them.
#include <doctest/doctest.h>

#include <cmath>
#include <numeric>

#include "algorithms/codecs/codec.hpp"
#include "algorithms/codecs/compressed_mean.hpp"
#include "tests/support/worlds.hpp"

namespace orrery {
namespace {

Rounding rounding(std::uint64_t first = 0) { return {Philox(3, Purpose::user), first}; }

std::vector<float> numbers(std::size_t n, std::uint64_t seed = 1) {
  const Philox random(seed, Purpose::user);
  std::vector<float> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(random.normal(i));
  return x;
}

std::vector<float> through(const CodecSpec& spec, const std::vector<float>& x,
                           std::uint64_t first = 0) {
  const auto codec = make_codec(spec);
  std::vector<std::byte> message(
      static_cast<std::size_t>(codec->bytes(static_cast<std::int64_t>(x.size()))));
  codec->encode(x, message, rounding(first));
  std::vector<float> y(x.size());
  codec->decode(message, y);
  return y;
}

std::int64_t size(const char* name, std::int64_t n, CodecSpec spec = {}) {
  spec.name = name;
  return make_codec(spec)->bytes(n);
}

}  // namespace

TEST_CASE("messages have the sizes that the table of codecs states") {
  CHECK(size("fp16", 1001) == 2002);
  CHECK(size("bf16", 1001) == 2002);
  for (const char* name : {"fp8-e4m3", "fp8-e5m2", "int8", "qsgd"})
    CHECK(size(name, 1001) == 1001 + 4 * 4);
  CHECK(size("fp4", 1001) == 501 + 4);
  CHECK(size("sign", 1001) == 126 + 4);
  CHECK(size("sparse", 1001, {.ratio = 0.01}) == 8 * 10);
  CHECK(size("sparse", 3, {.ratio = 0.01}) == 8);
  CHECK(size("dct", 130, {.ratio = 0.125}) == 6 * (8 + 8 + 2));
}

TEST_CASE("bf16, fp16 and fp8 keep what they can hold and round the rest to the nearest") {
  const std::vector<float> held{1, -0.5F, 1.75F, 0, 448, -6};
  CHECK(through({.name = "fp8-e4m3"}, held) == held);
  CHECK(through({.name = "bf16"}, held) == held);
  CHECK(through({.name = "fp16"}, held) == held);
  const std::vector<float> wide{57344, -1, 0.25F, 1.25F};
  CHECK(through({.name = "fp8-e5m2"}, wide) == wide);
  // Between 1 and 1.125 the tie goes to the even mantissa; 1.07 to the nearer.
  CHECK(through({.name = "fp8-e4m3"}, {448, 1.0625F, 1.07F, 1.1875F}) ==
        std::vector<float>{448, 1, 1.125F, 1.25F});
}

TEST_CASE("E3M0 is exact on powers of two within six octaves of the largest, and 0 below") {
  std::vector<float> x{-8};
  for (int e = -3; e <= 3; ++e) x.push_back(std::ldexp(1.0F, e));
  CHECK(through({.name = "fp4"}, x) == x);
  CHECK(through({.name = "fp4"}, {1, 3.0F / 128, 1.0F / 256, -1.0F / 256 + 1e-5F}) ==
        std::vector<float>{1, 1.0F / 32, 0, -0.0F});
}

TEST_CASE("int8 is within half a step of its block's largest over 127") {
  const std::vector<float> x = numbers(1000), y = through({.name = "int8", .block = 100}, x);
  for (std::size_t b = 0; b < 10; ++b) {
    float most = 0;
    for (std::size_t i = 100 * b; i < 100 * (b + 1); ++i) most = std::max(most, std::fabs(x[i]));
    for (std::size_t i = 100 * b; i < 100 * (b + 1); ++i)
      CHECK(std::fabs(x[i] - y[i]) <= most / 127 * 0.5001F);
  }
}

TEST_CASE("QSGD's levels are unbiased, and their variance is within the paper's bound") {
  // E |Q(v) - v|^2 <= min(d / s^2, sqrt(d) / s) |v|^2 (lemma 3.1).
  constexpr std::size_t d = 128;
  const std::vector<float> x = numbers(d);
  constexpr int draws = 4000;
  const CodecSpec spec{.name = "qsgd", .block = d, .levels = 15};
  std::vector<double> sum(d);
  double error = 0;
  const double norm = std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
  for (std::uint64_t draw = 0; draw < draws; ++draw) {
    const std::vector<float> y = through(spec, x, draw * d);
    for (std::size_t i = 0; i < d; ++i) {
      sum[i] += y[i];
      error += (y[i] - x[i]) * (y[i] - x[i]);
    }
  }
  // A draw deviates by at most half a level, norm / 15 / 2; the largest of 128 means by 4.5 sigma.
  for (std::size_t i = 0; i < d; ++i)
    CHECK(std::fabs(sum[i] / draws - x[i]) < 4.5 * norm / 15 / 2 / std::sqrt(draws));
  CHECK(error / draws <= std::min(d / 225.0, std::sqrt(d) / 15) * norm * norm);
}

TEST_CASE("the sign codec keeps signs and the norm") {
  const std::vector<float> x = numbers(77), y = through({.name = "sign"}, x);
  double of_x = 0, of_y = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    CHECK(std::signbit(x[i]) == std::signbit(y[i]));
    of_x += x[i] * x[i];
    of_y += y[i] * y[i];
  }
  CHECK(of_y == doctest::Approx(of_x).epsilon(1e-5));
}

TEST_CASE("the sparse codec keeps the largest, each at its place") {
  CHECK(through({.name = "sparse", .ratio = 0.4}, {1, -3, 0.5F, 2, -0.1F}) ==
        std::vector<float>{0, -3, 0, 2, 0});
  CHECK(through({.name = "sparse", .ratio = 0.4}, {1, 1, 1, 1, 1}) ==
        std::vector<float>{1, 1, 0, 0, 0});
}

TEST_CASE("the cosine transform is orthonormal, and the codec keeps its largest coefficients") {
  const std::vector<float> x = numbers(64);
  std::vector<float> c(64), back(64);
  cosine_transform(x, c);
  inverse_cosine_transform(c, back);
  for (std::size_t i = 0; i < 64; ++i) CHECK(back[i] == doctest::Approx(x[i]).epsilon(1e-5));
  CHECK(std::inner_product(c.begin(), c.end(), c.begin(), 0.0) ==
        doctest::Approx(std::inner_product(x.begin(), x.end(), x.begin(), 0.0)).epsilon(1e-5));
  const std::vector<float> all = through({.name = "dct", .ratio = 1}, x);
  for (std::size_t i = 0; i < 64; ++i) CHECK(all[i] == doctest::Approx(x[i]).epsilon(1e-5));
  std::vector<float> wave(64);
  for (std::size_t i = 0; i < 64; ++i)
    wave[i] = static_cast<float>(
        std::cos(3.14159265358979 * (2.0 * static_cast<double>(i) + 1) * 5 / 128));
  const std::vector<float> one = through({.name = "dct", .ratio = 1.0 / 64}, wave);
  for (std::size_t i = 0; i < 64; ++i) CHECK(one[i] == doctest::Approx(wave[i]).epsilon(1e-4));
}

namespace {

// Rank r reduces its own numbers, `rounds` times, and notes the results.
SharedProgram mean_of(const CodecSpec& spec, std::size_t n, bool feedback, int rounds) {
  return [=](Rank& rank, RankNotes& notes) {
    Stream& stream = rank.stream("communication");
    const auto size = static_cast<std::int64_t>(n);
    CompressedMean mean(stream, rank.channel(Axis::replicate, "mean"), make_codec(spec), size,
                        feedback);
    const Tensor x = toy::vector(rank, stream, size, "x");
    for (int round = 0; round < rounds; ++round) {
      const std::vector<float> mine = numbers(n, static_cast<std::uint64_t>(rank.id()) + 10);
      rank.write_bytes(x, std::as_bytes(std::span(mine)));
      mean.reduce(x);
      for (const double v : rank.read(x)) notes.values.push_back(v);
    }
    notes.values.push_back(static_cast<double>(
        CompressedMean::sent(make_codec(spec).get(), size, rank.size(Axis::replicate)) * rounds));
  };
}

std::vector<double> exact_mean(std::size_t n, int members) {
  std::vector<double> mean(n);
  for (int r = 0; r < members; ++r) {
    const std::vector<float> x = numbers(n, static_cast<std::uint64_t>(r) + 10);
    for (std::size_t i = 0; i < n; ++i) mean[i] += static_cast<double>(x[i]) / members;
  }
  return mean;
}

}  // namespace

TEST_CASE("a mean through int8 is the exact one within a step, the same on all members") {
  for (const std::size_t n : {64, 101}) {  // divided evenly and not
    const WorldResult result =
        run_in_cpu(setup_for(4), mean_of({.name = "int8", .block = 1'000'000}, n, false, 1));
    REQUIRE_MESSAGE(!result.error, why(result));
    const std::vector<double> expected = exact_mean(n, 4);
    for (std::size_t i = 0; i < n; ++i)
      CHECK(std::fabs(result.notes[0].values[i] - expected[i]) < 3.5 / 127);
    for (const RankNotes& notes : result.notes) CHECK(notes.values == result.notes[0].values);
  }
}

TEST_CASE("a mean sends 2 (n - 1) messages of a part each, whatever the codec") {
  for (const char* name : {"fp32", "fp16", "fp8-e5m2", "fp4", "qsgd", "sign", "sparse", "dct"}) {
    CAPTURE(name);
    const WorldResult result = run_in_cpu(setup_for(3), mean_of({.name = name}, 99, false, 2));
    REQUIRE_MESSAGE(!result.error, why(result));
    std::int64_t bytes = 0;
    for (const std::string& line : result.channels)
      if (line.starts_with("1 ")) bytes += std::stoll(line.substr(line.rfind(' ')));
    CHECK(static_cast<double>(bytes) == result.notes[1].values.back());
  }
}

TEST_CASE("with error feedback the means of one bit add up to the exact one, without they do not") {
  constexpr int rounds = 200;
  constexpr std::size_t n = 32;
  const std::vector<double> expected = exact_mean(n, 2);
  for (const bool feedback : {true, false}) {
    const WorldResult result =
        run_in_cpu(setup_for(2), mean_of({.name = "sign"}, n, feedback, rounds));
    REQUIRE_MESSAGE(!result.error, why(result));
    double worst = 0;
    for (std::size_t i = 0; i < n; ++i) {
      double sum = 0;
      for (std::size_t round = 0; round < rounds; ++round)
        sum += result.notes[0].values[round * n + i];
      worst = std::max(worst, std::fabs(sum / rounds - expected[i]));
    }
    CHECK((worst < 0.1) == feedback);
  }
}

}  // namespace orrery
