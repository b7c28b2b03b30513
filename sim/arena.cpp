#include "sim/arena.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "backend/core/error.hpp"

namespace orrery::sim {

Arena::~Arena() {
  for (void* chunk : chunks_) std::free(chunk);
}

void* Arena::take(std::size_t bytes) {
  constexpr std::size_t line = 64;
  bytes = (bytes + line - 1) / line * line;
  ORRERY_ASSERT(bytes <= chunk_, "an arena hands out small pieces");
  if (bytes > left_) {
    void* chunk = std::aligned_alloc(chunk_ == huge_page ? huge_page : line, chunk_);
    if (chunk == nullptr) throw std::bad_alloc();
    if (chunk_ == huge_page) madvise(chunk, chunk_, MADV_HUGEPAGE);  // a wish; may be refused
    chunks_.push_back(chunk);
    next_ = static_cast<std::byte*>(chunk);
    left_ = chunk_;
  }
  void* const piece = next_;
  next_ += bytes;
  left_ -= bytes;
  return piece;
}

}  // namespace orrery::sim
