// Products in fp8 by cuBLASLt as the GPU's launcher makes them, on a double of that library, with
// operands rounded by the host.
#include <atomic>
#include <cmath>
#include <cstring>

#include "backend/cuda/gpu/fp8_products.hpp"
#include "tests/cpu/cpu_world.hpp"
#include "tests/cuda/double_world.hpp"

namespace orrery {
namespace {

float number(const View& x, std::int64_t i) {
  return x.dtype == Dtype::fp32 ? static_cast<const float*>(x.data)[i]
                                : from_bf16(static_cast<const std::uint16_t*>(x.data)[i]);
}

// As fp8.cu does.
bool round_on_host(CUstream_st* stream, const cuda::Fp8Operand& o, void* to, float* inverse) {
  cuda_double::append(stream, [=] {
    const std::int64_t n = o.groups * o.rows * o.depth;
    float largest = 0;
    for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(number(o.x, i)));
    if (o.largest.data != nullptr) largest = number(o.largest, 0);
    const float scale = fp8_scale(Fp8Scaling::tensor, largest, o.type);
    *inverse = 1 / scale;
    auto* y = static_cast<std::uint8_t*>(to);
    for (std::int64_t group = 0; group < o.groups; ++group)
      for (std::int64_t row = 0; row < o.rows; ++row)
        for (std::int64_t d = 0; d < o.padded; ++d) {
          const std::int64_t at = o.transposed ? d * o.rows + row : row * o.depth + d;
          const float x = d < o.depth ? number(o.x, group * o.rows * o.depth + at) : 0;
          *y++ = to_fp8(x * scale, o.type);
        }
  });
  return true;
}

// Counts the operands on which products are tried out, and the products that cuBLASLt had none of.
struct Counts {
  std::atomic<int> tried{0}, others{0};
};

class Fp8Launcher final : public cuda::Launcher {
 public:
  Fp8Launcher(std::function<void(std::exception_ptr)> failed, Counts& counts)
      : counts_(counts),
        blas_(search(counts)),
        products_(blas_, round_on_host),
        others_(cuda::make_host_launcher(cpu_bodies(), std::move(failed))) {}
  void launch(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) override {
    if (products_.multiply(stream, kernel, views)) return;
    ++counts_.others;
    others_->launch(stream, kernel, views);
  }
  void prepare(const Kernel& kernel) override { products_.prepare(kernel); }

 private:
  static cuda::BlasSearch search(Counts& counts) {
    cuda::BlasSearch search;
    search.fill = [&counts](CUstream_st* stream, void* data, std::size_t bytes) {
      ++counts.tried;
      cuda::fill_with_equal_numbers(stream, data, bytes);
    };
    return search;
  }

  Counts& counts_;
  cuda::Blas blas_;
  cuda::Fp8Products products_;
  std::unique_ptr<cuda::Launcher> others_;
};

// Whole numbers from -7 to 7 have exact sums, and are numbers of both types with the scale that
// makes 7 the largest; times `unit`.
struct Fp8OperandCase {
  std::int64_t elements = 0;
  Dtype dtype = Dtype::bf16;
  float unit = 1;
  std::int64_t from = 0;
};

using Results = std::vector<double>;

Results product(World& world, const Kernel& kernel, const std::vector<Fp8OperandCase>& cases,
                Counts* counts = nullptr) {
  Results result;
  world.run([&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    std::vector<Tensor> tensors;
    std::vector<Operand> operands;
    for (const Fp8OperandCase& c : cases) {
      tensors.emplace_back();
      if (c.elements > 0) {
        const std::int64_t end = c.from + c.elements;
        tensors.back() = make(rank, compute, end, c.dtype).slice(c.from, end);
        std::vector<float> wide;
        std::vector<std::uint16_t> narrow;
        for (std::int64_t i = 0; i < c.elements; ++i) {
          wide.push_back(c.unit * static_cast<float>((i * 7 + c.elements) % 15 - 7));
          narrow.push_back(to_bf16(wide.back()));
        }
        if (c.elements == 1) narrow[0] = to_bf16(wide[0] = c.unit);
        rank.write_bytes(tensors.back(), c.dtype == Dtype::fp32 ? std::as_bytes(std::span(wide))
                                                                : std::as_bytes(std::span(narrow)));
      }
      operands.emplace_back(tensors.back());
    }
    const Prepared prepared = rank.prepare(kernel);
    const int before = counts != nullptr ? counts->tried.load() : 0;
    compute.launch(prepared, operands);
    rank.wait(compute.record());
    if (counts != nullptr) CHECK(counts->tried == before);
    result = rank.read(tensors[2]);
  });
  return result;
}

// The result by cuBLASLt, or, where it has none, by the host.
Results check_product(const Kernel& kernel, const std::vector<Fp8OperandCase>& cases,
                      bool by_cublaslt = true) {
  CAPTURE(kernel.dims[0]);
  CAPTURE(kernel.dims[1]);
  CAPTURE(kernel.dims[2]);
  WorldOptions options = options_for(Axis::replicate, 1);
  options.bodies = &cpu_bodies();
  const Results cpu = product(*make_cpu_world(options), kernel, cases);
  setenv("ORRERY_CUDA_LIBRARIES", ORRERY_LIBRARY_DOUBLES, 1);
  Counts counts;
  cuda::CudaOptions on_double = on_the_double();
  on_double.launcher = [&counts](int, std::function<void(std::exception_ptr)> failed) {
    return std::make_unique<Fp8Launcher>(std::move(failed), counts);
  };
  const Results gpu =
      product(*cuda::make_cuda_world(options, std::move(on_double)), kernel, cases, &counts);
  CHECK(gpu == cpu);
  CHECK(counts.others == (by_cublaslt ? 0 : 1));
  return gpu;
}

constexpr Float8 e4m3 = Float8::e4m3, e5m2 = Float8::e5m2;
constexpr Fp8Product forward{Fp8Scaling::tensor}, of_input{Fp8Scaling::tensor, e5m2, e4m3},
    of_weights{Fp8Scaling::tensor, e4m3, e5m2};

}  // namespace

TEST_CASE("products in fp8 of every layout are those of the CPU, whatever their depth") {
  constexpr std::int64_t m = 5, n = 32;
  for (const std::int64_t k : {16, 23, 48}) {
    const Fp8OperandCase a{m * k}, b{k * n, Dtype::bf16, 0.25F}, c{m * n}, none{};
    check_product(in_fp8(Kernel::gemm(m, n, k, Dtype::fp8), forward), {a, b, c, none, none, none});
    check_product(in_fp8(Kernel::gemm(m, n, k, Dtype::fp8, false, true), of_input),
                  {a, b, c, none, none, none});
    check_product(in_fp8(Kernel::gemm(m, n, k, Dtype::fp8, true, false, true), of_weights),
                  {a, b, {m * n, Dtype::fp32}, none, none, none});
    check_product(in_fp8(Kernel::gemm_bias(m, n, k, Dtype::fp8), forward),
                  {a, b, c, {n}, none, none});
    check_product(in_fp8(Kernel::grouped_gemm(2, m, n, k, Dtype::fp8), forward),
                  {{2 * m * k}, {2 * k * n}, {2 * m * n}, none, none, none});
  }
}

TEST_CASE("a product in fp8 takes the largest magnitudes that it is given") {
  constexpr std::int64_t m = 4, n = 16, k = 16;
  const Kernel kernel = in_fp8(Kernel::gemm(m, n, k, Dtype::fp8), forward);
  const Fp8OperandCase a{m * k}, b{k * n}, c{m * n}, none{};
  const Results own = check_product(kernel, {a, b, c, none, none, none});
  CHECK(check_product(kernel, {a, b, c, none, {1, Dtype::bf16, 7}, {1, Dtype::bf16, 7}}) == own);
  // Of all numbers beyond the largest become it.
  CHECK(check_product(kernel, {a, b, c, none, {1, Dtype::bf16, 1}, none}) != own);
  CHECK(check_product(kernel, {a, b, c, none, none, {1, Dtype::bf16, 1}}) != own);
}

TEST_CASE("a product in fp8 that cuBLASLt has none of runs on the host") {
  const Fp8OperandCase none{};
  const auto check = [&](std::int64_t n, const Fp8Product& how, const Fp8OperandCase& c,
                         const Fp8OperandCase& bias = {}) {
    Kernel kernel = bias.elements > 0 ? Kernel::gemm_bias(4, n, 16, Dtype::fp8)
                                      : Kernel::gemm(4, n, 16, Dtype::fp8);
    std::vector<Fp8OperandCase> operands{{4 * 16}, {16 * n}, c};
    if (how.scaling == Fp8Scaling::tensor)
      for (const Fp8OperandCase& more : {bias, none, none}) operands.push_back(more);
    check_product(in_fp8(kernel, how), operands, false);
  };
  check(24, forward, {4 * 24});                     // columns
  check(16, forward, {4 * 16, Dtype::bf16, 1, 4});  // place of the result
  check(16, forward, {4 * 16, Dtype::fp32}, {16});  // a bias in another type
  check(16, {Fp8Scaling::block}, {4 * 16});
  check(16, {Fp8Scaling::mx}, {4 * 16});
}

TEST_CASE("operands that are stored in fp8 are multiplied as they are") {
  constexpr std::int64_t m = 3, n = 16, k = 32;
  setenv("ORRERY_CUDA_LIBRARIES", ORRERY_LIBRARY_DOUBLES, 1);
  cuda::CudaOptions options = on_the_double();
  options.launcher = [](int, std::function<void(std::exception_ptr)> failed) {
    class Direct final : public cuda::Launcher {
     public:
      explicit Direct(std::function<void(std::exception_ptr)> told)
          : others_(cuda::make_host_launcher(cpu_bodies(), std::move(told))) {}
      void launch(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) override {
        if (kernel.op == Op::gemm) CHECK(blas_.multiply(stream, kernel, views));
        if (kernel.op != Op::gemm) others_->launch(stream, kernel, views);
      }
      void prepare(const Kernel& kernel) override {
        if (kernel.op == Op::gemm) blas_.prepare(kernel);
      }

     private:
      cuda::Blas blas_;
      std::unique_ptr<cuda::Launcher> others_;
    };
    return std::make_unique<Direct>(std::move(failed));
  };
  run_on_double(
      options_for(Axis::replicate, 1),
      [&](Rank& rank) {
        Stream& compute = rank.stream("compute");
        const Tensor a = make(rank, compute, m * k, Dtype::fp8),
                     b = make(rank, compute, k * n, Dtype::fp8),
                     c = make(rank, compute, m * n, Dtype::bf16);
        fill(rank, compute, a, 1.5);
        fill(rank, compute, b, -0.5);
        compute.launch(rank.prepare(Kernel::gemm(m, n, k, Dtype::fp8, false, true)), {a, b, c});
        rank.wait(compute.record());
        CHECK(rank.read(c) == Results(m * n, -0.75 * k));
      },
      std::move(options));
}

}  // namespace orrery
