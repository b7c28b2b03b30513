// The k numbers of largest magnitude, each with its place.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "algorithms/codecs/codec.hpp"
#include "algorithms/codecs/message.hpp"

namespace orrery {

std::vector<std::int32_t> largest(std::span<const float> x, std::int64_t k) {
  std::vector<std::int32_t> places(x.size());
  std::iota(places.begin(), places.end(), 0);
  const auto larger = [x](std::int32_t a, std::int32_t b) {
    const float left = std::fabs(x[static_cast<std::size_t>(a)]),
                right = std::fabs(x[static_cast<std::size_t>(b)]);
    return left != right ? left > right : a < b;
  };
  const auto count = std::min(places.size(), static_cast<std::size_t>(k));
  const auto end = places.begin() + static_cast<std::ptrdiff_t>(count);
  if (end != places.end()) std::nth_element(places.begin(), end, places.end(), larger);
  places.resize(count);
  std::sort(places.begin(), places.end());
  return places;
}

namespace {

class SparseCodec : public Codec {
 public:
  explicit SparseCodec(double ratio) : ratio_(ratio) {}
  std::int64_t bytes(std::int64_t elements) const override { return 8 * kept(elements); }
  void encode(std::span<const float> x, std::span<std::byte> message,
              const Rounding&) const override {
    std::size_t at = 0;
    for (const std::int32_t place : largest(x, kept(static_cast<std::int64_t>(x.size())))) {
      put(message, at, x[static_cast<std::size_t>(place)]);
      put(message, at + 4, place);
      at += 8;
    }
  }
  void decode(std::span<const std::byte> message, std::span<float> y) const override {
    std::fill(y.begin(), y.end(), 0.0F);
    for (std::size_t at = 0; at < message.size(); at += 8)
      y[static_cast<std::size_t>(get<std::int32_t>(message, at + 4))] = get<float>(message, at);
  }

 private:
  std::int64_t kept(std::int64_t n) const {
    return std::clamp<std::int64_t>(std::llround(ratio_ * static_cast<double>(n)),
                                    std::min<std::int64_t>(1, n), n);
  }
  double ratio_;
};

}  // namespace

std::shared_ptr<const Codec> make_sparse_codec(const CodecSpec& spec) {
  return std::make_shared<SparseCodec>(spec.ratio);
}

}  // namespace orrery
