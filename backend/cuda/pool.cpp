#include "backend/cuda/pool.hpp"

#include <algorithm>

#include "backend/cuda/runtime.hpp"

namespace orrery::cuda {

PoolWatch::PoolWatch(std::vector<int> gpus) : gpus_(std::move(gpus)) {
  std::sort(gpus_.begin(), gpus_.end());
  gpus_.erase(std::unique(gpus_.begin(), gpus_.end()), gpus_.end());
  forget_highest(cudaMemPoolAttrUsedMemHigh);
  forget_highest(cudaMemPoolAttrReservedMemHigh);
}

void PoolWatch::first_step_ended() { forget_highest(cudaMemPoolAttrUsedMemHigh); }

void PoolWatch::forget_highest(cudaMemPoolAttr mark) const {
  for (const int gpu : gpus_) {
    cudaMemPool_t pool = nullptr;
    if (cudaDeviceGetDefaultMemPool(&pool, gpu) != cudaSuccess) continue;
    std::uint64_t now = 0;  // the only value that CUDA takes: what is in use now
    cudaMemPoolSetAttribute(pool, mark, &now);
  }
}

std::optional<PoolUse> PoolWatch::use() const {
  PoolUse all;
  for (const int gpu : gpus_) {
    cudaMemPool_t pool = nullptr;
    std::uint64_t used = 0, reserved = 0;
    if (cudaDeviceGetDefaultMemPool(&pool, gpu) != cudaSuccess ||
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &used) != cudaSuccess ||
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemHigh, &reserved) != cudaSuccess)
      return std::nullopt;
    all.used += Bytes(static_cast<std::int64_t>(used));
    all.reserved += Bytes(static_cast<std::int64_t>(reserved));
  }
  return all;
}

}  // namespace orrery::cuda
