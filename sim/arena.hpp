// Memory for what every operation of every rank touches, on huge pages: with thousands of ranks it
// spans more small pages than the processor remembers, and each touch would look one up.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace orrery::sim {

// Hands out memory that lives as long as the arena.
class Arena {
 public:
  // `expected` bytes in all; with little, chunks are small and pages ordinary.
  explicit Arena(std::size_t expected) : chunk_(expected < huge_page ? small_chunk : huge_page) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  // Aligned to a cache line, not initialised.
  void* take(std::size_t bytes);

 private:
  static constexpr std::size_t huge_page = std::size_t{2} << 20;
  static constexpr std::size_t small_chunk = std::size_t{64} << 10;
  std::size_t chunk_, left_ = 0;
  std::byte* next_ = nullptr;
  std::vector<void*> chunks_;
};

// Owns an object whose memory is an arena's.
struct Destroy {
  template <class T>
  void operator()(T* object) const {
    object->~T();
  }
};
template <class T>
using ArenaPtr = std::unique_ptr<T, Destroy>;
template <class T, class... Arguments>
ArenaPtr<T> make_in(Arena& arena, Arguments&&... arguments) {
  static_assert(alignof(T) <= 64);
  return ArenaPtr<T>(new (arena.take(sizeof(T))) T(std::forward<Arguments>(arguments)...));
}

}  // namespace orrery::sim
