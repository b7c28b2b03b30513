// Codecs: n fp32 numbers as a message of an exact size, and back.
//
// A message holds everything that its receiver needs, scales included; its size depends on n alone,
// so that every world charges the same bytes. Arithmetic on messages does not exist: whoever adds
// decodes first (see compressed_mean.hpp).
//
//   fp16, bf16          2 n bytes                 rounded to nearest, ties to even
//   fp8-e4m3, fp8-e5m2  n + 4 ceil(n / block)     absmax / 448 and / 57344 as scale
//   int8                n + 4 ceil(n / block)     absmax / 127 as scale
//   fp4                 ceil(n / 2) + ceil(n / block)   E3M0: a sign and a power of two, or 0;
//                       a power of two as scale, kept as its exponent
//   qsgd                n + 4 ceil(n / block)     s < 128 levels of |x| / norm, rounded at random
//   sign                ceil(n / 8) + 4           signs and the root mean square
//   sparse              8 k                       the k largest with their places
//   dct                 6 k per chunk             the k largest of each chunk's cosine transform
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "backend/core/config.hpp"
#include "backend/core/philox.hpp"

namespace orrery {

// Uniform numbers in [0, 1) for rounding at random, one per element of a message.
struct Rounding {
  Philox random;
  std::uint64_t first = 0;
  float uniform(std::size_t element) const {
    return static_cast<float>(random.bits(first + element) >> 8) * 0x1p-24F;
  }
};

class Codec {
 public:
  virtual ~Codec() = default;
  virtual std::int64_t bytes(std::int64_t elements) const = 0;
  virtual void encode(std::span<const float> x, std::span<std::byte> message,
                      const Rounding& rounding) const = 0;
  virtual void decode(std::span<const std::byte> message, std::span<float> y) const = 0;
};

struct CodecSpec {
  std::string name = "fp32";  // fp32: not compressed
  std::int64_t block = 256;   // numbers that share a scale
  std::int64_t levels = 127;  // of qsgd
  double ratio = 0.01;        // of sparse: k = max(1, round(ratio n)); of dct: of each chunk
  std::int64_t chunk = 64;    // of dct
};
void describe(Fields<CodecSpec>& f);

// Null for fp32.
std::shared_ptr<const Codec> make_codec(const CodecSpec& spec);

// The k numbers of largest magnitude, by ascending place; of equal ones the first.
std::vector<std::int32_t> largest(std::span<const float> x, std::int64_t k);

// y[j] = sum over i of x[i] c_j cos(pi (2 i + 1) j / 2n), orthonormal (DCT-II), and its inverse.
void cosine_transform(std::span<const float> x, std::span<float> y);
void inverse_cosine_transform(std::span<const float> y, std::span<float> x);

// One per file.
std::shared_ptr<const Codec> make_half_codec(const CodecSpec& spec);
std::shared_ptr<const Codec> make_scaled_codec(const CodecSpec& spec);
std::shared_ptr<const Codec> make_qsgd_codec(const CodecSpec& spec);
std::shared_ptr<const Codec> make_sign_codec();
std::shared_ptr<const Codec> make_sparse_codec(const CodecSpec& spec);
std::shared_ptr<const Codec> make_dct_codec(const CodecSpec& spec);

}  // namespace orrery
