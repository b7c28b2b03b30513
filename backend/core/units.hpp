// Typed quantities. No raw double crosses an interface: a `Bytes` cannot be passed where `Seconds`
// are expected.
//
// `Time` is engine time: an unsigned count of picoseconds since the start of the run (213 days in
// 64 bits). Durations of simulated operations are `Time` too, so sums are exact and do not depend
// on the order of addition. `Seconds` is for people: rates, reports, inputs.
#pragma once

#include <cmath>
#include <compare>
#include <cstdint>

namespace orrery {

// A double with a dimension. `Tag` makes the dimension; arithmetic stays inside it, ratios are
// plain numbers.
template <class Tag>
struct Quantity {
  double value = 0;

  constexpr Quantity() = default;
  constexpr explicit Quantity(double v) : value(v) {}
  constexpr auto operator<=>(const Quantity&) const = default;
  constexpr Quantity operator+(Quantity o) const { return Quantity(value + o.value); }
  constexpr Quantity operator-(Quantity o) const { return Quantity(value - o.value); }
  constexpr Quantity operator*(double s) const { return Quantity(value * s); }
  constexpr Quantity operator/(double s) const { return Quantity(value / s); }
  constexpr double operator/(Quantity o) const { return value / o.value; }
  constexpr Quantity& operator+=(Quantity o) {
    value += o.value;
    return *this;
  }
};
template <class Tag>
constexpr Quantity<Tag> operator*(double s, Quantity<Tag> q) {
  return q * s;
}

using Seconds = Quantity<struct SecondsTag>;
using Flops = Quantity<struct FlopsTag>;  // a count of floating-point operations
using FlopsPerSecond = Quantity<struct FlopsPerSecondTag>;
using BytesPerSecond = Quantity<struct BytesPerSecondTag>;
using Watts = Quantity<struct WattsTag>;

// Whole bytes.
struct Bytes {
  std::int64_t value = 0;

  constexpr Bytes() = default;
  constexpr explicit Bytes(std::int64_t v) : value(v) {}
  constexpr auto operator<=>(const Bytes&) const = default;
  constexpr Bytes operator+(Bytes o) const { return Bytes(value + o.value); }
  constexpr Bytes operator-(Bytes o) const { return Bytes(value - o.value); }
  constexpr Bytes operator*(std::int64_t s) const { return Bytes(value * s); }
  constexpr Bytes& operator+=(Bytes o) {
    value += o.value;
    return *this;
  }
  constexpr Bytes& operator-=(Bytes o) {
    value -= o.value;
    return *this;
  }
};

constexpr Seconds operator/(Flops work, FlopsPerSecond rate) {
  return Seconds(work.value / rate.value);
}
constexpr Seconds operator/(Bytes size, BytesPerSecond rate) {
  return Seconds(static_cast<double>(size.value) / rate.value);
}

// Picoseconds of engine time, as an instant or a duration.
struct Time {
  std::uint64_t picoseconds = 0;

  constexpr Time() = default;
  constexpr explicit Time(std::uint64_t ps) : picoseconds(ps) {}
  constexpr auto operator<=>(const Time&) const = default;
  constexpr Time operator+(Time o) const { return Time(picoseconds + o.picoseconds); }
  constexpr Time operator-(Time o) const { return Time(picoseconds - o.picoseconds); }
  constexpr Time operator*(std::uint64_t n) const { return Time(picoseconds * n); }
  constexpr Time& operator+=(Time o) {
    picoseconds += o.picoseconds;
    return *this;
  }
  constexpr Seconds seconds() const { return Seconds(static_cast<double>(picoseconds) * 1e-12); }
};
constexpr Time time_never{~std::uint64_t{0}};

// Error{config}: what engine time cannot count; only a platform or model so far off makes it.
[[noreturn]] void refuse_duration(Seconds);

// Nearest picosecond. Negative inputs are the caller's error and give 0; from 208 days on, endless
// ones too, Error{config}.
inline Time to_time(Seconds s) {
  if (!(s.value > 0)) return Time{};
  if (s.value >= 1.8e7) refuse_duration(s);
  return Time(static_cast<std::uint64_t>(std::round(s.value * 1e12)));
}

}  // namespace orrery
