// Narrow numbers under a scale per block: int8, the fp8 types of backend/fp8.hpp, and E3M0, the
// 4-bit type that Streaming DiLoCo sends (arXiv 2501.18512).
#include <algorithm>
#include <cmath>

#include "algorithms/codecs/codec.hpp"
#include "algorithms/codecs/message.hpp"
#include "algorithms/codecs/narrow_type.hpp"

namespace orrery {

namespace {

class ScaledCodec : public Codec {
 public:
  ScaledCodec(const std::string& name, std::int64_t block)
      : type_(name), block_(block), four_bits_(name == "fp4") {}

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
        put_code(message, i, type_.code_of(x[static_cast<std::size_t>(i)], scale));
    }
  }
  void decode(std::span<const std::byte> message, std::span<float> y) const override {
    const auto n = static_cast<std::int64_t>(y.size());
    for (std::int64_t i = 0; i < n; ++i) {
      const float scale = get_scale(message, scale_place(n, i / block_));
      y[static_cast<std::size_t>(i)] = type_.value_of(get_code(message, i), scale);
    }
  }

 private:
  std::int64_t payload(std::int64_t n) const { return four_bits_ ? (n + 1) / 2 : n; }
  std::int64_t scale_bytes() const { return four_bits_ ? 1 : 4; }
  std::size_t scale_place(std::int64_t n, std::int64_t block) const {
    return static_cast<std::size_t>(payload(n) + block * scale_bytes());
  }
  // The scale of a block whose largest magnitude is given: that becomes the type's largest; with
  // four bits, the power of two nearest to it.
  float put_scale(std::span<std::byte> message, std::size_t at, float largest) const {
    if (!four_bits_) {
      const float scale = largest / type_.largest();
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

  NarrowType type_;
  std::int64_t block_;
  bool four_bits_;
};

}  // namespace

std::shared_ptr<const Codec> make_scaled_codec(const CodecSpec& spec) {
  return std::make_shared<ScaledCodec>(spec.name, spec.block);
}

}  // namespace orrery
