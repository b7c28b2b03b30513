// Kernels that treat each element by itself, bound by memory.
#include <cstring>

#include "backend/cuda/gpu/device.cuh"
#include "backend/cuda/gpu/kernels.hpp"

namespace orrery::cuda {

namespace {

constexpr float half_root = 0.70710678118654752F;  // sqrt(1/2)

// x = act(x); returns act'(x).
template <int width>
__device__ Lanes<width> activate(Activation activation, Lanes<width>& x) {
  Lanes<width> slope;
  switch (activation) {
    case Activation::relu:
#pragma unroll
      for (int i = 0; i < width; ++i) {
        slope.at[i] = x.at[i] > 0.0F ? 1.0F : 0.0F;
        x.at[i] = fmaxf(x.at[i], 0.0F);
      }
      break;
    case Activation::gelu:
#pragma unroll
      for (int i = 0; i < width; ++i) {
        const float z = x.at[i], below = 0.5F * (1.0F + erff(z * half_root));
        slope.at[i] = below + z * (0.39894228040143268F * expf(-0.5F * z * z));
        x.at[i] = z * below;
      }
      break;
    case Activation::silu:
#pragma unroll
      for (int i = 0; i < width; ++i) {
        const float z = x.at[i], s = 1.0F / (1.0F + expf(-z));
        slope.at[i] = s + z * (s * (1.0F - s));
        x.at[i] = z * s;
      }
      break;
    default:
#pragma unroll
      for (int i = 0; i < width; ++i) slope.at[i] = 1.0F;
  }
  return slope;
}

template <int width>
__device__ Lanes<width> operator+(Lanes<width> x, const Lanes<width>& y) {
#pragma unroll
  for (int i = 0; i < width; ++i) x.at[i] += y.at[i];
  return x;
}
template <int width>
__device__ Lanes<width> operator*(Lanes<width> x, const Lanes<width>& y) {
#pragma unroll
  for (int i = 0; i < width; ++i) x.at[i] *= y.at[i];
  return x;
}

// Unit: a whole number as wide as an element.
template <class Unit>
struct Fill {
  Unit* y;
  Unit value;
  template <int width>
  __device__ void run(std::int64_t i) const {
    Pack<Unit, width> pack;
#pragma unroll
    for (int j = 0; j < width; ++j) pack.at[j] = value;
    put_bits(y + i, pack);
  }
};

struct RandomNumbers {
  std::uint16_t* y;
  template <int width>
  __device__ void run(std::int64_t i) const {
    Pack<std::uint16_t, width> pack;
#pragma unroll
    for (int j = 0; j < width; ++j) {
      // Steele, Lea and Flood 2014 (splitmix64), one number for each index.
      std::uint64_t mixed = static_cast<std::uint64_t>(i + j) * 0x9E3779B97F4A7C15U;
      mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9U;
      pack.at[j] = static_cast<std::uint16_t>(((mixed >> 40) & 0x87FFU) | 0x3800U);
    }
    put_bits(y + i, pack);
  }
};

template <class X, class Y>
struct Cast {
  const X* x;
  Y* y;
  template <int width>
  __device__ void run(std::int64_t i) const {
    store(y + i, load<width>(x + i));
  }
};

struct CastAny {
  Any x, y;
  template <int width>
  __device__ void run(std::int64_t i) const {
    y.set(i, x.get(i));
  }
};

// What a combination's coefficients are on the device.
struct Coefficients {
  double a, b;
  Any by_a, by_b;
  __device__ double first() const { return by_a.data == nullptr ? a : a * by_a.get(0); }
  __device__ double second() const { return by_b.data == nullptr ? b : b * by_b.get(0); }
};

// A coefficient 0 drops its term, so that y may hold anything when b is 0.
template <class X, class Y>
struct Combine {
  const X* x;
  Y* y;
  Coefficients by;
  template <int width>
  __device__ void run(std::int64_t i) const {
    const auto a = static_cast<float>(by.first()), b = static_cast<float>(by.second());
    Pack<X, width> from_x;  // widened only when both are on their way
    Pack<Y, width> from_y;
    if (a != 0) from_x = take<width>(x + i);
    if (b != 0) from_y = take<width>(y + i);
    Lanes<width> sum{};
    const auto term = [&](float factor, const auto& pack) {
      if (factor == 0) return;
#pragma unroll
      for (int j = 0; j < width; ++j) sum.at[j] += factor * widen(pack.at[j]);
    };
    term(a, from_x);
    term(b, from_y);
    store(y + i, sum);
  }
};

struct CombineAny {
  Any x, y;
  Coefficients by;
  template <int width>
  __device__ void run(std::int64_t i) const {
    const double a = by.first(), b = by.second();
    y.set(i, (a == 0 ? 0 : a * x.get(i)) + (b == 0 ? 0 : b * y.get(i)));
  }
};

template <class T>
struct Activate {
  const T* x;
  Any bias;
  T* y;
  std::int64_t cols;
  Activation activation;
  template <int width>
  __device__ void run(std::int64_t i) const {
    Lanes<width> value = load<width>(x + i);
    if (bias.data != nullptr) value = value + bias.lanes<width>(i % cols);
    activate(activation, value);
    store(y + i, value);
  }
};

template <class T>
struct ActivateBackward {
  const T *dy, *x;
  Any bias;
  T* dx;
  std::int64_t cols;
  Activation activation;
  template <int width>
  __device__ void run(std::int64_t i) const {
    const Lanes<width> d = load<width>(dy + i);
    Lanes<width> value = load<width>(x + i);
    if (bias.data != nullptr) value = value + bias.lanes<width>(i % cols);
    store(dx + i, d * activate(activation, value));
  }
};

template <int width>
struct Halves {
  Lanes<width> gate, up;
};
// Of the wide operand, from `at` and `cols` behind it, with the bias of column `col`.
template <int width, class T>
__device__ Halves<width> halves(const T* x, const Any& bias, std::int64_t at, std::int64_t col,
                                std::int64_t cols) {
  Halves<width> h{load<width>(x + at), load<width>(x + at + cols)};
  if (bias.data != nullptr) {
    h.gate = h.gate + bias.lanes<width>(col);
    h.up = h.up + bias.lanes<width>(cols + col);
  }
  return h;
}

// Element i of the narrow operand is gated by `at` of the wide one, whose other half is `cols` on.
template <class T>
struct Gate {
  const T* x;
  Any bias;
  T* y;
  std::int64_t cols;
  Activation activation;
  template <int width>
  __device__ void run(std::int64_t i) const {
    const std::int64_t col = i % cols, at = 2 * (i - col) + col;
    auto [gate, up] = halves<width>(x, bias, at, col, cols);
    activate(activation, gate);
    store(y + i, gate * up);
  }
};

template <class T>
struct GateBackward {
  const T *dy, *x;
  Any bias;
  T* dx;
  std::int64_t cols;
  Activation activation;
  template <int width>
  __device__ void run(std::int64_t i) const {
    const std::int64_t col = i % cols, at = 2 * (i - col) + col;
    const Lanes<width> d = load<width>(dy + i);
    auto [gate, up] = halves<width>(x, bias, at, col, cols);
    const Lanes<width> slope = activate(activation, gate);
    store(dx + at, d * up * slope);
    store(dx + at + cols, d * gate);
  }
};

template <class T>
struct Residual {
  const T *x, *y;
  Any bias;
  T* z;
  std::int64_t cols;
  Activation activation;
  template <int width>
  __device__ void run(std::int64_t i) const {
    const Lanes<width> first = load<width>(x + i);
    Lanes<width> sum = load<width>(y + i);
    if (bias.data != nullptr) sum = sum + bias.lanes<width>(i % cols);
    sum = first + sum;
    activate(activation, sum);
    store(z + i, sum);
  }
};

Any optional(Views views, std::size_t place) {
  return Any(place < views.size() ? views[place] : View{});
}

// Rows matter only where there is a bias.
template <class Work, class... T>
void each_with_bias(cudaStream_t stream, const Kernel& kernel, const Work& work, T*... bulk) {
  constexpr int width = pack_width<T...>;
  const std::int64_t cols = kernel.dims[1], n = kernel.dims[0] * cols;
  work.bias.data == nullptr
      ? each<width>(stream, kernel.label, n, work, bulk...)
      : each_in_rows<width>(stream, kernel.label, n, cols, work, work.bias, bulk...);
}

// `value` as Any::set would store it, in the first bytes.
std::uint64_t bits_of(double value, Dtype dtype) {
  std::uint64_t bits = 0;
  const auto put = [&bits](auto number) { std::memcpy(&bits, &number, sizeof number); };
  switch (dtype) {
    case Dtype::fp32:
      put(static_cast<float>(value));
      break;
    case Dtype::bf16:
      put(to_bf16(static_cast<float>(value)));
      break;
    case Dtype::fp16:
      put(to_fp16(static_cast<float>(value)));
      break;
    case Dtype::fp64:
      put(value);
      break;
    default:
      put(std::llrint(value));
  }
  return bits;
}

template <class Unit>
void fill_units(cudaStream_t stream, const View& y, double value, std::int64_t n) {
  auto* to = static_cast<Unit*>(y.data);
  each<pack_width<Unit>>(stream, "fill", n,
                         Fill<Unit>{to, static_cast<Unit>(bits_of(value, y.dtype))}, to);
}

}  // namespace

bool fill(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t n = kernel.dims[0];
  switch (size_of(views[0].dtype)) {
    case 1:
      fill_units<std::uint8_t>(stream, views[0], kernel.scalars[0], n);
      break;
    case 2:
      fill_units<std::uint16_t>(stream, views[0], kernel.scalars[0], n);
      break;
    case 4:
      fill_units<std::uint32_t>(stream, views[0], kernel.scalars[0], n);
      break;
    default:
      fill_units<std::uint64_t>(stream, views[0], kernel.scalars[0], n);
  }
  return true;
}

void fill_with_random_numbers(cudaStream_t stream, void* data, std::size_t bytes) {
  auto* y = static_cast<std::uint16_t*>(data);
  each<pack_width<std::uint16_t>>(stream, "random numbers", static_cast<std::int64_t>(bytes / 2),
                                  RandomNumbers{y}, y);
}

bool cast(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t n = kernel.dims[0];
  if (!with_types(views[0].dtype, views[1].dtype, [&]<class X, class Y>(X, Y) {
        const X* x = data<X>(views[0]);
        Y* y = data<Y>(views[1]);
        each<pack_width<X, Y>>(stream, "cast", n, Cast<X, Y>{x, y}, x, y);
      }))
    each<1>(stream, "cast", n, CastAny{Any(views[0]), Any(views[1])});
  return true;
}

bool linear_combination(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t n = kernel.dims[0];
  const Coefficients by{kernel.scalars[0], kernel.scalars[1], optional(views, 2),
                        optional(views, 3)};
  if (!with_types(views[0].dtype, views[1].dtype, [&]<class X, class Y>(X, Y) {
        const X* x = data<X>(views[0]);
        Y* y = data<Y>(views[1]);
        each<pack_width<X, Y>>(stream, "linear_combination", n, Combine<X, Y>{x, y, by}, x, y);
      }))
    each<1>(stream, "linear_combination", n, CombineAny{Any(views[0]), Any(views[1]), by});
  return true;
}

bool bias_activation(cudaStream_t stream, const Kernel& kernel, Views views) {
  return typed(kernel, views, {0, 2}) && bulk(views, {1}) &&
         with_type(kernel.dtype, [&]<class T>(T) {
           T *x = data<T>(views[0]), *y = data<T>(views[2]);
           each_with_bias(stream, kernel,
                          Activate<T>{x, Any(views[1]), y, kernel.dims[1], kernel.activation}, x,
                          y);
         });
}

bool bias_activation_backward(cudaStream_t stream, const Kernel& kernel, Views views) {
  return typed(kernel, views, {0, 1, 3}) && bulk(views, {2}) &&
         with_type(kernel.dtype, [&]<class T>(T) {
           T *dy = data<T>(views[0]), *x = data<T>(views[1]), *dx = data<T>(views[3]);
           each_with_bias(
               stream, kernel,
               ActivateBackward<T>{dy, x, Any(views[2]), dx, kernel.dims[1], kernel.activation}, dy,
               x, dx);
         });
}

bool gated_activation(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t cols = kernel.dims[1], n = kernel.dims[0] * cols;
  return typed(kernel, views, {0, 2}) && bulk(views, {1}) &&
         with_type(kernel.dtype, [&]<class T>(T) {
           T *x = data<T>(views[0]), *y = data<T>(views[2]);
           const Gate<T> work{x, Any(views[1]), y, cols, kernel.activation};
           each_in_rows<pack_width<T>>(stream, "gated_activation", n, cols, work, work.bias, x, y);
         });
}

bool gated_activation_backward(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t cols = kernel.dims[1], n = kernel.dims[0] * cols;
  return typed(kernel, views, {0, 1, 3}) && bulk(views, {2}) &&
         with_type(kernel.dtype, [&]<class T>(T) {
           T *dy = data<T>(views[0]), *x = data<T>(views[1]), *dx = data<T>(views[3]);
           const GateBackward<T> work{dy, x, Any(views[2]), dx, cols, kernel.activation};
           each_in_rows<pack_width<T>>(stream, "gated_activation_backward", n, cols, work,
                                       work.bias, dy, x, dx);
         });
}

bool residual_add(cudaStream_t stream, const Kernel& kernel, Views views) {
  return typed(kernel, views, {0, 1, 3}) && bulk(views, {2}) &&
         with_type(kernel.dtype, [&]<class T>(T) {
           T *x = data<T>(views[0]), *y = data<T>(views[1]), *z = data<T>(views[3]);
           each_with_bias(stream, kernel,
                          Residual<T>{x, y, Any(views[2]), z, kernel.dims[1], kernel.activation}, x,
                          y, z);
         });
}

}  // namespace orrery::cuda
