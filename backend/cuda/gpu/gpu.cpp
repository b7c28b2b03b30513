#include "backend/cuda/gpu/gpu.hpp"

#include <nccl.h>

#include "backend/cuda/gpu/blas.hpp"
#include "backend/cuda/gpu/dnn.hpp"
#include "backend/cuda/gpu/dnn_graph.hpp"
#include "backend/cuda/gpu/fp8_products.hpp"
#include "backend/cuda/gpu/kernels.hpp"
#include "backend/cuda/runtime.hpp"

namespace orrery::cuda {

namespace {

class GpuLauncher final : public Launcher {
 public:
  GpuLauncher(int gpu, const KernelBodies& bodies, std::function<void(std::exception_ptr)> failed,
              Copy copy)
      : others_(make_staged_launcher(bodies, std::move(failed), std::move(copy))) {
    use_gpu(gpu);
    cudaMemPool_t pool = nullptr;
    check(cudaDeviceGetDefaultMemPool(&pool, gpu), "cudaDeviceGetDefaultMemPool");
    std::uint64_t all = ~std::uint64_t{0};
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all),
          "cudaMemPoolSetAttribute");
    // An allocation must not make its stream wait for another, which no program asked for.
    int no = 0;
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolReuseAllowInternalDependencies, &no),
          "cudaMemPoolSetAttribute");
  }

  void prepare(const Kernel& kernel) override {
    if (kernel.op != Op::gemm && kernel.op != Op::grouped_gemm) return;
    const Fp8Scaling scaling = fp8_of(kernel).scaling;
    if (scaling == Fp8Scaling::block || scaling == Fp8Scaling::mx)
      throw Error(Category::unavailable,
                  "products in fp8 with scales per block have no kernels for GPUs: use "
                  "precision.products: fp8-tensor, or another world")
          .with("kernel", kernel.label);
    if (scaling == Fp8Scaling::tensor) return fp8_products_.prepare(kernel);
    blas_.prepare(kernel);
  }
  void rehearse(CUstream_st* stream, const Kernel& kernel,
                std::span<const std::int64_t> elements) override {
    if (kernel.op == Op::attention || kernel.op == Op::attention_backward)
      dnn_.rehearse(stream, kernel, elements);
  }
  void launch(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) override {
    if (kernel.op == Op::timed || run(stream, kernel, views)) return;
    others_->launch(stream, kernel, views);
  }

 private:
  bool run(CUstream_st* stream, const Kernel& kernel, Views views) {
    switch (kernel.op) {
      case Op::gemm:
      case Op::grouped_gemm:
        if (fp8_of(kernel).scaling != Fp8Scaling::none)
          return fp8_products_.multiply(stream, kernel, views);
        return blas_.multiply(stream, kernel, views);
      case Op::streaming:
        return fp8_cast(stream, kernel, views);
      case Op::fill:
        return views[0].dtype != Dtype::fp8 && fill(stream, kernel, views);
      case Op::cast:
        if (views[0].dtype == Dtype::fp8 || views[1].dtype == Dtype::fp8)
          return cast_in_fp8(stream, kernel, views);
        return cast(stream, kernel, views);
      case Op::linear_combination:
        return linear_combination(stream, kernel, views);
      case Op::bias_activation:
        return bias_activation(stream, kernel, views);
      case Op::bias_activation_backward:
        return bias_activation_backward(stream, kernel, views);
      case Op::gated_activation:
        return gated_activation(stream, kernel, views);
      case Op::gated_activation_backward:
        return gated_activation_backward(stream, kernel, views);
      case Op::residual_add:
        return residual_add(stream, kernel, views);
      case Op::rotary:
        return rotary(stream, kernel, views);
      case Op::add_positions:
        return add_positions(stream, kernel, views);
      case Op::positions_backward:
        return positions_backward(stream, kernel, views);
      case Op::permute:
        return permute(stream, kernel, views);
      case Op::embedding:
        return embedding(stream, kernel, views);
      case Op::embedding_backward:
        return embedding_backward(stream, kernel, views);
      case Op::initialise:
        return initialise(stream, kernel, views);
      case Op::column_sum:
        return column_sum(stream, kernel, views);
      case Op::norm:
        return norm(stream, kernel, views);
      case Op::norm_backward:
        return norm_backward(stream, kernel, views);
      case Op::cross_entropy:
        return cross_entropy(stream, kernel, views);
      case Op::sum_squares:
        return sum_squares(stream, kernel, views);
      case Op::clip_scale:
        return clip_scale(stream, kernel, views);
      case Op::sgd:
        return sgd(stream, kernel, views);
      case Op::adamw:
        return adamw(stream, kernel, views);
      case Op::attention:
        return dnn_.attention(stream, kernel, views) || attention(stream, kernel, views);
      case Op::attention_backward:
        return dnn_.attention_backward(stream, kernel, views) ||
               attention_backward(stream, kernel, views);
      default:
        return false;
    }
  }

  static BlasSearch search() {
    BlasSearch search;
    search.fill = fill_with_random_numbers;
    return search;
  }

  Blas blas_{search()};
  Fp8Products fp8_products_{blas_, round_to_fp8};
  Dnn dnn_;
  std::unique_ptr<Launcher> others_;
};

std::string version(int coded, int major, int minor) {
  return std::to_string(coded / major) + "." + std::to_string(coded % major / minor);
}

}  // namespace

int gpu_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string why_no_gpu() {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result != cudaSuccess) return cudaGetErrorString(result);
  return count > 0 ? "" : "no GPU";
}

namespace {

cudaDeviceProp properties_of(int gpu) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, gpu), "cudaGetDeviceProperties");
  return properties;
}

}  // namespace

std::int64_t multiprocessors_of(int gpu) { return properties_of(gpu).multiProcessorCount; }

Bytes memory_of(int gpu) {
  return Bytes(static_cast<std::int64_t>(properties_of(gpu).totalGlobalMem));
}

bool has_fp8(int gpu) {
  const cudaDeviceProp properties = properties_of(gpu);
  return 10 * properties.major + properties.minor >= 89;
}

std::string gpu_name(int gpu) {
  const cudaDeviceProp properties = properties_of(gpu);
  return std::string(properties.name) + " (sm_" + std::to_string(properties.major) +
         std::to_string(properties.minor) + ")";
}

std::string driver_version() {
  int coded = 0;
  if (cudaDriverGetVersion(&coded) != cudaSuccess || coded == 0) return "";
  return version(coded, 1000, 10);
}

std::string nccl_version() {
  try {
    int coded = 0;
    return ncclGetVersion(&coded) == ncclSuccess ? version(coded, 10000, 100) : "";
  } catch (const Error&) {
    return "";
  }
}

std::string dnn_version() {
  try {
    return version(static_cast<int>(dnn::Functions().cudnnGetVersion()), 10000, 100);
  } catch (const Error&) {
    return "";
  }
}

std::unique_ptr<Launcher> make_gpu_launcher(int gpu, const KernelBodies& bodies,
                                            std::function<void(std::exception_ptr)> failed,
                                            Copy copy) {
  return std::make_unique<GpuLauncher>(gpu, bodies, std::move(failed), std::move(copy));
}

}  // namespace orrery::cuda
