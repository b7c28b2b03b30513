#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <vector>

#include "backend/cuda/launcher.hpp"
#include "backend/cuda/runtime.hpp"

namespace orrery::cuda {

namespace {

// Blocks of pinned memory by size, kept: pinning takes the driver longer than most kernels.
class PinnedBlocks {
 public:
  ~PinnedBlocks() {
    for (auto& [size, blocks] : free_)
      for (void* block : blocks) cudaFreeHost(block);
  }
  // Pinning is done without the lock: it may wait for streams, on which blocks are given back.
  void* take(std::size_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      if (auto& blocks = free_[bytes]; !blocks.empty()) {
        void* block = blocks.back();
        blocks.pop_back();
        return block;
      }
    }
    void* fresh = nullptr;
    check(cudaHostAlloc(&fresh, bytes, cudaHostAllocPortable), "cudaHostAlloc");
    return fresh;
  }
  void give_back(void* block, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    free_[bytes].push_back(block);
  }

 private:
  std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> free_;
};

class StagedLauncher final : public Launcher {
 public:
  StagedLauncher(const KernelBodies& bodies, std::function<void(std::exception_ptr)> failed)
      : on_host_(make_host_launcher(bodies, std::move(failed))) {}

  // Operands that are only written go to the host too: a kernel may leave a part of them alone.
  void launch(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) override {
    auto staged = std::make_unique<Staged>();
    staged->blocks = &blocks_;
    std::array<View, max_operands> on_host;
    for (std::size_t i = 0; i < views.size(); ++i) {
      on_host[i] = views[i];
      if (views[i].data == nullptr) continue;
      const std::size_t bytes = size(views[i]);
      on_host[i].data = blocks_.take(bytes);
      staged->taken.emplace_back(on_host[i].data, bytes);
      copy(on_host[i].data, views[i].data, bytes, stream);
    }
    on_host_->launch(stream, kernel, {on_host.data(), views.size()});
    for (std::size_t i = 0; i < views.size(); ++i)
      if (views[i].data != nullptr && role_of(kernel.roles, i) != Role::read)
        copy(views[i].data, on_host[i].data, size(views[i]), stream);
    check(cudaLaunchHostFunc(stream, give_back, staged.get()), "cudaLaunchHostFunc");
    staged.release();  // `give_back` owns it
  }

 private:
  struct Staged {
    PinnedBlocks* blocks = nullptr;
    std::vector<std::pair<void*, std::size_t>> taken;
  };
  static void give_back(void* data) {
    const std::unique_ptr<Staged> staged(static_cast<Staged*>(data));
    for (const auto& [block, bytes] : staged->taken) staged->blocks->give_back(block, bytes);
  }
  static std::size_t size(const View& view) {
    return std::max<std::size_t>(
        static_cast<std::size_t>(bytes_of(view.elements, view.dtype).value), 1);
  }
  static void copy(void* to, const void* from, std::size_t bytes, CUstream_st* stream) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
  }

  std::unique_ptr<Launcher> on_host_;
  PinnedBlocks blocks_;
};

}  // namespace

std::unique_ptr<Launcher> make_staged_launcher(const KernelBodies& bodies,
                                               std::function<void(std::exception_ptr)> failed) {
  return std::make_unique<StagedLauncher>(bodies, std::move(failed));
}

}  // namespace orrery::cuda
