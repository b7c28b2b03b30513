#include "backend/cuda/pinned.hpp"

#include <algorithm>
#include <bit>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/cuda/runtime.hpp"

namespace orrery::cuda {

namespace {

constexpr std::size_t slab_bytes = std::size_t{64} << 20, least = 256;

std::byte* pin(std::size_t bytes) {
  void* fresh = nullptr;
  check(cudaHostAlloc(&fresh, bytes, cudaHostAllocPortable), "cudaHostAlloc");
  return static_cast<std::byte*>(fresh);
}

// Blocks of a power of two, so that one fits many; large ones as they are.
std::size_t size_of_block(std::size_t bytes) {
  return bytes > slab_bytes / 4 ? (bytes + least - 1) / least * least
                                : std::bit_ceil(std::max(bytes, least));
}

struct Pinned {
  std::mutex mutex;
  std::byte* slab = nullptr;
  std::size_t cut = 0;
  std::map<std::size_t, std::vector<void*>> free;  // by size of block
  std::unordered_map<void*, std::size_t> sizes;

  void* take(std::size_t bytes) {
    const std::size_t size = size_of_block(bytes);
    {
      const std::lock_guard lock(mutex);
      if (auto& blocks = free[size]; !blocks.empty()) {
        void* block = blocks.back();
        blocks.pop_back();
        return block;
      }
      if (slab != nullptr && slab_bytes - cut >= size) {
        void* block = slab + std::exchange(cut, cut + size);
        sizes[block] = size;
        return block;
      }
    }
    void* block = pin(size);  // without the lock: streams may have to come to a give_back
    const std::lock_guard lock(mutex);
    sizes[block] = size;
    return block;
  }
  void give_back(void* block) {
    const std::lock_guard lock(mutex);
    free[sizes.at(block)].push_back(block);
  }
};

// Never destroyed: the driver may be gone when the process ends.
Pinned& pinned() {
  static auto* const all = new Pinned;
  return *all;
}

}  // namespace

void reserve_pinned_memory() {
  Pinned& all = pinned();
  const std::lock_guard lock(all.mutex);
  if (all.slab == nullptr) all.slab = pin(slab_bytes);
}

void* take_pinned(std::size_t bytes) { return pinned().take(bytes); }
void give_back_pinned(void* block) { pinned().give_back(block); }

}  // namespace orrery::cuda
