#include "calibration/kernel_points.hpp"

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "backend/core/error.hpp"

namespace orrery {

namespace {

using Sizes = std::vector<std::int64_t>;
constexpr Dtype t = Dtype::fp32;
constexpr std::int64_t vocabulary = 256;

// Sizes of an axis, and those between them from which held-back points are taken.
struct AxisSizes {
  Sizes grid, between;
};

struct Sizing {
  AxisSizes batch, width;               // GEMM: rows of activations; columns of weights
  AxisSizes rows, cols;                 // of matrices that memory-bound kernels work on
  AxisSizes elements;                   // of vectors
  AxisSizes sequence, head;             // of attention
  int gemm, matrix, vector, attention;  // held-back points per class
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
    6};
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
                         1};

class Builder {
 public:
  explicit Builder(const Sizing& axes) : axes_(axes) {}

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
  void vectors();
  std::vector<KernelPoint> take() { return std::move(points_); }

 private:
  std::int64_t draw(const AxisSizes& axis) {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;  // Knuth's MMIX
    return axis.between[(state_ >> 33) % axis.between.size()];
  }

  const Sizing& axes_;
  std::uint64_t state_ = 1;
  std::vector<KernelPoint> points_;
};

// Forward, input gradient and weight gradient of y = x W, and the forward of a tied head, which
// multiplies by a transposed table as an input gradient does.
void Builder::gemms() {
  const AxisSizes &b = axes_.batch, &w = axes_.width;
  const int held = axes_.gemm;
  add(held, b, w, w, [](auto m, auto n, auto k) { return Kernel::gemm(m, n, k, t); });
  add(held, b, w, w, [](auto m, auto n, auto k) { return Kernel::gemm_bias(m, n, k, t); });
  add(held, b, w, w, [](auto m, auto n, auto k) { return Kernel::gemm(m, n, k, t, false, true); });
  add(held, w, w, b,
      [](auto m, auto n, auto k) { return Kernel::gemm(m, n, k, t, true, false, true); });
}

void Builder::attention() {
  for (const bool causal : {true, false}) {
    add(axes_.attention, axes_.sequence, axes_.head,
        [causal](auto s, auto h) { return Kernel::attention(1, 2, 2, s, h, causal, t); });
    add(axes_.attention, axes_.sequence, axes_.head,
        [causal](auto s, auto h) { return Kernel::attention_backward(1, 2, 2, s, h, causal, t); });
  }
}

void Builder::activations() {
  for (const Activation a :
       {Activation::none, Activation::relu, Activation::gelu, Activation::silu}) {
    matrix([a](auto r, auto c) { return Kernel::bias_activation(r, c, a, t); });
    matrix([a](auto r, auto c) { return Kernel::bias_activation_backward(r, c, a, t); });
  }
  for (const Activation a : {Activation::gelu, Activation::silu}) {
    matrix([a](auto r, auto c) { return Kernel::gated_activation(r, c, a, t); });
    matrix([a](auto r, auto c) { return Kernel::gated_activation_backward(r, c, a, t); });
  }
}

void Builder::rows() {
  for (const Norm norm : {Norm::rms, Norm::layer}) {
    matrix([norm](auto r, auto c) { return Kernel::norm(r, c, norm, 1e-5, t); });
    matrix([norm](auto r, auto c) { return Kernel::norm_backward(r, c, norm, 1e-5, true, t); });
  }
  matrix([](auto r, auto c) { return Kernel::residual_add(r, c, t, true); });
  matrix([](auto r, auto c) { return Kernel::column_sum(r, c, t); });
  matrix([](auto r, auto c) { return Kernel::embedding(r, c, vocabulary, t); });
  matrix([](auto r, auto c) { return Kernel::embedding_backward(r, c, vocabulary, t); });
  matrix([](auto r, auto c) { return Kernel::cross_entropy(r, c, 1e-3, t); });
  matrix([](auto r, auto c) { return Kernel::add_positions(r, c, r, t); });
  matrix([](auto r, auto c) { return Kernel::positions_backward(r, c, r, t); });
  add(axes_.matrix, axes_.rows, axes_.head,
      [](auto r, auto c) { return Kernel::rotary(1, r, 1, 1, c, 1e4, t); });
  const auto text = std::make_shared<const std::string>(std::size_t{1} << 20, 'a');
  matrix([&text](auto r, auto c) { return Kernel::text_batch(r, c, 1, text, c); });
}

void Builder::vectors() {
  vector([](auto n) { return Kernel::sgd(n, 1e-3, 0, false, 0.1, t); });
  vector([](auto n) { return Kernel::sgd(n, 1e-3, 0.9, false, 0.1, t); });
  vector([](auto n) { return Kernel::adamw(n, 1e-3, 0.9, 0.99, 1e-8, 0.1, t); });
  vector([](auto n) { return Kernel::linear_combination(n, 0.5, 0.5, t); });
  vector([](auto n) { return Kernel::fill(n, 0, t); });
  vector([](auto n) { return Kernel::sum_squares(n, t); });
  points_.push_back({Kernel::clip_scale(1.0), false});
}

}  // namespace

std::vector<KernelPoint> kernel_points(bool quick) {
  Builder builder(quick ? quick_sizes : full_sizes);
  builder.gemms();
  builder.attention();
  builder.activations();
  builder.rows();
  builder.vectors();
  return builder.take();
}

std::vector<std::pair<std::int64_t, Dtype>> operands_of(const Kernel& k) {
  const std::int64_t rows = k.dims[0], cols = k.dims[1], all = rows * cols;
  const auto fp32 = [](std::initializer_list<std::int64_t> sizes) {
    std::vector<std::pair<std::int64_t, Dtype>> out;
    for (const std::int64_t size : sizes) out.emplace_back(size, Dtype::fp32);
    return out;
  };
  const auto with = [](std::vector<std::pair<std::int64_t, Dtype>> operands, std::size_t place,
                       Dtype dtype) {
    operands[place].second = dtype;
    return operands;
  };
  switch (k.op) {
    case Op::gemm:
      return fp32({rows * k.dims[2], k.dims[2] * cols, all, k.dims[3] != 0 ? cols : 0});
    case Op::bias_activation:
      return fp32({all, cols, all});
    case Op::bias_activation_backward:
      return fp32({all, all, cols, all});
    case Op::gated_activation:
      return fp32({2 * all, 0, all});
    case Op::gated_activation_backward:
      return fp32({all, 2 * all, 0, 2 * all});
    case Op::column_sum:
      return fp32({all, cols});
    case Op::embedding:
      return with(fp32({rows, vocabulary * cols, all}), 0, Dtype::int32);
    case Op::embedding_backward:
      return with(fp32({rows, all, vocabulary * cols}), 0, Dtype::int32);
    case Op::cross_entropy:
      return with(fp32({all, rows, 1}), 1, Dtype::int32);
    case Op::norm:
      return fp32({all, cols, cols, all});
    case Op::norm_backward:
      return fp32({all, all, cols, all, cols, cols, all});
    case Op::residual_add:
      return fp32({all, all, cols, all});
    case Op::add_positions:
    case Op::positions_backward:
    case Op::linear_combination:
      return k.op == Op::linear_combination ? fp32({rows, rows}) : fp32({all, all});
    case Op::rotary:
      return fp32({cols * k.dims[4]});
    case Op::text_batch:
      return {{1, Dtype::int64}, {all, Dtype::int32}, {all, Dtype::int32}};
    case Op::attention:
    case Op::attention_backward: {
      const std::int64_t tokens = k.dims[1] * k.dims[3], one = tokens * k.dims[4];
      return k.op == Op::attention ? fp32({3 * one, 0, 0, one, tokens})
                                   : fp32({one, 3 * one, 0, 0, one, tokens, 3 * one, 0, 0});
    }
    case Op::sgd:
      return with(fp32({rows, rows, k.scalars[1] != 0 ? rows : 0, 0, 1, 2}), 5, Dtype::fp64);
    case Op::adamw:
      return with(fp32({rows, rows, rows, rows, 0, 1, 2}), 6, Dtype::fp64);
    case Op::fill:
      return fp32({rows});
    case Op::sum_squares:
      return fp32({rows, 1});
    case Op::clip_scale:
      return fp32({1, 1});
    default:
      break;
  }
  throw Error(Category::internal, "calibration does not measure such kernels")
      .with("kernel", name(k.op));
}

}  // namespace orrery
