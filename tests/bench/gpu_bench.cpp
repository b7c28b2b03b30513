// The kernels of backend/cuda/gpu at the sizes of Llama's steps: how near those bound by memory
// come to a copy within the GPU, and how near the algorithms chosen for matrix products to the best
// that a longer search finds; in fp8 those of operands that are there in 8 bits, and those that
// round bf16 first, to the same best. Prints one JSON object per measurement.
//   bench_gpu [tokens, default 8192 [prefix of the names to run]]
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "backend/core/philox.hpp"
#include "backend/cpu/bodies.hpp"
#include "backend/cuda/gpu/blas.hpp"
#include "backend/cuda/gpu/gpu.hpp"
#include "backend/cuda/gpu/kernels.hpp"
#include "backend/cuda/runtime.hpp"
#include "backend/fp8.hpp"

namespace orrery {
namespace {

using cuda::check;

// What an operand holds, and how many of its elements a kernel moves where that is not all.
enum class Holds : std::uint8_t { numbers, positive, tokens, step };
struct OperandShape {
  std::int64_t elements = 0;
  Dtype dtype = Dtype::bf16;
  Holds holds = Holds::numbers;
  std::int64_t moved = -1;
};

struct Case {
  std::string name;
  Kernel kernel;
  std::vector<OperandShape> operands;

  std::int64_t bytes(std::size_t i) const {
    return bytes_of(operands[i].elements, operands[i].dtype).value;
  }
  // Each operand once for being read and once for being written.
  std::int64_t moved() const {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      const OperandShape& o = operands[i];
      const int times = role_of(kernel.roles, i) == Role::update ? 2 : 1;
      sum += times * bytes_of(o.moved < 0 ? o.elements : o.moved, o.dtype).value;
    }
    return sum;
  }
};

constexpr std::int64_t vocabulary = 128'256;

std::vector<std::int32_t> tokens_of(std::int64_t count) {
  const Philox philox(1, Purpose::user);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<std::int32_t>(philox.below(i, vocabulary));
  return tokens;
}

// A GPU's memory, a stream and the launcher that runs use.
class Bench {
 public:
  Bench() : launcher_(cuda::make_gpu_launcher(0, cpu_bodies(), fail)) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    for (cudaEvent_t* event : {&begin_, &end_})
      check(cudaEventCreateWithFlags(event, cudaEventDefault), "cudaEventCreateWithFlags");
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    size_ = std::min<std::size_t>(free / 4 * 3, std::size_t{32} << 30) / aligned * aligned;
    check(cudaMalloc(reinterpret_cast<void**>(&memory_), size_), "cudaMalloc");
    cuda::fill_with_random_numbers(stream_, memory_, size_);
    copy_ = measure_copy();
  }
  ~Bench() { cuda::finish(stream_); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  double copy_rate() const { return copy_; }
  cudaStream_t stream() const { return stream_; }
  cuda::Launcher& launcher() { return *launcher_; }

  // Sets of operands, so many that they do not stay in the L2 cache from one turn to the next;
  // none where not even one fits.
  std::vector<std::vector<View>> operands_of(const Case& c) {
    std::size_t each = 0;
    for (std::size_t i = 0; i < c.operands.size(); ++i) each += padded(c.bytes(i));
    const std::size_t wanted = (std::size_t{1} << 30) / std::max<std::size_t>(each, 1) + 2;
    const std::size_t count =
        std::min({wanted, size_ / std::max<std::size_t>(each, 1), std::size_t{64}});
    std::vector<std::vector<View>> sets(count);
    std::byte* at = memory_;
    for (auto& set : sets)
      for (std::size_t i = 0; i < c.operands.size(); ++i) {
        const OperandShape& o = c.operands[i];
        set.push_back({o.elements == 0 ? nullptr : at, o.elements, o.dtype});
        if (o.holds == Holds::positive)  // 0.0115: roots of others take another way
          check(cudaMemsetAsync(at, 0x3c, static_cast<std::size_t>(c.bytes(i)), stream_),
                "cudaMemsetAsync");
        else if (o.holds == Holds::tokens)
          upload(at, tokens_of(o.elements));
        else if (o.holds == Holds::step)
          upload(at, std::vector<double>{3, 1});
        at += padded(c.bytes(i));
      }
    return sets;
  }

  // Seconds of one call of work(turn), the median of several timings of some milliseconds each.
  double time(const std::function<void(std::size_t)>& work) {
    for (std::size_t i = 0; i < 3; ++i) work(i);
    const double once = run(work, 3);
    const auto calls = static_cast<std::size_t>(std::clamp(5e-3 / once, 3.0, 200.0));
    std::vector<double> times;
    for (int i = 0; i < 9; ++i) times.push_back(run(work, calls));
    std::sort(times.begin(), times.end());
    // What operands held may have been changed, as by a softmax in place.
    cuda::fill_with_random_numbers(stream_, memory_, size_);
    return times[times.size() / 2];
  }

 private:
  static constexpr std::size_t aligned = 256;
  static void fail(const std::exception_ptr&) { std::abort(); }
  static std::size_t padded(std::int64_t bytes) {
    return (static_cast<std::size_t>(bytes) + aligned - 1) / aligned * aligned;
  }

  template <class Number>
  void upload(std::byte* to, const std::vector<Number>& from) {
    check(
        cudaMemcpyAsync(to, from.data(), from.size() * sizeof from[0], cudaMemcpyDefault, stream_),
        "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }

  double run(const std::function<void(std::size_t)>& work, std::size_t calls) {
    check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    for (std::size_t i = 0; i < calls; ++i) work(i);
    check(cudaEventRecord(end_, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
    return static_cast<double>(ms) * 1e-3 / static_cast<double>(calls);
  }

  // Bytes read and written per second.
  double measure_copy() {
    const std::size_t bytes = std::min(std::size_t{1} << 30, size_ / 4);
    const double seconds = time([&](std::size_t turn) {
      std::byte* from = memory_ + turn % 2 * 2 * bytes;
      check(cudaMemcpyAsync(from + bytes, from, bytes, cudaMemcpyDeviceToDevice, stream_),
            "cudaMemcpyAsync");
    });
    return 2 * static_cast<double>(bytes) / seconds;
  }

  std::unique_ptr<cuda::Launcher> launcher_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  std::byte* memory_ = nullptr;
  std::size_t size_ = 0;
  double copy_ = 0;
};

std::string shape(std::int64_t rows, std::int64_t cols) {
  return std::to_string(rows) + "x" + std::to_string(cols);
}

// Of a model of that width: 8 key and value heads, bf16 beside fp32 gradients of gains and tables.
std::vector<Case> cases_of(std::int64_t tokens, std::int64_t hidden, std::int64_t inner,
                           std::int64_t head_size) {
  const Dtype t = Dtype::bf16, f = Dtype::fp32;
  const std::int64_t n = tokens * hidden, wide = tokens * inner, heads = hidden / head_size;
  const std::string at = shape(tokens, hidden), at_inner = shape(tokens, inner);
  const OperandShape x{n}, gain{hidden}, sum{hidden, f}, none{}, gates{2 * wide}, gated{wide},
      ids{tokens, Dtype::int32, Holds::tokens};
  const auto list = tokens_of(tokens);
  const auto distinct =
      static_cast<std::int64_t>(std::unordered_set(list.begin(), list.end()).size());
  const std::int64_t packed = tokens * (heads + 16) * head_size;
  const std::int64_t turned = tokens * (heads + 8) * head_size;
  return {
      {"norm " + at, Kernel::norm(tokens, hidden, Norm::rms, 1e-5, t), {x, gain, none, x}},
      {"norm_backward " + at,
       Kernel::norm_backward(tokens, hidden, Norm::rms, 1e-5, true, t),
       {x, x, gain, x, sum, none, x}},
      {"residual_add " + at, Kernel::residual_add(tokens, hidden, t), {x, x, none, x}},
      {"gated_activation " + at_inner,
       Kernel::gated_activation(tokens, inner, Activation::silu, t),
       {gates, none, gated}},
      {"gated_activation_backward " + at_inner,
       Kernel::gated_activation_backward(tokens, inner, Activation::silu, t),
       {gated, gates, none, gates}},
      {"rotary " + at,
       Kernel::rotary(1, tokens, heads + 8, heads + 16, head_size, 500'000, t),
       {{packed, t, Holds::numbers, turned}}},
      {"embedding " + at,
       Kernel::embedding(tokens, hidden, vocabulary, t),
       {ids, {vocabulary * hidden, t, Holds::numbers, n}, x}},
      {"embedding_backward " + at,
       Kernel::embedding_backward(tokens, hidden, vocabulary, t),
       {ids, x, {vocabulary * hidden, f, Holds::numbers, distinct * hidden}}},
      {"fp8.cast " + at, fp8_cast(n, Fp8Scaling::tensor, t), {x, {1}}},
      {"column_sum " + at, Kernel::column_sum(tokens, hidden, t), {x, sum}},
      {"bias_activation " + at_inner,
       Kernel::bias_activation(tokens, inner, Activation::gelu, t),
       {gated, {inner}, gated}},
      {"permute " + at, Kernel::permute(8, tokens / 8, hidden, n / 8, hidden, t), {x, x}},
  };
}

// Over a model's parameters, or some of them.
std::vector<Case> flat_cases(std::int64_t n, std::int64_t tokens) {
  const Dtype t = Dtype::bf16, f = Dtype::fp32;
  const OperandShape bf16{n}, fp32{n, f}, one{1, f}, step{2, Dtype::fp64, Holds::step},
      squares{n, f, Holds::positive}, none{};
  const std::string at = std::to_string(n);
  return {
      {"cross_entropy " + shape(tokens, vocabulary),
       Kernel::cross_entropy(tokens, vocabulary, 1.0 / static_cast<double>(tokens), t),
       {{tokens * vocabulary}, {tokens, Dtype::int32, Holds::tokens}, one}},
      {"adamw bf16, master, bf16 gradient " + at,
       Kernel::adamw(n, 1e-4, 0.9, 0.95, 1e-8, 0.1, t, t),
       {bf16, bf16, fp32, squares, fp32, none, step}},
      {"adamw bf16, master, fp32 gradient " + at,
       Kernel::adamw(n, 1e-4, 0.9, 0.95, 1e-8, 0.1, t, f),
       {bf16, fp32, fp32, squares, fp32, one, step}},
      {"adamw fp32 " + at,
       Kernel::adamw(n, 1e-4, 0.9, 0.95, 1e-8, 0.1, f, f),
       {fp32, fp32, fp32, squares, none, none, step}},
      {"sgd bf16, momentum, master " + at,
       Kernel::sgd(n, 1e-4, 0.9, false, 0.1, t, t),
       {bf16, bf16, fp32, fp32, none, step}},
      {"cast bf16 to fp32 " + at, Kernel::cast(n, t, f), {bf16, fp32}},
      {"cast fp32 to bf16 " + at, Kernel::cast(n, f, t), {fp32, bf16}},
      {"linear_combination bf16 " + at, Kernel::linear_combination(n, 0.5, 0.5, t), {bf16, bf16}},
      {"linear_combination fp32 " + at, Kernel::linear_combination(n, 0.5, 0.5, f), {fp32, fp32}},
      {"linear_combination bf16 to fp32 " + at,
       Kernel::linear_combination(n, 1, 1, f),
       {bf16, fp32}},
      {"fill fp32 " + at, Kernel::fill(n, 0, f), {fp32}},
      {"sum_squares bf16 " + at, Kernel::sum_squares(n, t), {bf16, one}},
      {"sum_squares fp32 " + at, Kernel::sum_squares(n, f), {fp32, one}},
      {"clip_scale", Kernel::clip_scale(1), {one, one}},
      {"initialise bf16 " + at, Kernel::initialise(n, 0, 0.02, 1, 1, t), {bf16}},
  };
}

void measure(Bench& bench, const Case& c) {
  const auto sets = bench.operands_of(c);
  if (sets.empty()) {
    fmt::print(stderr, "skipped: {} does not fit\n", c.name);
    return;
  }
  const double seconds = bench.time([&](std::size_t turn) {
    bench.launcher().launch(bench.stream(), c.kernel, sets[turn % sets.size()]);
  });
  const double rate = static_cast<double>(c.moved()) / seconds;
  fmt::print(R"({{"benchmark": "{}", "us": {:.2f}, "GB_per_s": {:.0f}, "of_copy": {:.3f}}})"
             "\n",
             c.name, seconds * 1e6, rate * 1e-9, rate / bench.copy_rate());
  std::fflush(stdout);
}

// Products of a step: forward, the gradient of the input, and that of the weights, added in fp32.
std::vector<Case> products(std::int64_t tokens, std::int64_t hidden, std::int64_t inner,
                           std::int64_t kv) {
  std::vector<Case> cases;
  const Dtype t = Dtype::bf16;
  const auto layer = [&](const char* name, std::int64_t in, std::int64_t out) {
    const auto add = [&](const char* pass, const Kernel& kernel) {
      const auto [m, n, k, unused0, unused1, unused2] = kernel.dims;
      cases.push_back({fmt::format("gemm {} {} {}x{}x{}", name, pass, m, n, k),
                       kernel,
                       {{m * k}, {k * n}, {m * n}}});
    };
    add("forward", Kernel::gemm(tokens, out, in, t));
    add("d_input", Kernel::gemm(tokens, in, out, t, false, true));
    add("d_weight", Kernel::gemm(in, out, tokens, t, true, false));
    add("d_weight added", Kernel::gemm(in, out, tokens, t, true, false, true));
  };
  layer("qkv", hidden, hidden + 2 * kv);
  layer("out", hidden, hidden);
  layer("gate and up", hidden, 2 * inner);
  layer("down", inner, hidden);
  if (tokens * vocabulary <= std::int64_t{1} << 30) layer("head", hidden, vocabulary);
  return cases;
}

// The chosen algorithm, and what else does the same work, against the best of many more proposals,
// timed in turn.
void measure_product(Bench& bench, cuda::Blas& thorough, const Case& c,
                     const std::vector<Case>& others = {}) {
  const auto sets = bench.operands_of(c);
  if (sets.empty()) return;
  const auto launch = [&](const Case& work, const std::vector<std::vector<View>>& operands) {
    return [&](std::size_t turn) {
      bench.launcher().launch(bench.stream(), work.kernel, operands[turn % operands.size()]);
    };
  };
  const auto best = [&](std::size_t turn) {
    thorough.multiply(bench.stream(), c.kernel, sets[turn % sets.size()]);
  };
  double seconds = bench.time(launch(c, sets)), least = bench.time(best);
  seconds = std::min(seconds, bench.time(launch(c, sets)));
  least = std::min(least, bench.time(best));
  const auto [m, n, k, unused0, unused1, unused2] = c.kernel.dims;
  const double flops =
      2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  const auto print = [&](const std::string& name, double taken) {
    fmt::print(R"({{"benchmark": "{}", "us": {:.2f}, "TFLOP_per_s": {:.1f}, "of_best": {:.3f}}})"
               "\n",
               name, taken * 1e6, flops / taken * 1e-12, least / taken);
    std::fflush(stdout);
  };
  print(c.name, seconds);
  for (const Case& other : others)
    if (const auto operands = bench.operands_of(other); !operands.empty())
      print(other.name, bench.time(launch(other, operands)));
}

// Forward products of operands in 8 bits, each with the one that finds the scales of bf16 and
// rounds it.
struct InFp8 {
  Case stored, rounded;
};
std::vector<InFp8> fp8_products(std::int64_t tokens, std::int64_t hidden, std::int64_t inner) {
  std::vector<InFp8> all;
  const Dtype t = Dtype::bf16;
  for (const auto& [out, in] : {std::pair{hidden, hidden}, {2 * inner, hidden}, {hidden, inner}}) {
    const std::int64_t x = tokens * in, weights = in * out, y = tokens * out;
    const std::string at = fmt::format("{}x{}x{}", tokens, out, in);
    all.push_back({{"gemm fp8 " + at,
                    Kernel::gemm(tokens, out, in, Dtype::fp8, false, true),
                    {{x, Dtype::fp8}, {weights, Dtype::fp8}, {y}}},
                   {"gemm fp8 from bf16 " + at,
                    in_fp8(Kernel::gemm(tokens, out, in, t), {Fp8Scaling::tensor}),
                    {{x}, {weights}, {y}, {}, {}, {}}}});
  }
  return all;
}

void run_all(std::int64_t tokens, const std::string& prefix) {
  Bench bench;
  fmt::print(R"({{"benchmark": "copy", "gpu": "{}", "GB_per_s": {:.0f}}})"
             "\n",
             cuda::gpu_name(0), bench.copy_rate() * 1e-9);
  std::vector<Case> cases = cases_of(tokens, 2048, 8192, 64);
  const auto append = [](std::vector<Case>& to, std::vector<Case> from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  append(cases, cases_of(tokens, 4096, 14'336, 128));
  append(cases, flat_cases(std::int64_t{200} << 20, tokens));
  for (const Case& c : cases)
    if (c.name.starts_with(prefix)) measure(bench, c);
  cuda::BlasSearch search;
  search.proposals = 32;
  search.rounds = 5;
  search.first_look_ms = 500;
  search.fill = cuda::fill_with_random_numbers;
  cuda::Blas thorough(search);
  std::vector<Case> multiplied = products(tokens, 2048, 8192, 512);
  append(multiplied, products(tokens, 4096, 14'336, 1024));
  for (const Case& c : multiplied)
    if (c.name.starts_with(prefix)) measure_product(bench, thorough, c);
  for (const std::int64_t hidden : {2048, 4096})
    for (const InFp8& c : fp8_products(tokens, hidden, hidden == 2048 ? 8192 : 14'336))
      if (c.stored.name.starts_with(prefix))
        measure_product(bench, thorough, c.stored, {c.rounded});
}

}  // namespace
}  // namespace orrery

int main(int argc, char** argv) {
  using namespace orrery;
  if (cuda::gpu_count() == 0) {
    fmt::print(stderr, "skipped: no GPU can be used here ({})\n", cuda::why_no_gpu());
    return 0;
  }
  try {
    run_all(argc > 1 ? std::max(1LL, std::atoll(argv[1])) : 8192, argc > 2 ? argv[2] : "");
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
  return 0;
}
