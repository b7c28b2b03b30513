// One bit a number: its sign, under the root mean square of all, as 1-bit Adam sends its momentum
// (Tang et al. 2021, arXiv 2102.02888; microsoft/DeepSpeed deepspeed/runtime/comm/nccl.py).
#include <algorithm>
#include <cmath>

#include "algorithms/codecs/codec.hpp"
#include "algorithms/codecs/message.hpp"

namespace orrery {

namespace {

class SignCodec : public Codec {
 public:
  std::int64_t bytes(std::int64_t elements) const override { return (elements + 7) / 8 + 4; }
  void encode(std::span<const float> x, std::span<std::byte> message,
              const Rounding&) const override {
    double squares = 0;
    for (const float each : x) squares += static_cast<double>(each) * each;
    put(message, 0,
        static_cast<float>(
            std::sqrt(squares / static_cast<double>(std::max<std::size_t>(1, x.size())))));
    std::fill(message.begin() + 4, message.end(), std::byte{0});
    for (std::size_t i = 0; i < x.size(); ++i)
      if (std::signbit(x[i])) message[4 + i / 8] |= static_cast<std::byte>(1U << (i % 8));
  }
  void decode(std::span<const std::byte> message, std::span<float> y) const override {
    const auto size = get<float>(message, 0);
    for (std::size_t i = 0; i < y.size(); ++i) {
      const bool negative = ((static_cast<unsigned>(message[4 + i / 8]) >> (i % 8)) & 1U) != 0;
      y[i] = negative ? -size : size;
    }
  }
};

}  // namespace

std::shared_ptr<const Codec> make_sign_codec() { return std::make_shared<SignCodec>(); }

}  // namespace orrery
