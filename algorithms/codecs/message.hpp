// Numbers in and out of a message's bytes, for codecs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace orrery {

template <class T>
void put(std::span<std::byte> message, std::size_t at, T value) {
  std::memcpy(message.data() + at, &value, sizeof(T));
}
template <class T>
T get(std::span<const std::byte> message, std::size_t at) {
  T value;
  std::memcpy(&value, message.data() + at, sizeof(T));
  return value;
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace orrery
