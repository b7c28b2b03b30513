// Products in fp8 on a GPU: the rounding of their operands, bit by bit, and the products.
#include <array>
#include <cstdint>

#include "backend/cuda/gpu/fp8_products.hpp"
#include "backend/cuda/runtime.hpp"
#include "tests/gpu/gpu_run.hpp"

namespace orrery {
namespace {

constexpr Float8 both[] = {Float8::e4m3, Float8::e5m2};

// What cuBLASLt adds up in 8 bits has fewer bits than fp32 on Hopper: DeepSeek-AI 2024 (arXiv
// 2412.19437, section 3.3.2) tell of about 14. Results are in bf16 or rounder besides.
constexpr double product_error = 0x1p-7;

bool multiplies_in_8_bits() {
  if (!gpu_here()) return false;
  if (cuda::has_fp8(0)) return true;
  MESSAGE("skipped: this GPU has no products in fp8");
  return false;
}

// Memory of the GPU with a copy of what is given.
struct OnGpu {
  void* data = nullptr;
  explicit OnGpu(const std::vector<std::byte>& bytes) {
    cuda::check(cudaMalloc(&data, bytes.size()), "cudaMalloc");
    cuda::check(cudaMemcpy(data, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  ~OnGpu() { cudaFree(data); }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;
  std::vector<std::byte> bytes(std::size_t size) const {
    std::vector<std::byte> out(size);
    cuda::check(cudaMemcpy(out.data(), data, size, cudaMemcpyDeviceToHost), "cudaMemcpy");
    return out;
  }
};

std::vector<std::byte> poison(std::int64_t bytes) {
  return std::vector<std::byte>(static_cast<std::size_t>(bytes), std::byte{0xab});
}

// Numbers of very different sizes, as they are in a type.
std::vector<double> numbers_in(Dtype dtype, std::int64_t n) {
  const Philox philox(7, Purpose::user);
  std::vector<double> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto wide = static_cast<float>(philox.normal(i)) *
                      std::exp2(static_cast<float>(philox.below(i + 1'000'000, 20)) - 12);
    x[i] = static_cast<double>(dtype == Dtype::bf16   ? from_bf16(to_bf16(wide))
                               : dtype == Dtype::fp16 ? from_fp16(to_fp16(wide))
                                                      : wide);
  }
  return x;
}

struct RoundingCase {
  std::int64_t groups, rows, depth;
  bool transposed;
  std::int64_t from = 0;  // the element of its storage that it begins with
};

void check_rounding(const RoundingCase& c, Dtype dtype, Float8 type, bool told) {
  const std::int64_t n = c.groups * c.rows * c.depth, padded = (c.depth + 15) / 16 * 16;
  const std::vector<double> all = numbers_in(dtype, c.from + n);
  const std::vector<double> x(all.begin() + c.from, all.end());
  float largest = 0;
  for (const double v : x) largest = std::max(largest, static_cast<float>(std::fabs(v)));
  if (told) largest = 0.5F;
  const float scale = fp8_scale(Fp8Scaling::tensor, largest, type);
  std::vector<std::byte> expected(static_cast<std::size_t>(c.groups * c.rows * padded));
  for (std::int64_t i = 0; i < c.groups * c.rows; ++i)
    for (std::int64_t d = 0; d < c.depth; ++d) {
      const std::int64_t group = i / c.rows, row = i % c.rows;
      const std::int64_t at =
          group * c.rows * c.depth + (c.transposed ? d * c.rows + row : row * c.depth + d);
      expected[static_cast<std::size_t>(i * padded + d)] = static_cast<std::byte>(
          to_fp8(static_cast<float>(x[static_cast<std::size_t>(at)]) * scale, type));
    }
  const OnGpu from(stored(all, dtype)), to(poison(c.groups * c.rows * padded)), inverse(poison(4)),
      given(stored({0.5}, dtype));
  cuda::Fp8Operand operand;
  operand.x = {static_cast<std::byte*>(from.data) + c.from * size_of(dtype), n, dtype};
  if (told) operand.largest = {given.data, 1, dtype};
  operand.type = type;
  operand.transposed = c.transposed;
  operand.groups = c.groups;
  operand.rows = c.rows;
  operand.depth = c.depth;
  operand.padded = padded;
  REQUIRE(cuda::round_to_fp8(nullptr, operand, to.data, static_cast<float*>(inverse.data)));
  cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  CAPTURE(std::string(name(dtype)));
  CAPTURE(c.rows);
  CAPTURE(c.depth);
  CAPTURE(c.transposed);
  CHECK(to.bytes(expected.size()) == expected);
  const float wanted = 1 / scale;
  std::vector<std::byte> wanted_bytes(4);
  std::memcpy(wanted_bytes.data(), &wanted, 4);
  CHECK(inverse.bytes(4) == wanted_bytes);
}

void check_product(const Kernel& plain, const Fp8Product& how, std::vector<OperandCase> operands,
                   double error = product_error) {
  operands.resize(6);
  check_kernel(in_fp8(plain, how), operands, error);
}

}  // namespace

TEST_CASE("GPU: operands are rounded to fp8 as on the CPU, bit by bit, in every layout") {
  if (!gpu_here()) return;
  for (const Dtype dtype : bulk_types)
    for (const Float8 type : both)
      for (const bool told : {false, true})
        for (const RoundingCase& c : {RoundingCase{1, 64, 128, false},
                                      {1, 64, 128, true},
                                      {1, 37, 131, false},
                                      {1, 37, 131, true},
                                      {3, 20, 48, false},
                                      {3, 20, 48, true},
                                      {1, 1, 1, false},
                                      {1, 1, 1, true},
                                      {1, 300, 65, true},
                                      {1, 128, 256, false, 3},
                                      {1, 128, 256, true, 3},
                                      {1, 1000, 16, false},
                                      {1, 16, 3000, true}})
          check_rounding(c, dtype, type, told);
}

TEST_CASE("GPU: casts to and from storage in fp8") {
  if (!gpu_here()) return;
  for (const Dtype t : bulk_types)
    for (const double deviation : {1e-3, 1.0, 300.0}) {  // below the least number, to above 448
      check_kernel(Kernel::cast(4099, t, Dtype::fp8), {{4099, t, deviation}, {4099, Dtype::fp8}},
                   0);
      check_kernel(Kernel::cast(4099, Dtype::fp8, t), {{4099, Dtype::fp8, deviation}, {4099, t}},
                   0);
    }
  check_kernel(Kernel::fill(1001, -3.3, Dtype::fp8), {{1001, Dtype::fp8}}, 0);
}

TEST_CASE("GPU: the cast to fp8 finds the largest magnitude") {
  if (!gpu_here()) return;
  for (const Dtype t : bulk_types)
    for (const std::int64_t n : {1, 7, 4099, 1 << 20}) {
      OperandCase x{n, t};
      for (const std::int64_t from : {0, 3}) {
        x.from = from;
        check_kernel(fp8_cast(n, Fp8Scaling::tensor, t), {x, {1, t}}, 0);
      }
    }
}

TEST_CASE("GPU: products in fp8, forward and of both gradients, at depths that are padded") {
  if (!multiplies_in_8_bits()) return;
  constexpr Fp8Product forward{Fp8Scaling::tensor},
      of_input{Fp8Scaling::tensor, Float8::e5m2, Float8::e4m3},
      of_weights{Fp8Scaling::tensor, Float8::e4m3, Float8::e5m2};
  const Dtype f = Dtype::fp32;
  for (const Dtype t : bulk_types)
    for (const auto [m, n, k] : {std::array<std::int64_t, 3>{64, 128, 96},
                                 {37, 48, 131},
                                 {1, 16, 16},
                                 {256, 512, 1024},
                                 {33, 24, 40}}) {
      const OperandCase a{m * k, t}, b{k * n, t}, c{m * n, t};
      check_product(Kernel::gemm(m, n, k, t), forward, {a, b, c});
      check_product(Kernel::gemm(m, n, k, t, false, true), of_input, {a, b, c});
      check_product(Kernel::gemm(m, n, k, t, false, true, true), of_input, {a, b, c});
      check_product(Kernel::gemm(m, n, k, t, true, false), of_weights, {a, b, c});
      check_product(Kernel::gemm(m, n, k, t, true, false, true), of_weights, {a, b, {m * n, f}});
      check_product(Kernel::gemm_bias(m, n, k, t), forward, {a, b, c, {n, t}});
    }
  check_product(
      Kernel::grouped_gemm(3, 20, 32, 40, Dtype::bf16), forward,
      {{3 * 20 * 40, Dtype::bf16}, {3 * 40 * 32, Dtype::bf16}, {3 * 20 * 32, Dtype::bf16}});
}

// Times a matrix that picks each number of a row: no sum, so that every bit shows.
TEST_CASE("GPU: a product in fp8 with one number in each sum is exact") {
  if (!multiplies_in_8_bits()) return;
  constexpr std::int64_t m = 48, n = 64;
  OperandCase one{n * n, Dtype::bf16};
  for (std::int64_t i = 0; i < n * n; ++i) one.values.push_back(i / n == i % n ? 1 : 0);
  for (const Float8 type : both)
    check_product(Kernel::gemm(m, n, n, Dtype::bf16), {Fp8Scaling::tensor, type, Float8::e4m3},
                  {{m * n, Dtype::bf16}, one, {m * n, Dtype::fp32}}, 0x1p-22);
}

TEST_CASE("GPU: products of operands that are stored in fp8") {
  if (!multiplies_in_8_bits()) return;
  const Dtype t = Dtype::fp8;
  check_kernel(Kernel::gemm(48, 32, 64, t, false, true),
               {{48 * 64, t}, {64 * 32, t}, {48 * 32, Dtype::bf16}}, product_error);
  // Layouts that cuBLASLt does not take are the host's.
  check_kernel(Kernel::gemm(48, 32, 64, t), {{48 * 64, t}, {64 * 32, t}, {48 * 32, Dtype::bf16}},
               product_error);
}

}  // namespace orrery
