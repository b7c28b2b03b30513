#include <algorithm>
#include <array>

#include "backend/cuda/graphs.hpp"
#include "backend/cuda/launcher.hpp"
#include "backend/cuda/runtime.hpp"

namespace orrery::cuda {

namespace {

class HostLauncher final : public Launcher {
 public:
  HostLauncher(const KernelBodies& bodies, std::function<void(std::exception_ptr)> failed)
      : bodies_(bodies), failed_(std::move(failed)) {}

  void launch(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) override {
    refuse_recording(stream);
    auto call = std::make_unique<Call>();
    call->launcher = this;
    call->kernel = &kernel;
    call->count = views.size();
    std::copy(views.begin(), views.end(), call->views.begin());
    check(cudaLaunchHostFunc(stream, run, call.get()), "cudaLaunchHostFunc");
    call.release();  // `run` owns it
  }

 private:
  struct Call {
    HostLauncher* launcher = nullptr;
    const Kernel* kernel = nullptr;
    std::size_t count = 0;
    std::array<View, max_operands> views;
  };
  static void run(void* data) {
    const std::unique_ptr<Call> call(static_cast<Call*>(data));
    try {
      call->launcher->bodies_.run(*call->kernel, {call->views.data(), call->count});
    } catch (...) {
      call->launcher->failed_(std::current_exception());
    }
  }

  const KernelBodies& bodies_;
  std::function<void(std::exception_ptr)> failed_;
};

}  // namespace

std::unique_ptr<Launcher> make_host_launcher(const KernelBodies& bodies,
                                             std::function<void(std::exception_ptr)> failed) {
  return std::make_unique<HostLauncher>(bodies, std::move(failed));
}

}  // namespace orrery::cuda
