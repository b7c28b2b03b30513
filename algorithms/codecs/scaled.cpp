// Narrow numbers under a scale per block: int8, the fp8 types of backend/fp8.hpp, and E3M0, the
// 4-bit type that Streaming DiLoCo sends (arXiv 2501.18512).
//
// Any other type than fp8 is the list of the magnitudes that it has, ascending from 0; a number is
// rounded to the nearest of them, ties to the even place in the list, which is the even mantissa.
#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "algorithms/codecs/codec.hpp"
#include "algorithms/codecs/message.hpp"
#include "backend/fp8.hpp"

namespace orrery {

namespace {

std::optional<Float8> float8_of(const std::string& name) {
  if (name == "fp8-e4m3") return Float8::e4m3;
  if (name == "fp8-e5m2") return Float8::e5m2;
  return std::nullopt;
}

std::vector<float> magnitudes_of(const std::string& name) {
  if (float8_of(name)) return {};
  std::vector<float> all{0};
  if (name == "fp4")
    for (int e = -6; e <= 0; ++e) all.push_back(std::ldexp(1.0F, e));
  else
    for (int i = 1; i <= 127; ++i) all.push_back(static_cast<float>(i));
  return all;
}

class ScaledCodec : public Codec {
 public:
  ScaledCodec(const std::string& name, std::int64_t block)
      : float8_(float8_of(name)),
        magnitudes_(magnitudes_of(name)),
        block_(block),
        four_bits_(name == "fp4") {}

  std::int64_t bytes(std::int64_t elements) const override {
    return payload(elements) + ceil_div(elements, block_) * scale_bytes();
  }
  void encode(std::span<const float> x, std::span<std::byte> message,
              const Rounding&) const override {
    const auto n = static_cast<std::int64_t>(x.size());
    std::fill(message.begin(), message.end(), std::byte{0});
    for (std::int64_t b = 0; b * block_ < n; ++b) {
      const std::int64_t end = std::min(n, (b + 1) * block_);
      float largest = 0;
      for (std::int64_t i = b * block_; i < end; ++i)
        largest = std::max(largest, std::fabs(x[static_cast<std::size_t>(i)]));
      const float scale = put_scale(message, scale_place(n, b), largest);
      for (std::int64_t i = b * block_; i < end; ++i)
        put_code(message, i, code_of(x[static_cast<std::size_t>(i)], scale));
    }
  }
  void decode(std::span<const std::byte> message, std::span<float> y) const override {
    const auto n = static_cast<std::int64_t>(y.size());
    for (std::int64_t i = 0; i < n; ++i) {
      const float scale = get_scale(message, scale_place(n, i / block_));
      y[static_cast<std::size_t>(i)] = value_of(get_code(message, i)) * scale;
    }
  }

 private:
  std::int64_t payload(std::int64_t n) const { return four_bits_ ? (n + 1) / 2 : n; }
  std::int64_t scale_bytes() const { return four_bits_ ? 1 : 4; }
  unsigned sign_bit() const { return four_bits_ ? 8U : 128U; }
  std::size_t scale_place(std::int64_t n, std::int64_t block) const {
    return static_cast<std::size_t>(payload(n) + block * scale_bytes());
  }
  // The scale of a block whose largest magnitude is given: that becomes the type's largest; with
  // four bits, the power of two nearest to it.
  float put_scale(std::span<std::byte> message, std::size_t at, float largest) const {
    if (!four_bits_) {
      const float scale = largest / (float8_ ? largest_of(*float8_) : magnitudes_.back());
      put(message, at, scale);
      return scale;
    }
    const int exponent =
        largest == 0 ? -126
                     : static_cast<int>(std::lround(std::log2(static_cast<double>(largest))));
    message[at] = static_cast<std::byte>(std::clamp(exponent, -126, 127) + 127);
    return get_scale(message, at);
  }
  float get_scale(std::span<const std::byte> message, std::size_t at) const {
    return four_bits_ ? std::ldexp(1.0F, static_cast<int>(message[at]) - 127)
                      : get<float>(message, at);
  }
  unsigned code_of(float x, float scale) const {
    if (scale == 0) return 0;
    if (float8_) return to_fp8(x / scale, *float8_);
    const float wanted = std::fabs(x) / scale;
    auto above = static_cast<std::size_t>(
        std::lower_bound(magnitudes_.begin(), magnitudes_.end(), wanted) - magnitudes_.begin());
    above = std::min(above, magnitudes_.size() - 1);
    std::size_t nearest = above;
    if (above > 0) {
      const float up = magnitudes_[above] - wanted, down = wanted - magnitudes_[above - 1];
      if (down < up || (down == up && above % 2 == 1)) nearest = above - 1;
    }
    return static_cast<unsigned>(nearest) | (std::signbit(x) ? sign_bit() : 0U);
  }
  float value_of(unsigned code) const {
    if (float8_) return from_fp8(static_cast<std::uint8_t>(code), *float8_);
    const float value = magnitudes_[code & (sign_bit() - 1)];
    return (code & sign_bit()) != 0 ? -value : value;
  }
  void put_code(std::span<std::byte> message, std::int64_t i, unsigned code) const {
    if (four_bits_)
      message[static_cast<std::size_t>(i / 2)] |= static_cast<std::byte>(code << (4 * (i % 2)));
    else
      message[static_cast<std::size_t>(i)] = static_cast<std::byte>(code);
  }
  unsigned get_code(std::span<const std::byte> message, std::int64_t i) const {
    if (!four_bits_) return static_cast<unsigned>(message[static_cast<std::size_t>(i)]);
    return (static_cast<unsigned>(message[static_cast<std::size_t>(i / 2)]) >> (4 * (i % 2))) & 15U;
  }

  std::optional<Float8> float8_;
  std::vector<float> magnitudes_;  // of other types
  std::int64_t block_;
  bool four_bits_;
};

}  // namespace

std::shared_ptr<const Codec> make_scaled_codec(const CodecSpec& spec) {
  return std::make_shared<ScaledCodec>(spec.name, spec.block);
}

}  // namespace orrery
