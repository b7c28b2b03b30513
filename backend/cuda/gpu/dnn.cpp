#include "backend/cuda/gpu/dnn.hpp"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/core/error.hpp"
#include "backend/cuda/gpu/dnn_attention.hpp"
#include "backend/cuda/gpu/kernels.hpp"
#include "backend/cuda/runtime.hpp"

namespace orrery::cuda {

namespace {

using dnn::AttentionShape;

bool repeatable() {
  const char* set = std::getenv("ORRERY_REPEATABLE");
  return set != nullptr && std::string_view(set) == "1";
}

std::optional<cudnnDataType_t> type_of(Dtype dtype) {
  if (dtype == Dtype::bf16) return CUDNN_DATA_BFLOAT16;
  if (dtype == Dtype::fp16) return CUDNN_DATA_HALF;
  return std::nullopt;
}

// Q, K, V or their gradients: three operands from `first` on, or one that holds all.
struct Projections {
  char *q = nullptr, *k = nullptr, *v = nullptr;
  std::int64_t q_per_token = 0, kv_per_token = 0;

  Projections(const AttentionShape& s, std::span<const View> views, std::size_t first) {
    const std::int64_t all = s.heads + 2 * s.kv_heads;
    q = static_cast<char*>(views[first].data);
    const bool packed = views[first].elements >= s.batch * s.queries * all * s.size;
    q_per_token = packed ? all : s.heads;
    if (views[first + 1].data != nullptr) {
      k = static_cast<char*>(views[first + 1].data);
      v = static_cast<char*>(views[first + 2].data);
      kv_per_token = s.kv_heads;
      return;
    }
    const std::int64_t head = 2 * s.size;  // bytes
    k = q + s.heads * head;
    v = k + s.kv_heads * head;
    kv_per_token = all;
  }
};

// The shape, but for what a token's memory holds; nothing for what is not done here.
std::optional<AttentionShape> shape_of(const Kernel& kernel, std::span<const View> views) {
  const auto type = type_of(kernel.dtype);
  const auto which = static_cast<AttentionPart>(kernel.dims[5]);
  if (!type || (which != AttentionPart::full && which != AttentionPart::causal)) return {};
  for (const View& view : views)
    if (view.data != nullptr && view.dtype != kernel.dtype) return {};
  AttentionShape s;
  s.batch = kernel.dims[0];
  s.heads = kernel.dims[1];
  s.kv_heads = kernel.dims[2];
  s.queries = s.keys = kernel.dims[3];
  s.size = kernel.dims[4];
  s.causal = which == AttentionPart::causal;
  s.type = *type;
  if (s.size % 8 != 0 || s.batch * s.heads * s.queries == 0) return {};
  return s;
}

bool aligned(std::initializer_list<const void*> addresses) {
  for (const void* address : addresses)
    if (reinterpret_cast<std::uintptr_t>(address) % dnn::alignment != 0) return false;
  return true;
}

// Memory for what comes next on a stream, in parts.
class Scratch {
 public:
  Scratch(std::int64_t bytes, cudaStream_t stream) : stream_(stream) {
    check(cudaMallocAsync(&data_, static_cast<std::size_t>(bytes), stream), "cudaMallocAsync");
  }
  ~Scratch() { cudaFreeAsync(data_, stream_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  static std::int64_t room(std::int64_t bytes) { return (bytes + 255) / 256 * 256; }
  void* take(std::int64_t bytes) {
    void* part = static_cast<char*>(data_) + taken_;
    taken_ += room(bytes);
    return part;
  }

 private:
  cudaStream_t stream_;
  void* data_ = nullptr;
  std::int64_t taken_ = 0;
};

std::int64_t rows_of(const AttentionShape& s) { return s.batch * s.heads * s.queries; }

}  // namespace

struct Dnn::State {
  enum class Pass : std::uint8_t { forward, backward };

  dnn::Functions functions;
  cudnnHandle_t handle = nullptr;
  cudaStream_t last = nullptr;  // that the handle was given
  bool has_stream = false, repeatable = cuda::repeatable();
  std::map<std::pair<Pass, AttentionShape>, std::unique_ptr<dnn::Plan>> plans;

  void open() { functions.check(functions.cudnnCreate(&handle), "cudnnCreate"); }
  ~State() {
    plans.clear();
    if (handle != nullptr) functions.cudnnDestroy(handle);
  }

  // Null where cuDNN has none.
  const dnn::Plan* plan(Pass pass, const AttentionShape& shape) {
    const auto [found, is_new] = plans.try_emplace({pass, shape});
    if (is_new)
      found->second = pass == Pass::backward
                          ? dnn::plan_attention_backward(functions, shape, handle)
                          : dnn::plan_attention(functions, shape, handle);
    return found->second.get();
  }

  void run(cudaStream_t stream, const dnn::Plan& plan, const dnn::Tensors& tensors,
           void* workspace) {
    if (!has_stream || stream != last)
      functions.check(functions.cudnnSetStream(handle, stream), "cudnnSetStream");
    has_stream = true;
    last = stream;
    plan.run(handle, tensors, workspace);
  }
};

Dnn::Dnn() {
  try {
    state_ = std::make_unique<State>();
  } catch (const Error& error) {
    if (error.category() != Category::unavailable) throw;
  }
  if (state_) state_->open();
}
Dnn::~Dnn() = default;

bool Dnn::attention(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) {
  if (!state_) return false;
  auto shape = shape_of(kernel, views);
  if (!shape) return false;
  const Projections in(*shape, views, 0);
  void* const out = views[3].data;
  if (!aligned({in.q, in.k, in.v, out})) return false;
  shape->q_per_token = in.q_per_token;
  shape->kv_per_token = in.kv_per_token;
  void* const pairs = views.size() > 4 ? views[4].data : nullptr;
  const dnn::Plan* plan = state_->plan(State::Pass::forward, *shape);
  if (plan == nullptr) return false;

  const std::int64_t rows = rows_of(*shape), of_rows = 4 * rows;
  Scratch scratch(Scratch::room(plan->workspace_bytes()) + Scratch::room(of_rows), stream);
  auto* statistics = static_cast<float*>(scratch.take(of_rows));
  void* workspace = scratch.take(plan->workspace_bytes());
  const dnn::Tensors tensors{{dnn::uid_q, in.q},
                             {dnn::uid_k, in.k},
                             {dnn::uid_v, in.v},
                             {dnn::uid_o, out},
                             {dnn::uid_statistics, statistics}};
  state_->run(stream, *plan, tensors, workspace);
  if (pairs != nullptr) split_statistics(stream, kernel.dtype, rows, statistics, pairs);
  return true;
}

bool Dnn::attention_backward(CUstream_st* stream, const Kernel& kernel,
                             std::span<const View> views) {
  if (!state_) return false;
  auto shape = shape_of(kernel, views);
  if (!shape) return false;
  const Projections in(*shape, views, 1), gradients(*shape, views, 6);
  void *const d_out = views[0].data, *const out = views[4].data;
  if (gradients.q_per_token != in.q_per_token || gradients.kv_per_token != in.kv_per_token ||
      !aligned({d_out, in.q, in.k, in.v, out, gradients.q, gradients.k, gradients.v}))
    return false;
  shape->q_per_token = in.q_per_token;
  shape->kv_per_token = in.kv_per_token;
  shape->repeatable = state_->repeatable;
  const dnn::Plan* plan = state_->plan(State::Pass::backward, *shape);
  if (plan == nullptr) return false;

  const std::int64_t rows = rows_of(*shape), of_rows = 4 * rows,
                     of_sums = shape->repeatable ? 0 : 4 * rows * shape->size;
  Scratch scratch(
      Scratch::room(plan->workspace_bytes()) + 2 * Scratch::room(of_rows) + Scratch::room(of_sums),
      stream);
  auto* statistics = static_cast<float*>(scratch.take(of_rows));
  void *row_sums = scratch.take(of_rows), *d_q_sums = scratch.take(of_sums),
       *workspace = scratch.take(plan->workspace_bytes());
  join_statistics(stream, kernel.dtype, rows, views[5].data, statistics);
  dnn::Tensors tensors{{dnn::uid_q, in.q},
                       {dnn::uid_k, in.k},
                       {dnn::uid_v, in.v},
                       {dnn::uid_o, out},
                       {dnn::uid_statistics, statistics},
                       {dnn::uid_d_o, d_out},
                       {dnn::uid_d_q, gradients.q},
                       {dnn::uid_d_k, gradients.k},
                       {dnn::uid_d_v, gradients.v},
                       {dnn::uid_row_sums, row_sums}};
  if (!shape->repeatable) tensors.emplace_back(dnn::uid_d_q_sums, d_q_sums);
  state_->run(stream, *plan, tensors, workspace);
  return true;
}

void Dnn::rehearse(CUstream_st* stream, const Kernel& kernel,
                   std::span<const std::int64_t> elements) {
  if (!state_ || !shape_of(kernel, {})) return;
  const auto bytes = [&kernel](std::int64_t count) { return bytes_of(count, kernel.dtype).value; };
  std::int64_t all = 0;
  for (const std::int64_t count : elements) all += Scratch::room(bytes(count));
  Scratch memory(all, stream);
  std::vector<View> views;
  for (const std::int64_t count : elements)
    views.push_back(count == 0 ? View{} : View{memory.take(bytes(count)), count, kernel.dtype});
  if (kernel.op == Op::attention)
    attention(stream, kernel, views);
  else
    attention_backward(stream, kernel, views);
}

}  // namespace orrery::cuda
