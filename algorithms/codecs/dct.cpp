// The k largest coefficients of each chunk's cosine transform, as DeMo sends its momentum (Peng et
// al. 2024, arXiv 2411.19870; bloc97/DeMo demo.py). The last chunk may be shorter.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "algorithms/codecs/codec.hpp"
#include "algorithms/codecs/message.hpp"

namespace orrery {

namespace {

// Row j of the transform of n numbers, in double: small n, few rows at a time.
double entry(std::size_t j, std::size_t i, std::size_t n) {
  const auto size = static_cast<double>(n);
  const double scale = std::sqrt((j == 0 ? 1.0 : 2.0) / size);
  return scale * std::cos(std::numbers::pi * static_cast<double>((2 * i + 1) * j) / (2 * size));
}

}  // namespace

void cosine_transform(std::span<const float> x, std::span<float> y) {
  for (std::size_t j = 0; j < y.size(); ++j) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += entry(j, i, x.size()) * x[i];
    y[j] = static_cast<float>(sum);
  }
}

void inverse_cosine_transform(std::span<const float> y, std::span<float> x) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < y.size(); ++j)
      if (y[j] != 0) sum += entry(j, i, x.size()) * y[j];
    x[i] = static_cast<float>(sum);
  }
}

namespace {

class DctCodec : public Codec {
 public:
  DctCodec(std::int64_t chunk, double ratio)
      : chunk_(static_cast<std::size_t>(chunk)),
        kept_(static_cast<std::size_t>(std::clamp<std::int64_t>(
            std::llround(ratio * static_cast<double>(chunk)), 1, chunk))) {}
  std::int64_t bytes(std::int64_t elements) const override {
    std::int64_t total = 0;
    for_each_chunk(static_cast<std::size_t>(elements), [&](std::size_t, std::size_t n) {
      total += static_cast<std::int64_t>(6 * std::min(kept_, n));
    });
    return total;
  }
  void encode(std::span<const float> x, std::span<std::byte> message,
              const Rounding&) const override {
    std::size_t at = 0;
    std::vector<float> c;
    for_each_chunk(x.size(), [&](std::size_t begin, std::size_t n) {
      c.resize(n);
      cosine_transform(x.subspan(begin, n), c);
      for (const std::int32_t place : largest(c, static_cast<std::int64_t>(kept_))) {
        put(message, at, c[static_cast<std::size_t>(place)]);
        put(message, at + 4, static_cast<std::uint16_t>(place));
        at += 6;
      }
    });
  }
  void decode(std::span<const std::byte> message, std::span<float> y) const override {
    std::size_t at = 0;
    std::vector<float> c;
    for_each_chunk(y.size(), [&](std::size_t begin, std::size_t n) {
      c.assign(n, 0);
      for (std::size_t i = 0; i < std::min(kept_, n); ++i, at += 6)
        c[get<std::uint16_t>(message, at + 4)] = get<float>(message, at);
      inverse_cosine_transform(c, y.subspan(begin, n));
    });
  }

 private:
  template <class Action>
  void for_each_chunk(std::size_t elements, Action action) const {
    for (std::size_t begin = 0; begin < elements; begin += chunk_)
      action(begin, std::min(chunk_, elements - begin));
  }
  std::size_t chunk_, kept_;
};

}  // namespace

std::shared_ptr<const Codec> make_dct_codec(const CodecSpec& spec) {
  return std::make_shared<DctCodec>(spec.chunk, spec.ratio);
}

}  // namespace orrery
