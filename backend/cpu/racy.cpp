#include "backend/cpu/racy.hpp"

#include <cstdint>

namespace orrery::cpu {

#if defined(__SANITIZE_THREAD__)
#define ORRERY_UNWATCHED __attribute__((no_sanitize("thread"), noinline))
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ORRERY_UNWATCHED __attribute__((no_sanitize("thread"), noinline))
#endif
#endif
#ifndef ORRERY_UNWATCHED
#define ORRERY_UNWATCHED
#endif

// Tensors start on their element's boundary, which may be less than 8 bytes: whole words only where
// both sides allow them. Volatile keeps the compiler from making it a memcpy, which is watched.
ORRERY_UNWATCHED void racy_copy(void* to, const void* from, std::size_t bytes) {
  std::size_t at = 0;
  if ((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) % 8 == 0)
    for (; at + 8 <= bytes; at += 8)
      *reinterpret_cast<volatile std::uint64_t*>(static_cast<std::byte*>(to) + at) =
          *reinterpret_cast<const volatile std::uint64_t*>(static_cast<const std::byte*>(from) +
                                                           at);
  else if ((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) % 4 == 0)
    for (; at + 4 <= bytes; at += 4)
      *reinterpret_cast<volatile std::uint32_t*>(static_cast<std::byte*>(to) + at) =
          *reinterpret_cast<const volatile std::uint32_t*>(static_cast<const std::byte*>(from) +
                                                           at);
  for (; at < bytes; ++at)
    *reinterpret_cast<volatile std::uint8_t*>(static_cast<std::byte*>(to) + at) =
        *reinterpret_cast<const volatile std::uint8_t*>(static_cast<const std::byte*>(from) + at);
}

}  // namespace orrery::cpu
