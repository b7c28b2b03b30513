#include "backend/cuda/gpu/blas.hpp"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "backend/cuda/gpu/libraries.hpp"
#include "backend/cuda/runtime.hpp"

namespace orrery::cuda {

namespace {

void check_blas(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(Category::unavailable,
              std::string(call) + ": cuBLASLt status " + std::to_string(static_cast<int>(status)));
}

// The library's functions that are called here.
struct Functions {
  Library library{"libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR)};
#define ORRERY_FUNCTION(name) \
  decltype(&::name) name = reinterpret_cast<decltype(&::name)>(library.function(#name))
  ORRERY_FUNCTION(cublasLtCreate);
  ORRERY_FUNCTION(cublasLtDestroy);
  ORRERY_FUNCTION(cublasLtMatmul);
  ORRERY_FUNCTION(cublasLtMatmulDescCreate);
  ORRERY_FUNCTION(cublasLtMatmulDescDestroy);
  ORRERY_FUNCTION(cublasLtMatmulDescSetAttribute);
  ORRERY_FUNCTION(cublasLtMatrixLayoutCreate);
  ORRERY_FUNCTION(cublasLtMatrixLayoutDestroy);
  ORRERY_FUNCTION(cublasLtMatrixLayoutSetAttribute);
  ORRERY_FUNCTION(cublasLtMatmulPreferenceCreate);
  ORRERY_FUNCTION(cublasLtMatmulPreferenceDestroy);
  ORRERY_FUNCTION(cublasLtMatmulPreferenceSetAttribute);
  ORRERY_FUNCTION(cublasLtMatmulAlgoGetHeuristic);
#undef ORRERY_FUNCTION
};

constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // as NVIDIA advises for Hopper
// A timing takes about this long, so that it is not of the clock's ticks; and for as long as a
// product takes, its algorithms are timed in turn, as the GPU's clock rises at first.
constexpr float timing_ms = 1;
constexpr float repeats_max = 20;
// Times of the fastest that are worth another round: after the first, of one run each, and later.
constexpr float close_at_first = 1.5F, close = 1.2F;
// How many proposals a first look takes in, however long it takes; and where any will do.
constexpr std::size_t proposals_min = 4, proposals_any = 1;

// `in_8_bits`: of two types that Dtype::fp8 stands for.
bool type_of(Dtype dtype, cudaDataType_t& type, Float8 in_8_bits = Float8::e4m3) {
  switch (dtype) {
    case Dtype::fp8:
      type = in_8_bits == Float8::e4m3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2;
      return true;
    case Dtype::fp32:
      type = CUDA_R_32F;
      return true;
    case Dtype::bf16:
      type = CUDA_R_16BF;
      return true;
    case Dtype::fp16:
      type = CUDA_R_16F;
      return true;
    default:
      return false;
  }
}

// No algorithm profits from more than 16 bytes; what lies elsewhere is taken to lie anywhere.
std::size_t alignment_of(const View& view) {
  constexpr std::size_t best = 16;
  const bool aligned = reinterpret_cast<std::uintptr_t>(view.data) % best == 0;
  return aligned ? best : static_cast<std::size_t>(size_of(view.dtype));
}

// Row-major C = op(A) op(B) is column-major C' = op(B)' op(A)': the first operand of cuBLASLt is B.
struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool with_bias = false;
};

std::int64_t groups_of(const Kernel& kernel) {
  return kernel.op == Op::grouped_gemm ? kernel.dims[4] : 1;
}

// Until what is on the stream is done, so that nothing runs beside what is timed next. Not for
// long, as with several ranks on one GPU it may wait for one that waits for this thread.
void wait_until_idle(cudaStream_t stream) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::milliseconds(500);
  while (cudaStreamQuery(stream) == cudaErrorNotReady && Clock::now() < end)
    std::this_thread::sleep_for(std::chrono::microseconds(50));
}

// Memory of a stream. Never cudaMalloc and cudaFree in a run: the latter waits for all streams of
// the GPU, which may wait for a rank that waits here.
void* take_memory(std::size_t bytes, cudaStream_t stream) {
  void* data = nullptr;
  check(cudaMallocAsync(&data, bytes, stream), "cudaMallocAsync");
  return data;
}

struct TakenMemory {
  cudaStream_t stream;
  void* data;
  TakenMemory(std::size_t bytes, cudaStream_t of) : stream(of), data(take_memory(bytes, of)) {}
  ~TakenMemory() { cudaFreeAsync(data, stream); }
  TakenMemory(const TakenMemory&) = delete;
  TakenMemory& operator=(const TakenMemory&) = delete;
};

// What products are tried out on. Kept, because the driver spreads streams over the hardware's
// queues in the order in which they are made: one more for each search would put two of the
// program's on one queue.
struct Lane {
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;

  Lane() {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    for (cudaEvent_t* event : {&begin, &end})
      check(cudaEventCreateWithFlags(event, cudaEventDefault), "cudaEventCreateWithFlags");
  }
};

// Copies of operands in size, filled with numbers.
struct Bench {
  const Lane& lane;
  cudaStream_t stream = lane.stream;
  std::deque<TakenMemory> memory;
  std::vector<View> views;

  Bench(const Lane& on, std::span<const View> given, const FillWithNumbers& fill)
      : lane(on), views(given.begin(), given.end()) {
    for (View& view : views) {
      const auto bytes = static_cast<std::size_t>(bytes_of(view.elements, view.dtype).value);
      view.data = memory.emplace_back(bytes, stream).data;
      fill(stream, view.data, bytes);
    }
  }

  template <class Work>
  float time(const Work& work) const {
    check(cudaEventRecord(lane.begin, stream), "cudaEventRecord");
    work();
    check(cudaEventRecord(lane.end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(lane.end), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, lane.begin, lane.end), "cudaEventElapsedTime");
    return ms;
  }
};

// Kernel, types, alignment of A, B and C.
using Key = std::tuple<std::array<std::int64_t, 6>, std::array<int, 4>, std::array<bool, 3>,
                       std::array<std::size_t, 3>>;

// The algorithms found in this process on one GPU, among so many proposals. Who searches holds the
// lock: ranks on one GPU search one after the other, so that one stream more is enough for all, and
// take what another has found, so that their products are the same in bits. What it waits for,
// nothing else holds up.
struct Choices {
  std::mutex mutex;
  std::map<Key, cublasLtMatmulAlgo_t> found;
  std::optional<Lane> lane;  // the driver may be gone when the process ends: it is left alone then

  std::optional<cublasLtMatmulAlgo_t> of(const Key& key) {
    const std::lock_guard lock(mutex);
    const auto known = found.find(key);
    return known == found.end() ? std::nullopt : std::optional(known->second);
  }
};

Choices& choices_of_this_gpu(int proposals) {
  static std::mutex mutex;
  static auto& by_gpu = *new std::map<std::pair<int, int>, Choices>;  // never destroyed
  int gpu = 0;
  check(cudaGetDevice(&gpu), "cudaGetDevice");
  const std::lock_guard lock(mutex);
  return by_gpu[{gpu, proposals}];
}

}  // namespace

struct Blas::State {
  BlasSearch search;
  Functions lt;
  cublasLtHandle_t handle = nullptr;
  std::map<Key, Plan> plans;
  std::map<CUstream_st*, void*> workspaces;  // one per stream: operations on two may overlap

  explicit State(BlasSearch with) : search(std::move(with)) {
    check_blas(lt.cublasLtCreate(&handle), "cublasLtCreate");
  }
  ~State() {
    for (auto& [key, plan] : plans) {
      lt.cublasLtMatmulDescDestroy(plan.product);
      for (cublasLtMatrixLayout_t layout : {plan.first, plan.second, plan.result})
        lt.cublasLtMatrixLayoutDestroy(layout);
    }
    for (auto& [stream, workspace] : workspaces) cudaFree(workspace);  // the run is over
    lt.cublasLtDestroy(handle);
  }

  void* workspace_of(CUstream_st* stream) {
    void*& workspace = workspaces[stream];
    if (workspace == nullptr) workspace = take_memory(workspace_bytes, stream);
    return workspace;
  }

  cublasLtMatrixLayout_t layout(Dtype dtype, std::int64_t rows, std::int64_t cols,
                                std::int64_t groups, Float8 in_8_bits = Float8::e4m3) const {
    cudaDataType_t type{};
    type_of(dtype, type, in_8_bits);
    cublasLtMatrixLayout_t made = nullptr;
    check_blas(lt.cublasLtMatrixLayoutCreate(&made, type, static_cast<std::uint64_t>(rows),
                                             static_cast<std::uint64_t>(cols), rows),
               "cublasLtMatrixLayoutCreate");
    if (groups == 1) return made;
    const auto count = static_cast<std::int32_t>(groups);
    const std::int64_t stride = rows * cols;
    check_blas(lt.cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                                   sizeof count),
               "cublasLtMatrixLayoutSetAttribute");
    check_blas(lt.cublasLtMatrixLayoutSetAttribute(
                   made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride),
               "cublasLtMatrixLayoutSetAttribute");
    return made;
  }

  template <class Value>
  void set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute,
           const Value& value) const {
    check_blas(lt.cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof value),
               "cublasLtMatmulDescSetAttribute");
  }

  Plan describe(const Kernel& kernel, std::span<const View> views) const {
    const auto [m, n, k, bias, groups_or_0, in_8_bits] = kernel.dims;
    const std::int64_t groups = groups_of(kernel);
    const Fp8Product fp8 = fp8_of(kernel);
    Plan plan;
    check_blas(lt.cublasLtMatmulDescCreate(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "cublasLtMatmulDescCreate");
    set(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, kernel.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, kernel.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    plan.with_bias = bias != 0;
    if (plan.with_bias) {
      set(plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      cudaDataType_t type{};
      type_of(views[3].dtype, type);
      set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type);
    }
    plan.first = kernel.transpose_b ? layout(views[1].dtype, k, n, groups, fp8.b)
                                    : layout(views[1].dtype, n, k, groups, fp8.b);
    plan.second = kernel.transpose_a ? layout(views[0].dtype, m, k, groups, fp8.a)
                                     : layout(views[0].dtype, k, m, groups, fp8.a);
    plan.result = layout(views[2].dtype, n, m, groups);
    return plan;
  }

  void set_bias(const Plan& plan, std::span<const View> views) const {
    if (plan.with_bias) set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, views[3].data);
  }
  // Of operands in 8 bits, on the device, or none. cuBLASLt's first operand is B.
  void set_scales(const Plan& plan, std::span<const View> views) const {
    const auto scale = [views](std::size_t place) -> const void* {
      return place < views.size() ? views[place].data : nullptr;
    };
    set(plan.product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scale(5));
    set(plan.product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scale(4));
  }

  cublasStatus_t run(CUstream_st* stream, const Plan& plan, const cublasLtMatmulAlgo_t& algorithm,
                     bool accumulate, std::span<const View> views, void* result,
                     void* workspace) const {
    const float one = 1, rest = accumulate ? 1.0F : 0.0F;
    return lt.cublasLtMatmul(handle, plan.product, &one, views[1].data, plan.first, views[0].data,
                             plan.second, &rest, result, plan.result, result, plan.result,
                             &algorithm, workspace, workspace_bytes, stream);
  }

  std::vector<cublasLtMatmulAlgo_t> propose(const Plan& plan, const Key& key) const {
    cublasLtMatmulPreference_t preference = nullptr;
    check_blas(lt.cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check_blas(
          lt.cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
          "cublasLtMatmulPreferenceSetAttribute");
    };
    const auto bytes = [&](std::size_t i) {
      return static_cast<std::uint32_t>(std::get<3>(key)[i]);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, bytes(1));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, bytes(0));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, bytes(2));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, bytes(2));
    std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(search.proposals));
    int count = 0;
    const cublasStatus_t status = lt.cublasLtMatmulAlgoGetHeuristic(
        handle, plan.product, plan.first, plan.second, plan.result, plan.result, preference,
        search.proposals, found.data(), &count);
    lt.cublasLtMatmulPreferenceDestroy(preference);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check_blas(status, "cublasLtMatmulAlgoGetHeuristic");
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (int i = 0; i < count; ++i)
      if (found[static_cast<std::size_t>(i)].state == CUBLAS_STATUS_SUCCESS)
        algorithms.push_back(found[static_cast<std::size_t>(i)].algo);
    return algorithms;
  }

  // The fastest of so many that run, on a stream and on operands of its own: those of the program
  // may not be there yet. A single one runs as well, so that it is loaded.
  cublasLtMatmulAlgo_t fastest(const Lane& lane, const Plan& plan, bool accumulate,
                               std::span<const View> views,
                               const std::vector<cublasLtMatmulAlgo_t>& algorithms,
                               std::size_t most) {
    Bench bench(lane, views.first(plan.with_bias ? 4 : 3), search.fill);
    set_bias(plan, bench.views);
    const TakenMemory workspace(workspace_bytes, bench.stream);
    const auto once = [&](const cublasLtMatmulAlgo_t& algorithm) {
      return run(bench.stream, plan, algorithm, accumulate, bench.views, bench.views[2].data,
                 workspace.data);
    };
    struct Candidate {
      const cublasLtMatmulAlgo_t* algorithm;
      float ms;
    };
    std::vector<Candidate> candidates;
    float least = std::numeric_limits<float>::infinity(), spent = 0;
    for (const cublasLtMatmulAlgo_t& algorithm : algorithms) {
      if (once(algorithm) != CUBLAS_STATUS_SUCCESS) continue;
      const float ms = bench.time([&] { once(algorithm); });
      candidates.push_back({&algorithm, ms});
      least = std::min(least, ms);
      spent += 2 * ms;
      if (candidates.size() >= most) break;
      if (candidates.size() >= proposals_min && spent > search.first_look_ms) break;
    }
    const auto drop = [&](float close_by) {
      std::erase_if(candidates, [&](const Candidate& c) { return c.ms > close_by * least; });
    };
    drop(close_at_first);
    for (int round = 1; round < search.rounds && candidates.size() > 1; ++round) {
      const int repeats = static_cast<int>(std::clamp(timing_ms / least, 1.0F, repeats_max));
      for (Candidate& candidate : candidates) {
        const float ms = bench.time([&] {
          for (int i = 0; i < repeats; ++i) once(*candidate.algorithm);
        });
        candidate.ms = std::min(candidate.ms, ms / static_cast<float>(repeats));
        least = std::min(least, candidate.ms);
      }
      drop(close);
    }
    if (candidates.empty()) return algorithms[0];
    return *std::min_element(candidates.begin(), candidates.end(),
                             [](const Candidate& a, const Candidate& b) { return a.ms < b.ms; })
                ->algorithm;
  }

  // The plan with the address of its bias, where it has one; made of the fastest of so many.
  const Plan& plan_of(CUstream_st* stream, const Kernel& kernel, std::span<const View> views,
                      std::size_t most);
  cublasLtMatmulAlgo_t choose(CUstream_st* stream, const Plan& plan, const Key& key,
                              const Kernel& kernel, std::span<const View> views, std::size_t most) {
    Choices& choices = choices_of_this_gpu(search.proposals);
    if (const auto known = choices.of(key)) return *known;
    if (stream != nullptr)
      wait_until_idle(stream);  // without the lock, as its stream may wait for who has that
    const std::lock_guard lock(choices.mutex);
    if (const auto known = choices.found.find(key); known != choices.found.end())
      return known->second;
    const auto algorithms = propose(plan, key);
    if (algorithms.empty())
      throw Error(Category::unavailable, "cuBLASLt has no algorithm for this product")
          .with("kernel", kernel.label);
    if (!choices.lane) choices.lane.emplace();
    return choices.found[key] =
               fastest(*choices.lane, plan, kernel.accumulate, views, algorithms, most);
  }
};

void fill_with_equal_numbers(CUstream_st* stream, void* data, std::size_t bytes) {
  // 0x3c3c is 0.0115 in bf16, 1.06 in fp16, 0x3c3c3c3c the same as bf16 in fp32.
  check(cudaMemsetAsync(data, 0x3c, bytes, stream), "cudaMemsetAsync");
}

Blas::Blas(BlasSearch search) : state_(std::make_unique<State>(std::move(search))) {}
Blas::~Blas() = default;

namespace {

bool with_bias(const Kernel& kernel) { return kernel.op == Op::gemm && kernel.dims[3] != 0; }

Key key_of(const Kernel& kernel, std::span<const View> views) {
  return {
      kernel.dims,
      {static_cast<int>(kernel.op), static_cast<int>(views[0].dtype),
       static_cast<int>(views[2].dtype), with_bias(kernel) ? static_cast<int>(views[3].dtype) : -1},
      {kernel.transpose_a, kernel.transpose_b, kernel.accumulate},
      {alignment_of(views[0]), alignment_of(views[1]), alignment_of(views[2])}};
}

}  // namespace

const Plan& Blas::State::plan_of(CUstream_st* stream, const Kernel& kernel,
                                 std::span<const View> views, std::size_t most) {
  const Key key = key_of(kernel, views);
  auto found = plans.find(key);
  if (found == plans.end()) {
    Plan plan = describe(kernel, views);
    plan.algorithm = choose(stream, plan, key, kernel, views, most);
    found = plans.emplace(key, plan).first;
  }
  set_bias(found->second, views);
  return found->second;
}

namespace {

// Whether cuBLASLt has such a product in 8 bits.
bool has_fp8(const Kernel& kernel, std::span<const View> views) {
  const auto fits = [](const View& view) { return alignment_of(view) == fp8_multiple; };
  const View& c = views[2];
  return !kernel.transpose_a && kernel.transpose_b && kernel.dims[1] % fp8_multiple == 0 &&
         kernel.dims[2] % fp8_multiple == 0 && fits(views[0]) && fits(views[1]) && fits(c) &&
         c.dtype != Dtype::fp8 &&
         (!with_bias(kernel) || (c.dtype != Dtype::fp32 && views[3].dtype == c.dtype));
}

}  // namespace

bool Blas::multiply(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) {
  if (fp8_of(kernel).scaling != Fp8Scaling::none) return false;  // fp8_products.hpp
  cudaDataType_t unused{};
  for (std::size_t i = 0; i < 3; ++i)
    if (!type_of(views[i].dtype, unused)) return false;
  if (views[0].dtype != views[1].dtype) return false;
  if (kernel.dims[0] * kernel.dims[1] == 0) return true;
  const bool fp8 = views[0].dtype == Dtype::fp8;
  if (fp8 && !has_fp8(kernel, views)) return false;
  State& s = *state_;
  const Plan& plan = s.plan_of(stream, kernel, views, static_cast<std::size_t>(s.search.proposals));
  if (fp8) s.set_scales(plan, views);
  check_blas(s.run(stream, plan, plan.algorithm, kernel.accumulate, views, views[2].data,
                   s.workspace_of(stream)),
             "cublasLtMatmul");
  return true;
}

void Blas::prepare(const Kernel& kernel, bool gradient_of_weights) {
  cudaDataType_t unused{};
  const auto [m, n, k, bias, groups_or_0, in_8_bits] = kernel.dims;
  if (!type_of(kernel.dtype, unused) || m * n * k == 0) return;
  const std::int64_t groups = groups_of(kernel);
  const bool fp8 = kernel.dtype == Dtype::fp8;
  const Dtype result = fp8 ? Dtype::bf16 : kernel.dtype;
  std::array<View, 4> views{View{nullptr, groups * m * k, kernel.dtype},
                            View{nullptr, groups * k * n, kernel.dtype},
                            View{nullptr, groups * m * n, result}, View{nullptr, n, result}};
  if (fp8 && !has_fp8(kernel, views)) return;
  View& weights = views[gradient_of_weights ? 2 : 1];  // or their gradient
  alignas(16) std::array<char, 2> bytes{};
  const auto prepare = [&] {
    weights.data = nullptr;
    state_->plan_of(nullptr, kernel, views, static_cast<std::size_t>(state_->search.proposals));
    if (fp8) return;           // which has none elsewhere
    weights.data = &bytes[1];  // as the flat buffer of a model's may have it
    try {
      state_->plan_of(nullptr, kernel, views, proposals_any);
    } catch (const Error& error) {  // whoever launches such a one is told
      if (error.category() != Category::unavailable) throw;
    }
  };
  prepare();
  if (!gradient_of_weights || kernel.dtype == Dtype::fp32) return;
  views[2].dtype = Dtype::fp32;  // as it may be kept
  prepare();
}

}  // namespace orrery::cuda
