// fp16 and bf16: two bytes a number.
#include "algorithms/codecs/codec.hpp"
#include "algorithms/codecs/message.hpp"
#include "backend/dtype.hpp"

namespace orrery {

namespace {

class HalfCodec : public Codec {
 public:
  explicit HalfCodec(bool bf16) : bf16_(bf16) {}
  std::int64_t bytes(std::int64_t elements) const override { return 2 * elements; }
  void encode(std::span<const float> x, std::span<std::byte> message,
              const Rounding&) const override {
    for (std::size_t i = 0; i < x.size(); ++i)
      put(message, 2 * i, bf16_ ? to_bf16(x[i]) : to_fp16(x[i]));
  }
  void decode(std::span<const std::byte> message, std::span<float> y) const override {
    for (std::size_t i = 0; i < y.size(); ++i) {
      const auto bits = get<std::uint16_t>(message, 2 * i);
      y[i] = bf16_ ? from_bf16(bits) : from_fp16(bits);
    }
  }

 private:
  bool bf16_;
};

}  // namespace

std::shared_ptr<const Codec> make_half_codec(const CodecSpec& spec) {
  return std::make_shared<HalfCodec>(spec.name == "bf16");
}

}  // namespace orrery
