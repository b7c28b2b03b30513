// Counter-based random numbers: Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel Random
// Numbers: As Easy as 1, 2, 3", SC 2011; checked against the known answers of their Random123.
//
// A number is a pure function of (seed, purpose, stream, index): the initial value of parameter
// element 7,000,000 or the dropout mask of sample 12 is the same on whatever rank, in whatever
// order it is asked for. Nothing is stored between calls, so objects may be shared between threads.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace orrery {

using PhiloxBlock = std::array<std::uint32_t, 4>;

// Ten rounds of the bijection on a 128-bit counter under a 64-bit key.
constexpr PhiloxBlock philox4x32(PhiloxBlock counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {
        static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
        static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key = {key[0] + 0x9E3779B9U, key[1] + 0xBB67AE85U};
  }
  return counter;
}

// Separates uses of one seed, so that no two share a number. Values are part of every result:
// append only.
enum class Purpose : std::uint32_t {
  initial_values,
  data_order,
  dropout,
  jitter,
  order,
  gossip,
  user
};

// Random numbers addressed by index.
class Philox {
 public:
  // `stream` divides a purpose further, e.g. a parameter's or a rank's identity.
  constexpr Philox(std::uint64_t seed, std::uint32_t purpose, std::uint32_t stream = 0)
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
        purpose_(purpose),
        stream_(stream) {}
  constexpr Philox(std::uint64_t seed, Purpose purpose, std::uint32_t stream = 0)
      : Philox(seed, static_cast<std::uint32_t>(purpose), stream) {}

  constexpr PhiloxBlock block(std::uint64_t index) const {
    return philox4x32({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                       purpose_, stream_},
                      key_);
  }
  constexpr std::uint32_t bits(std::uint64_t index) const { return block(index)[0]; }
  constexpr std::uint64_t bits64(std::uint64_t index) const {
    const PhiloxBlock b = block(index);
    return (std::uint64_t{b[1]} << 32) | b[0];
  }
  // In [0, 1), a multiple of 2^-53.
  constexpr double uniform(std::uint64_t index) const {
    return static_cast<double>(bits64(index) >> 11) * 0x1p-53;
  }
  // In [0, n); n = 0 gives 0. The bias is below n / 2^64.
  constexpr std::uint64_t below(std::uint64_t index, std::uint64_t n) const {
    const auto product = static_cast<unsigned __int128>(bits64(index)) * n;
    return static_cast<std::uint64_t>(product >> 64);
  }
  // Standard normal by Box and Muller; magnitude at most 8.6.
  double normal(std::uint64_t index) const {
    const PhiloxBlock b = block(index);
    const std::uint64_t first = ((std::uint64_t{b[1]} << 32) | b[0]) >> 11;
    const std::uint64_t second = ((std::uint64_t{b[3]} << 32) | b[2]) >> 11;
    const double radius =
        static_cast<double>(first + 1) * 0x1p-53;  // in (0, 1]: its logarithm is finite
    const double angle = static_cast<double>(second) * 0x1p-53;
    return std::sqrt(-2 * std::log(radius)) * std::cos(2 * 3.14159265358979323846 * angle);
  }

 private:
  std::array<std::uint32_t, 2> key_;
  std::uint32_t purpose_;
  std::uint32_t stream_;
};

// The numbers of one stream one after the other. Its state is the index of the next, which a
// checkpoint keeps with position() and seek().
class Random {
 public:
  constexpr Random(std::uint64_t seed, Purpose purpose, std::uint32_t stream = 0)
      : philox_(seed, purpose, stream) {}

  constexpr std::uint32_t next() { return philox_.bits(position_++); }
  constexpr double uniform() { return philox_.uniform(position_++); }
  constexpr std::uint64_t below(std::uint64_t n) { return philox_.below(position_++, n); }
  double normal() { return philox_.normal(position_++); }

  constexpr std::uint64_t position() const { return position_; }
  constexpr void seek(std::uint64_t position) { position_ = position; }

 private:
  Philox philox_;
  std::uint64_t position_ = 0;
};

}  // namespace orrery
