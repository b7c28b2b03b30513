#include "backend/cuda/gpu/fp8_products.hpp"

#include <array>

#include "backend/cuda/runtime.hpp"

namespace orrery::cuda {

namespace {

bool with_scale_per_tensor(const Kernel& kernel) {
  return fp8_of(kernel).scaling == Fp8Scaling::tensor;
}

// What is left to do with operands that are rounded.
Kernel rounded(const Kernel& kernel) {
  const Fp8Product how = fp8_of(kernel);
  Kernel product = in_fp8(kernel, {.scaling = Fp8Scaling::none, .a = how.a, .b = how.b});
  product.dims[2] = (kernel.dims[2] + fp8_multiple - 1) / fp8_multiple * fp8_multiple;
  product.transpose_a = false;
  product.transpose_b = true;
  return product;
}

}  // namespace

bool Fp8Products::multiply(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) {
  if (!with_scale_per_tensor(kernel)) return false;
  const Fp8Product how = fp8_of(kernel);
  const Kernel product = rounded(kernel);
  const auto [m, n, padded, bias, groups_or_0, unused] = product.dims;
  const std::int64_t groups = kernel.op == Op::grouped_gemm ? groups_or_0 : 1, k = kernel.dims[2];
  const auto view = [views](std::size_t place) {
    return place < views.size() ? views[place] : View{};
  };
  const Fp8Operand a{views[0], view(fp8_largest_a), how.a, kernel.transpose_a, groups, m, k,
                     padded};
  const Fp8Operand b{views[1], view(fp8_largest_b), how.b, !kernel.transpose_b, groups, n, k,
                     padded};
  const std::int64_t of_a = groups * m * padded, of_b = groups * n * padded;
  std::byte* memory = nullptr;
  check(cudaMallocAsync(reinterpret_cast<void**>(&memory),
                        static_cast<std::size_t>(of_a + of_b + 2 * fp8_multiple), stream),
        "cudaMallocAsync");
  const View a8{memory, of_a, Dtype::fp8}, scale_a{memory + of_a + of_b, 1, Dtype::fp32};
  const View b8{memory + of_a, of_b, Dtype::fp8},
      scale_b{memory + of_a + of_b + fp8_multiple, 1, Dtype::fp32};
  const std::array<View, 6> given{a8, b8, views[2], view(3), scale_a, scale_b};
  const bool done = round_(stream, a, a8.data, static_cast<float*>(scale_a.data)) &&
                    round_(stream, b, b8.data, static_cast<float*>(scale_b.data)) &&
                    blas_.multiply(stream, product, given);
  check(cudaFreeAsync(memory, stream), "cudaFreeAsync");
  return done;
}

void Fp8Products::prepare(const Kernel& kernel) {
  if (with_scale_per_tensor(kernel))
    blas_.prepare(rounded(kernel), kernel.accumulate || kernel.transpose_a);
}

}  // namespace orrery::cuda
