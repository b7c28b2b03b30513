#include "calibration/kernel_points.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <string>

#include "backend/core/error.hpp"
#include "backend/fp8.hpp"

namespace orrery {

namespace {

using Sizes = std::vector<std::int64_t>;

// Sizes of an axis, and those between them from which held-back points are taken.
struct AxisSizes {
  Sizes grid, between;
};

// A matrix of weights: y = x W has rows of `inputs` and of `outputs` elements.
struct Weights {
  std::int64_t inputs, outputs;
};

struct Sizing {
  AxisSizes batch, width;               // GEMM: rows of activations; sides of weights
  AxisSizes rows, cols;                 // of matrices that memory-bound kernels work on
  AxisSizes elements;                   // of vectors
  AxisSizes sequence, head;             // of attention
  int gemm, matrix, vector, attention;  // held-back points per class
  AxisSizes logits, embedded;           // columns: of a loss; of a table of embeddings
  AxisSizes turned;                     // sequences of 512 (CPU: of one) that rotary turns
  std::int64_t vocabulary = 256;        // rows of that table
  std::int64_t heads = 2, kv_heads = 2, tokens = 1;  // of attention; tokens: at least, in samples
  std::vector<Weights> layers{};                     // of models, whose products are held back, too
  bool biased = true;                                // also products with a bias
  AxisSizes biased_batch{}, biased_width{};          // of those; empty: as of others
};

const Sizing full_sizes{
    {{16, 64, 256, 1024, 4096}, {32, 128, 512, 2048}},
    {{16, 32, 64, 128, 256, 512, 1536}, {48, 96, 192, 384, 768}},
    {{1, 16, 64, 256, 1024, 4096}, {32, 128, 512, 2048}},
    {{16, 64, 256, 1024}, {32, 96, 192, 384}},
    {{1, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304}, {512, 9000, 100000, 600000}},
    {{16, 32, 64, 128, 256, 512, 1024}, {48, 96, 192, 384}},
    {{16, 32, 64, 128}, {24, 48, 96}},
    20,
    6,
    4,
    6,
    {{16, 64, 256, 1024}, {32, 96, 192, 384}},
    {{16, 64, 256, 1024}, {32, 96, 192, 384}},
    {{1, 16, 64, 256, 1024, 4096}, {32, 128, 512, 2048}}};
const Sizing quick_sizes{{{16, 64}, {32}},
                         {{16, 64}, {32}},
                         {{1, 64}, {16}},
                         {{16, 64}, {32}},
                         {{1, 4096}, {64}},
                         {{16, 64}, {32}},
                         {{16, 32}, {24}},
                         1,
                         1,
                         1,
                         1,
                         {{16, 64}, {32}},
                         {{16, 64}, {32}},
                         {{1, 64}, {16}}};
// Llama 3.2 1B and Llama 3 8B (scenarios/models/llama-*): queries, keys and values; the output;
// gate and up; down; and the head, which is the transposed table of embeddings. With three samples
// of 4,096 tokens, which no grid has.
constexpr std::int64_t model_rows = 12288;
const std::vector<Weights> model_layers{{2048, 3072},   {2048, 2048},  {2048, 16384}, {8192, 2048},
                                        {4096, 6144},   {4096, 4096},  {4096, 28672}, {14336, 4096},
                                        {128256, 2048}, {128256, 4096}};
// Enough heads and tokens to fill a GPU; as many of keys and values as Llama 3 has. 16,384 rows of
// 130,048 logits are just fewer than 2^31, as in training.
const Sizing gpu_sizes{{{256, 1024, 4096, 8192, 16384}, {512, 2048, 6144, 12288}},
                       {{1024, 2048, 3072, 4096, 6144, 8192, 16384}, {1536, 2560, 5120, 12288}},
                       {{1024, 2048, 4096, 8192, 16384}, {1536, 3072, 6144, 12288}},
                       {{1024, 2048, 4096, 8192, 16384}, {1536, 3072, 6144, 12288}},
                       {{1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 27},
                        {1 << 13, 1 << 17, 1 << 21, 1 << 23, 1 << 26}},
                       {{512, 1024, 2048, 4096, 8192}, {768, 1536, 3072, 6144}},
                       {{64, 128}, {64, 128}},
                       12,
                       4,
                       5,
                       4,
                       {{4096, 32768, 130048}, {16384, 65536, 128256}},
                       {{1024, 2048, 4096}, {1536, 3072}},
                       {{1, 4, 16, 64}, {2, 8, 32}},
                       128256,
                       32,
                       8,
                       8192,
                       model_layers};
// bf16 is what training on GPUs computes with. fp16, fp32 and what newer models lack get fewer
// sizes, and fp32, which has no tensor cores, smaller ones.
Sizing sizes_on_gpu(Dtype dtype, bool quick) {
  if (quick) return quick_sizes;
  Sizing sizes = gpu_sizes;
  const AxisSizes few{{1024, 4096, 16384}, {2048, 8192}};
  sizes.biased_batch = sizes.biased_width = few;
  if (dtype == Dtype::bf16) return sizes;
  sizes.batch = sizes.width = sizes.rows = sizes.cols = few;
  sizes.gemm = 6;
  sizes.layers.clear();
  sizes.biased = false;
  if (dtype == Dtype::fp32) {
    sizes.width = sizes.batch = {{256, 1024, 4096}, {512, 2048}};
    sizes.sequence = {{512, 2048}, {1024}};
    sizes.logits = {{4096, 32768}, {16384}};
    sizes.attention = 2;
  }
  return sizes;
}

class Builder {
 public:
  Builder(const Sizing& axes, Dtype dtype) : axes_(axes), t(dtype) {}

  using Make3 = std::function<Kernel(std::int64_t, std::int64_t, std::int64_t)>;
  using Make2 = std::function<Kernel(std::int64_t, std::int64_t)>;
  using Make1 = std::function<Kernel(std::int64_t)>;

  void add(int held_back, const AxisSizes& a, const AxisSizes& b, const AxisSizes& c,
           const Make3& make) {
    for (const std::int64_t x : a.grid)
      for (const std::int64_t y : b.grid)
        for (const std::int64_t z : c.grid) points_.push_back({make(x, y, z), false});
    // One value between the grid's on every axis, drawn from a fixed seed.
    for (int i = 0; i < held_back; ++i) {
      const std::int64_t x = draw(a), y = draw(b), z = draw(c);
      points_.push_back({make(x, y, z), true});
    }
  }
  void add(int held_back, const AxisSizes& a, const AxisSizes& b, const Make2& make) {
    add(held_back, a, b, {{1}, {1}}, [&make](auto x, auto y, auto) { return make(x, y); });
  }
  void add(int held_back, const AxisSizes& a, const Make1& make) {
    for (const std::int64_t x : a.grid) points_.push_back({make(x), false});
    for (int i = 0; i < held_back; ++i)
      points_.push_back({make(a.between[static_cast<std::size_t>(i) % a.between.size()]), true});
  }
  void matrix(const Make2& make) { add(axes_.matrix, axes_.rows, axes_.cols, make); }
  void vector(const Make1& make) { add(axes_.vector, axes_.elements, make); }

  void gemms();
  void attention();
  void activations();
  void rows();
  void texts();
  void vectors();
  std::vector<KernelPoint> take() { return std::move(points_); }

 private:
  std::int64_t draw(const AxisSizes& axis) {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;  // Knuth's MMIX
    return axis.between[(state_ >> 33) % axis.between.size()];
  }

  const Sizing axes_;
  const Dtype t;  // of what all kernels work on
  std::uint64_t state_ = 1;
  std::vector<KernelPoint> points_;
};

// Forward, input gradient and weight gradient of y = x W, and the forward of a tied head, which
// multiplies by a transposed table as an input gradient does. Weight gradients are added to what is
// there, but for a step's first.
void Builder::gemms() {
  const AxisSizes &b = axes_.batch, &w = axes_.width;
  const int held = axes_.gemm;
  const Make3 forward = [this](auto m, auto n, auto k) { return Kernel::gemm(m, n, k, t); };
  const Make3 input_gradient = [this](auto m, auto n, auto k) {
    return Kernel::gemm(m, n, k, t, false, true);
  };
  const auto weight_gradient = [this](bool accumulate) {
    return Make3([=, this](auto m, auto n, auto k) {
      return Kernel::gemm(m, n, k, t, true, false, accumulate);
    });
  };
  add(held, b, w, w, forward);
  if (axes_.biased) {
    const bool same = axes_.biased_width.grid.empty();
    const AxisSizes &rows = same ? b : axes_.biased_batch, &sides = same ? w : axes_.biased_width;
    add(held, rows, sides, sides,
        [this](auto m, auto n, auto k) { return Kernel::gemm_bias(m, n, k, t); });
  }
  add(held, b, w, w, input_gradient);
  for (const bool accumulate : {true, false}) add(held, w, w, b, weight_gradient(accumulate));
  constexpr std::int64_t rows = model_rows;
  for (const auto& [inputs, outputs] : axes_.layers) {
    points_.push_back({forward(rows, outputs, inputs), true});
    points_.push_back({input_gradient(rows, inputs, outputs), true});
    for (const bool accumulate : {true, false})
      points_.push_back({weight_gradient(accumulate)(inputs, outputs, rows), true});
  }
}

void Builder::attention() {
  for (const bool causal : {true, false}) {
    const std::int64_t heads = axes_.heads, kv = axes_.kv_heads;
    const auto samples = [this](std::int64_t s) {
      return std::max(std::int64_t{1}, axes_.tokens / s);
    };
    add(axes_.attention, axes_.sequence, axes_.head, [=, this](auto s, auto h) {
      return Kernel::attention(samples(s), heads, kv, s, h, causal, t);
    });
    add(axes_.attention, axes_.sequence, axes_.head, [=, this](auto s, auto h) {
      return Kernel::attention_backward(samples(s), heads, kv, s, h, causal, t);
    });
  }
}

void Builder::activations() {
  for (const Activation a :
       {Activation::none, Activation::relu, Activation::gelu, Activation::silu}) {
    matrix([a, this](auto r, auto c) { return Kernel::bias_activation(r, c, a, t); });
    matrix([a, this](auto r, auto c) { return Kernel::bias_activation_backward(r, c, a, t); });
  }
  for (const Activation a : {Activation::gelu, Activation::silu}) {
    matrix([a, this](auto r, auto c) { return Kernel::gated_activation(r, c, a, t); });
    matrix([a, this](auto r, auto c) { return Kernel::gated_activation_backward(r, c, a, t); });
  }
}

void Builder::rows() {
  for (const Norm norm : {Norm::rms, Norm::layer}) {
    matrix([norm, this](auto r, auto c) { return Kernel::norm(r, c, norm, 1e-5, t); });
    matrix(
        [norm, this](auto r, auto c) { return Kernel::norm_backward(r, c, norm, 1e-5, true, t); });
  }
  matrix([this](auto r, auto c) { return Kernel::residual_add(r, c, t, true); });
  matrix([this](auto r, auto c) { return Kernel::column_sum(r, c, t); });
  const int held = axes_.matrix;
  const std::int64_t table = axes_.vocabulary;
  add(held, axes_.rows, axes_.embedded,
      [=, this](auto r, auto c) { return Kernel::embedding(r, c, table, t); });
  add(held, axes_.rows, axes_.embedded,
      [=, this](auto r, auto c) { return Kernel::embedding_backward(r, c, table, t); });
  add(held, axes_.rows, axes_.logits,
      [this](auto r, auto c) { return Kernel::cross_entropy(r, c, 1e-3, t); });
  matrix([this](auto r, auto c) { return Kernel::add_positions(r, c, r, t); });
  matrix([this](auto r, auto c) { return Kernel::positions_backward(r, c, r, t); });
  // On a GPU: the queries and keys of tokens that have values, too.
  const bool packed = axes_.kv_heads < axes_.heads;
  const std::int64_t turned = packed ? axes_.heads + axes_.kv_heads : 1,
                     of = packed ? turned + axes_.kv_heads : 1;
  add(held, axes_.turned, axes_.head, [=, this](auto n, auto c) {
    return packed ? Kernel::rotary(n, 512, turned, of, c, 1e4, t)
                  : Kernel::rotary(1, n, 1, 1, c, 1e4, t);
  });
}

// What reads samples is no kernel of a GPU's.
void Builder::texts() {
  const auto text = std::make_shared<const std::string>(std::size_t{1} << 20, 'a');
  matrix([&text](auto r, auto c) { return Kernel::text_batch(r, c, 1, text, c); });
}

void Builder::vectors() {
  vector([this](auto n) { return Kernel::sgd(n, 1e-3, 0, false, 0.1, t); });
  vector([this](auto n) { return Kernel::sgd(n, 1e-3, 0.9, false, 0.1, t); });
  vector([this](auto n) { return Kernel::adamw(n, 1e-3, 0.9, 0.99, 1e-8, 0.1, t); });
  if (t != Dtype::fp32) {  // gradients are of the parameters' type where they are reduced so
    vector([this](auto n) { return Kernel::adamw(n, 1e-3, 0.9, 0.99, 1e-8, 0.1, t, t); });
    vector([this](auto n) { return Kernel::cast(n, Dtype::fp32, t); });
    vector([this](auto n) { return Kernel::cast(n, t, Dtype::fp32); });
  }
  vector([this](auto n) { return Kernel::linear_combination(n, 0.5, 0.5, t); });
  vector([this](auto n) { return Kernel::fill(n, 0, t); });
  vector([this](auto n) { return Kernel::sum_squares(n, t); });
  if (t == Dtype::fp32) points_.push_back({Kernel::clip_scale(1.0), false});
}

// Optimizers keep fp32 masters of narrower parameters.
std::vector<std::pair<std::int64_t, Dtype>> vector_operands_of(const Kernel& k) {
  constexpr Dtype fp32 = Dtype::fp32, fp64 = Dtype::fp64;
  const std::int64_t n = k.dims[0], master = k.dtype == fp32 ? 0 : n;
  switch (k.op) {
    case Op::linear_combination:
      return {{n, k.dtype}, {n, k.dtype}};
    case Op::sgd:
      return {{n, k.dtype},
              {n, static_cast<Dtype>(k.dims[2])},
              {k.scalars[1] != 0 ? n : 0, fp32},
              {master, fp32},
              {1, fp32},
              {2, fp64}};
    case Op::adamw:
      return {{n, k.dtype},   {n, static_cast<Dtype>(k.dims[1])},
              {n, fp32},      {n, fp32},
              {master, fp32}, {1, fp32},
              {2, fp64}};
    case Op::cast:
      return {{n, static_cast<Dtype>(k.dims[1])}, {n, k.dtype}};
    case Op::fill:
      return {{n, k.dtype}};
    case Op::sum_squares:
      return {{n, k.dtype}, {1, fp32}};
    case Op::clip_scale:
      return {{1, fp32}, {1, fp32}};
    default:
      throw Error(Category::internal, "calibration does not measure such kernels")
          .with("kernel", name(k.op));
  }
}

}  // namespace

std::vector<KernelPoint> kernel_points(bool quick) {
  Builder builder(quick ? quick_sizes : full_sizes, Dtype::fp32);
  builder.gemms();
  builder.attention();
  builder.activations();
  builder.rows();
  builder.texts();
  builder.vectors();
  return builder.take();
}

namespace {

// Gradients of outputs, which E5M2 holds, are the first operand of the gradient of inputs and the
// second of that of weights.
Kernel in_fp8_tensor(const Kernel& product) {
  Fp8Product how{.scaling = Fp8Scaling::tensor};
  if (product.transpose_b) how.a = Float8::e5m2;
  if (product.transpose_a) how.b = Float8::e5m2;
  return in_fp8(product, how);
}

}  // namespace

std::vector<KernelPoint> gpu_kernel_points(bool quick, bool fp8) {
  std::vector<KernelPoint> all;
  if (fp8) {
    Builder builder(sizes_on_gpu(Dtype::fp8, quick), Dtype::bf16);
    builder.gemms();
    for (const KernelPoint& point : builder.take())
      all.push_back({in_fp8_tensor(point.kernel), point.held_back});
  }
  for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
    Builder builder(sizes_on_gpu(dtype, quick), dtype);
    builder.gemms();
    if (dtype != Dtype::fp16) {  // training computes with the others
      builder.attention();
      builder.activations();
      builder.rows();
      builder.vectors();
    }
    for (KernelPoint& point : builder.take()) all.push_back(std::move(point));
  }
  return all;
}

std::vector<std::pair<std::int64_t, Dtype>> operands_of(const Kernel& k) {
  using Operands = std::vector<std::pair<std::int64_t, Dtype>>;
  const std::int64_t rows = k.dims[0], cols = k.dims[1], all = rows * cols;
  const Dtype t = k.dtype == Dtype::fp8 ? Dtype::bf16 : k.dtype;  // as it is stored
  constexpr Dtype fp32 = Dtype::fp32, tokens = Dtype::int32;
  switch (k.op) {
    case Op::gemm:  // gradients of weights are added up in fp32
      return {{rows * k.dims[2], t},
              {k.dims[2] * cols, t},
              {all, k.accumulate ? fp32 : t},
              {k.dims[3] != 0 ? cols : 0, t}};
    case Op::bias_activation:
      return {{all, t}, {cols, t}, {all, t}};
    case Op::bias_activation_backward:
      return {{all, t}, {all, t}, {cols, t}, {all, t}};
    case Op::gated_activation:
      return {{2 * all, t}, {0, t}, {all, t}};
    case Op::gated_activation_backward:
      return {{all, t}, {2 * all, t}, {0, t}, {2 * all, t}};
    case Op::column_sum:
      return {{all, t}, {cols, fp32}};
    case Op::embedding:
      return {{rows, tokens}, {k.dims[2] * cols, t}, {all, t}};
    case Op::embedding_backward:
      return {{rows, tokens}, {all, t}, {k.dims[2] * cols, fp32}};
    case Op::cross_entropy:
      return {{all, t}, {rows, tokens}, {1, fp32}};
    case Op::norm:
      return {{all, t}, {cols, t}, {cols, t}, {all, t}};
    case Op::norm_backward:
      return {{all, t}, {all, t}, {cols, t}, {all, t}, {cols, fp32}, {cols, fp32}, {all, t}};
    case Op::residual_add:
      return {{all, t}, {all, t}, {cols, t}, {all, t}};
    case Op::add_positions:
      return {{all, t}, {all, t}};
    case Op::positions_backward:
      return {{all, t}, {all, fp32}};
    case Op::rotary:
      return {{all * k.dims[3] * k.dims[4], t}};
    case Op::text_batch:
      return {{1, Dtype::int64}, {all, tokens}, {all, tokens}};
    case Op::attention:
    case Op::attention_backward: {
      const std::int64_t in_all = k.dims[0] * k.dims[1] * k.dims[3], one = in_all * k.dims[4],
                         statistics = size_of(t) == 2 ? 2 * in_all : in_all,
                         packed = k.dims[0] * k.dims[3] * (k.dims[1] + 2 * k.dims[2]) * k.dims[4];
      Operands operands{{packed, t}, {0, t}, {0, t}, {one, t}, {statistics, t}};
      if (k.op == Op::attention) return operands;
      operands.insert(operands.begin(), {one, t});
      operands.insert(operands.end(), {{packed, t}, {0, t}, {0, t}});
      return operands;
    }
    default:
      return vector_operands_of(k);
  }
}

}  // namespace orrery
