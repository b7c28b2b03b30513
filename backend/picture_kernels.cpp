// Kernels on pictures and fields: their factories.
#include "backend/kernel_factory.hpp"

namespace orrery {

using namespace kernel_factory;

namespace {

std::array<std::int64_t, 6> dims_of(const ConvolutionShape& c) {
  return {c.samples, c.size, c.in, c.out, c.kernel, c.stride};
}

}  // namespace

ConvolutionShape convolution_of(const Kernel& k) {
  return {k.dims[0], k.dims[1], k.dims[2], k.dims[3], k.dims[4], k.dims[5]};
}

// dims of all three: those of the shape
Kernel Kernel::convolution(const ConvolutionShape& shape, Dtype dtype) {
  return make(Op::convolution, dtype, dims_of(shape), {r, r, w}, "convolution");
}

Kernel Kernel::convolution_input_gradient(const ConvolutionShape& shape, Dtype dtype,
                                          bool accumulate) {
  Kernel kernel = make(Op::convolution_input_gradient, dtype, dims_of(shape),
                       {r, r, accumulate ? u : w}, "convolution.dgrad");
  kernel.accumulate = accumulate;
  return kernel;
}

Kernel Kernel::convolution_weight_gradient(const ConvolutionShape& shape, Dtype dtype) {
  return make(Op::convolution_weight_gradient, dtype, dims_of(shape), {r, r, u},
              "convolution.wgrad");
}

// dims: rows, cols, 1 to evaluate; scalars: epsilon, momentum
Kernel Kernel::batch_norm(std::int64_t rows, std::int64_t cols, double epsilon, double momentum,
                          Dtype dtype, bool evaluates) {
  Kernel kernel = make(Op::batch_norm, dtype, {rows, cols, evaluates ? 1 : 0},
                       {r, r, r, w, evaluates ? r : u}, "batch_norm");
  kernel.scalars = {epsilon, momentum};
  return kernel;
}

// dims: rows, cols; scalars: epsilon
Kernel Kernel::batch_norm_backward(std::int64_t rows, std::int64_t cols, double epsilon,
                                   Dtype dtype) {
  Kernel kernel =
      make(Op::batch_norm_backward, dtype, {rows, cols}, {r, r, r, u, u, w}, "batch_norm_backward");
  kernel.scalars[0] = epsilon;
  return kernel;
}

// dims of both: samples, size, channels, kernel, stride
Kernel Kernel::max_pool(std::int64_t samples, std::int64_t size, std::int64_t channels,
                        std::int64_t kernel, std::int64_t stride, Dtype dtype) {
  return make(Op::max_pool, dtype, {samples, size, channels, kernel, stride}, {r, w}, "max_pool");
}

Kernel Kernel::max_pool_backward(std::int64_t samples, std::int64_t size, std::int64_t channels,
                                 std::int64_t kernel, std::int64_t stride, Dtype dtype) {
  return make(Op::max_pool_backward, dtype, {samples, size, channels, kernel, stride}, {r, r, w},
              "max_pool_backward");
}

// dims of both: samples, size, channels
Kernel Kernel::average_pool(std::int64_t samples, std::int64_t size, std::int64_t channels,
                            Dtype dtype) {
  return make(Op::average_pool, dtype, {samples, size, channels}, {r, w}, "average_pool");
}

Kernel Kernel::average_pool_backward(std::int64_t samples, std::int64_t size, std::int64_t channels,
                                     Dtype dtype) {
  return make(Op::average_pool_backward, dtype, {samples, size, channels}, {r, w},
              "average_pool_backward");
}

// dims: samples, size, 1 in order
Kernel Kernel::picture_batch(std::int64_t samples, std::int64_t size, std::uint64_t seed,
                             std::shared_ptr<const std::string> pictures, Dtype dtype,
                             bool in_order) {
  Kernel kernel =
      make(Op::picture_batch, dtype, {samples, size, in_order ? 1 : 0}, {r, w, w}, "picture_batch");
  kernel.seed = seed;
  kernel.text = std::move(pictures);
  return kernel;
}

// dims: m, n, k, elements read, elements written
Kernel Kernel::implicit_gemm(const char* label, std::int64_t m, std::int64_t n, std::int64_t k,
                             std::int64_t read, std::int64_t written, Dtype dtype,
                             std::initializer_list<Role> roles) {
  return make(Op::implicit_gemm, dtype, {m, n, k, read, written}, roles, label);
}

// dims: count, points, inverse
Kernel Kernel::fft(const char* label, std::int64_t count, std::int64_t points, Dtype dtype,
                   bool inverse) {
  return make(Op::fft, dtype, {count, points, inverse ? 1 : 0}, {r, w}, label);
}

// dims: elements read, elements written
Kernel Kernel::streaming(const char* label, std::int64_t read, std::int64_t written, Dtype dtype,
                         std::initializer_list<Role> roles) {
  return make(Op::streaming, dtype, {read, written}, roles, label);
}

// dims: elements
Kernel Kernel::host_copy(std::int64_t n, Dtype dtype) {
  return make(Op::host_copy, dtype, {n}, {r, w}, "copy");
}

// dims: bytes moved; scalars: flops, seconds
Kernel Kernel::custom(const char* label, std::initializer_list<Role> roles, KernelBody body,
                      Flops flops, Bytes moved, Seconds duration) {
  Kernel kernel = make(Op::custom, Dtype::fp32, {moved.value}, roles, label);
  kernel.scalars = {flops.value, duration.value};
  kernel.body = std::make_shared<const KernelBody>(std::move(body));
  return kernel;
}

// scalars: seconds (in place 1, as for custom)
Kernel Kernel::timed(const char* label, Seconds duration, std::initializer_list<Role> roles) {
  Kernel kernel = make(Op::timed, Dtype::fp32, {}, roles, label);
  kernel.scalars[1] = duration.value;
  return kernel;
}

}  // namespace orrery
