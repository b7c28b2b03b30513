// QSGD's s levels, Alistarh et al. 2017 (arXiv 1610.02132), section 3.1: under the norm v of its
// block, x becomes v sign(x) l / s with l = floor(s |x| / v), or one more with the probability of
// what is left, so that the mean is x.
#include <algorithm>
#include <cmath>

#include "algorithms/codecs/codec.hpp"
#include "algorithms/codecs/message.hpp"

namespace orrery {

namespace {

class QsgdCodec : public Codec {
 public:
  QsgdCodec(std::int64_t block, std::int64_t levels) : block_(block), levels_(levels) {}
  std::int64_t bytes(std::int64_t elements) const override {
    return elements + 4 * ceil_div(elements, block_);
  }
  void encode(std::span<const float> x, std::span<std::byte> message,
              const Rounding& rounding) const override {
    const auto s = static_cast<float>(levels_);
    const auto block = static_cast<std::size_t>(block_);
    for (std::size_t b = 0; b * block < x.size(); ++b) {
      const std::size_t end = std::min(x.size(), (b + 1) * block);
      double squares = 0;
      for (std::size_t i = b * block; i < end; ++i) squares += static_cast<double>(x[i]) * x[i];
      const auto norm = static_cast<float>(std::sqrt(squares));
      put(message, x.size() + 4 * b, norm);
      for (std::size_t i = b * block; i < end; ++i) {
        const float wanted = norm > 0 ? std::min(s, s * std::fabs(x[i]) / norm) : 0;
        const float below = std::floor(wanted);
        const float level = below + (rounding.uniform(i) < wanted - below ? 1.0F : 0.0F);
        put(message, i, static_cast<std::int8_t>(std::signbit(x[i]) ? -level : level));
      }
    }
  }
  void decode(std::span<const std::byte> message, std::span<float> y) const override {
    for (std::size_t i = 0; i < y.size(); ++i) {
      const auto norm = get<float>(message, y.size() + 4 * (i / static_cast<std::size_t>(block_)));
      y[i] = norm * static_cast<float>(get<std::int8_t>(message, i)) / static_cast<float>(levels_);
    }
  }

 private:
  std::int64_t block_, levels_;
};

}  // namespace

std::shared_ptr<const Codec> make_qsgd_codec(const CodecSpec& spec) {
  return std::make_shared<QsgdCodec>(spec.block, spec.levels);
}

}  // namespace orrery
