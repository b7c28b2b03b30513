#include <algorithm>
#include <array>
#include <vector>

#include "backend/cuda/graphs.hpp"
#include "backend/cuda/launcher.hpp"
#include "backend/cuda/pinned.hpp"
#include "backend/cuda/runtime.hpp"

namespace orrery::cuda {

namespace {

class StagedLauncher final : public Launcher {
 public:
  StagedLauncher(const KernelBodies& bodies, std::function<void(std::exception_ptr)> failed,
                 Copy copy)
      : on_host_(make_host_launcher(bodies, std::move(failed))), copy_(std::move(copy)) {}
  ~StagedLauncher() override {
    for (void* block : stranded_) give_back_pinned(block);  // the rank's streams have ended
  }

  void launch(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) override {
    refuse_recording(stream);
    auto staged = std::make_unique<Staged>();
    try {
      enqueue(stream, kernel, views, *staged);
      check(cudaLaunchHostFunc(stream, give_back, staged.get()), "cudaLaunchHostFunc");
    } catch (...) {
      // Copies that were enqueued may be on their way.
      stranded_.insert(stranded_.end(), staged->taken.begin(), staged->taken.end());
      throw;
    }
    staged.release();  // `give_back` owns it
  }

 private:
  struct Staged {
    std::vector<void*> taken;
  };
  // Operands that are only written go to the host too: a kernel may leave a part of them alone.
  void enqueue(CUstream_st* stream, const Kernel& kernel, std::span<const View> views,
               Staged& staged) {
    std::array<View, max_operands> on_host;
    for (std::size_t i = 0; i < views.size(); ++i) {
      on_host[i] = views[i];
      if (views[i].data == nullptr) continue;
      const std::size_t bytes = size(views[i]);
      on_host[i].data = take_pinned(bytes);
      staged.taken.push_back(on_host[i].data);
      copy_(stream, on_host[i].data, views[i].data, bytes);
    }
    on_host_->launch(stream, kernel, {on_host.data(), views.size()});
    for (std::size_t i = 0; i < views.size(); ++i)
      if (views[i].data != nullptr && role_of(kernel.roles, i) != Role::read)
        copy_(stream, views[i].data, on_host[i].data, size(views[i]));
  }
  static void give_back(void* data) {
    const std::unique_ptr<Staged> staged(static_cast<Staged*>(data));
    for (void* block : staged->taken) give_back_pinned(block);
  }
  static std::size_t size(const View& view) {
    return std::max<std::size_t>(
        static_cast<std::size_t>(bytes_of(view.elements, view.dtype).value), 1);
  }

  std::unique_ptr<Launcher> on_host_;
  Copy copy_;
  std::vector<void*> stranded_;  // by launches that failed
};

}  // namespace

void copy_async(CUstream_st* stream, void* to, const void* from, std::size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
}

std::unique_ptr<Launcher> make_staged_launcher(const KernelBodies& bodies,
                                               std::function<void(std::exception_ptr)> failed,
                                               Copy copy) {
  return std::make_unique<StagedLauncher>(bodies, std::move(failed), std::move(copy));
}

}  // namespace orrery::cuda
