#include "backend/kernel.hpp"

#include <array>
#include <bit>

#include "backend/core/error.hpp"

namespace orrery {

namespace {

constexpr std::array<const char*, 31> op_names{"gemm",
                                               "bias_activation",
                                               "bias_activation_backward",
                                               "column_sum",
                                               "embedding",
                                               "embedding_backward",
                                               "cross_entropy",
                                               "linear_combination",
                                               "fill",
                                               "cast",
                                               "sum_squares",
                                               "clip_scale",
                                               "sgd",
                                               "adamw",
                                               "initialise",
                                               "text_batch",
                                               "norm",
                                               "norm_backward",
                                               "rotary",
                                               "gated_activation",
                                               "gated_activation_backward",
                                               "residual_add",
                                               "add_positions",
                                               "positions_backward",
                                               "attention",
                                               "attention_backward",
                                               "implicit_gemm",
                                               "fft",
                                               "streaming",
                                               "custom",
                                               "timed"};

Kernel make(Op op, Dtype dtype, std::array<std::int64_t, 6> dims, std::initializer_list<Role> roles,
            const char* label) {
  Kernel kernel;
  kernel.op = op;
  kernel.dtype = dtype;
  kernel.dims = dims;
  kernel.roles = pack_roles(roles);
  kernel.label = label;
  return kernel;
}

constexpr Role r = Role::read, w = Role::write, u = Role::update;

}  // namespace

const char* name(Op op) { return op_names.at(static_cast<std::size_t>(op)); }

bool is_elementwise(Op op) {
  switch (op) {
    case Op::bias_activation:
    case Op::bias_activation_backward:
    case Op::norm:
    case Op::norm_backward:
    case Op::rotary:
    case Op::gated_activation:
    case Op::gated_activation_backward:
    case Op::residual_add:
    case Op::add_positions:
    case Op::positions_backward:
    case Op::streaming:
      return true;
    default:
      return false;
  }
}

bool Kernel::operator==(const Kernel& o) const {
  return op == o.op && dtype == o.dtype && transpose_a == o.transpose_a &&
         transpose_b == o.transpose_b && accumulate == o.accumulate && activation == o.activation &&
         dims == o.dims && scalars == o.scalars && seed == o.seed && roles == o.roles &&
         std::string_view(label) == o.label && body == o.body && text == o.text;
}

std::size_t Kernel::hash() const {
  std::uint64_t h = static_cast<std::uint64_t>(op) * 0x9e3779b97f4a7c15ULL;
  const auto mix = [&h](std::uint64_t v) { h = std::rotl(h ^ v, 29) * 0xbf58476d1ce4e5b9ULL; };
  for (std::int64_t d : dims) mix(static_cast<std::uint64_t>(d));
  for (double s : scalars) mix(std::bit_cast<std::uint64_t>(s));
  mix(static_cast<std::uint64_t>(dtype) | (static_cast<std::uint64_t>(activation) << 16) |
      (transpose_a ? 256U : 0U) | (transpose_b ? 512U : 0U) | (accumulate ? 1024U : 0U));
  mix(seed);
  mix(roles);
  mix(reinterpret_cast<std::uintptr_t>(body.get()) ^ reinterpret_cast<std::uintptr_t>(text.get()));
  return h;
}

// dims: m, n, k, 1 with a bias
Kernel Kernel::gemm(std::int64_t m, std::int64_t n, std::int64_t k, Dtype dtype, bool transpose_a,
                    bool transpose_b, bool accumulate, const char* label) {
  Kernel kernel = make(Op::gemm, dtype, {m, n, k}, {r, r, accumulate ? u : w}, label);
  kernel.transpose_a = transpose_a;
  kernel.transpose_b = transpose_b;
  kernel.accumulate = accumulate;
  return kernel;
}

Kernel Kernel::gemm_bias(std::int64_t m, std::int64_t n, std::int64_t k, Dtype dtype,
                         const char* label) {
  return make(Op::gemm, dtype, {m, n, k, 1}, {r, r, w, r}, label);
}

// dims: rows, cols, 1 with a bias
Kernel Kernel::bias_activation(std::int64_t rows, std::int64_t cols, Activation activation,
                               Dtype dtype, bool with_bias) {
  Kernel kernel = make(Op::bias_activation, dtype, {rows, cols, with_bias ? 1 : 0}, {r, r, w},
                       "bias_activation");
  kernel.activation = activation;
  return kernel;
}

Kernel Kernel::bias_activation_backward(std::int64_t rows, std::int64_t cols, Activation activation,
                                        Dtype dtype, bool with_bias) {
  Kernel kernel = make(Op::bias_activation_backward, dtype, {rows, cols, with_bias ? 1 : 0},
                       {r, r, r, w}, "bias_activation_backward");
  kernel.activation = activation;
  return kernel;
}

Kernel Kernel::column_sum(std::int64_t rows, std::int64_t cols, Dtype dtype) {
  return make(Op::column_sum, dtype, {rows, cols}, {r, u}, "column_sum");
}

// dims: rows, cols, vocabulary
Kernel Kernel::embedding(std::int64_t rows, std::int64_t cols, std::int64_t vocabulary,
                         Dtype dtype) {
  return make(Op::embedding, dtype, {rows, cols, vocabulary}, {r, r, w}, "embedding");
}

Kernel Kernel::embedding_backward(std::int64_t rows, std::int64_t cols, std::int64_t vocabulary,
                                  Dtype dtype) {
  return make(Op::embedding_backward, dtype, {rows, cols, vocabulary}, {r, r, u},
              "embedding_backward");
}

// dims: rows, vocabulary; scalars: scale
Kernel Kernel::cross_entropy(std::int64_t rows, std::int64_t vocabulary, double scale,
                             Dtype dtype) {
  Kernel kernel = make(Op::cross_entropy, dtype, {rows, vocabulary}, {u, r, u}, "cross_entropy");
  kernel.scalars[0] = scale;
  return kernel;
}

// dims: elements; scalars: a, b
Kernel Kernel::linear_combination(std::int64_t elements, double a, double b, Dtype dtype,
                                  bool with_scalars) {
  Kernel kernel =
      with_scalars
          ? make(Op::linear_combination, dtype, {elements}, {r, u, r, r}, "linear_combination")
          : make(Op::linear_combination, dtype, {elements}, {r, u}, "linear_combination");
  kernel.scalars[0] = a;
  kernel.scalars[1] = b;
  return kernel;
}

// dims: elements; scalars: value
Kernel Kernel::fill(std::int64_t elements, double value, Dtype dtype) {
  Kernel kernel = make(Op::fill, dtype, {elements}, {w}, "fill");
  kernel.scalars[0] = value;
  return kernel;
}

// dims: elements, source type
Kernel Kernel::cast(std::int64_t elements, Dtype from, Dtype to) {
  return make(Op::cast, to, {elements, static_cast<std::int64_t>(from)}, {r, w}, "cast");
}

// dims: elements
Kernel Kernel::sum_squares(std::int64_t elements, Dtype dtype) {
  return make(Op::sum_squares, dtype, {elements}, {r, u}, "sum_squares");
}

// scalars: maximum norm
Kernel Kernel::clip_scale(double max_norm) {
  Kernel kernel = make(Op::clip_scale, Dtype::fp32, {1}, {r, w}, "clip_scale");
  kernel.scalars[0] = max_norm;
  return kernel;
}

// dims: elements, nesterov, type of g; scalars: lr, momentum, weight decay. Operands p, g, m,
// master, scale, step.
Kernel Kernel::sgd(std::int64_t elements, double lr, double momentum, bool nesterov,
                   double weight_decay, Dtype dtype, Dtype gradient) {
  Kernel kernel =
      make(Op::sgd, dtype, {elements, nesterov ? 1 : 0, static_cast<std::int64_t>(gradient)},
           {u, r, u, u, r, r}, "sgd");
  kernel.scalars = {lr, momentum, weight_decay};
  return kernel;
}

// dims: elements, type of g; scalars: lr, beta1, beta2, epsilon, weight decay. Operands p, g, m, v,
// master, scale, step.
Kernel Kernel::adamw(std::int64_t elements, double lr, double beta1, double beta2, double epsilon,
                     double weight_decay, Dtype dtype, Dtype gradient) {
  Kernel kernel = make(Op::adamw, dtype, {elements, static_cast<std::int64_t>(gradient)},
                       {u, r, u, u, u, r, r}, "adamw");
  kernel.scalars = {lr, beta1, beta2, epsilon, weight_decay};
  return kernel;
}

// dims: elements, first global element, tensor number; scalars: deviation
Kernel Kernel::initialise(std::int64_t elements, std::int64_t first_global_element,
                          double deviation, std::uint64_t seed, std::uint64_t tensor_number,
                          Dtype dtype) {
  Kernel kernel = make(Op::initialise, dtype,
                       {elements, first_global_element, static_cast<std::int64_t>(tensor_number)},
                       {w}, "initialise");
  kernel.scalars[0] = deviation;
  kernel.seed = seed;
  return kernel;
}

// dims: samples, context, targets per sample, stride
Kernel Kernel::text_batch(std::int64_t samples, std::int64_t context, std::uint64_t seed,
                          std::shared_ptr<const std::string> text, std::int64_t targets_per_sample,
                          std::int64_t stride) {
  Kernel kernel = make(Op::text_batch, Dtype::int32, {samples, context, targets_per_sample, stride},
                       {r, w, w}, "text_batch");
  kernel.seed = seed;
  kernel.text = std::move(text);
  return kernel;
}

// dims: rows, cols, kind; scalars: epsilon
Kernel Kernel::norm(std::int64_t rows, std::int64_t cols, Norm kind, double epsilon, Dtype dtype) {
  Kernel kernel =
      make(Op::norm, dtype, {rows, cols, static_cast<std::int64_t>(kind)}, {r, r, r, w}, "norm");
  kernel.scalars[0] = epsilon;
  return kernel;
}

// dims: rows, cols, kind, 1 with a skip
Kernel Kernel::norm_backward(std::int64_t rows, std::int64_t cols, Norm kind, double epsilon,
                             bool with_skip, Dtype dtype) {
  Kernel kernel = make(Op::norm_backward, dtype,
                       {rows, cols, static_cast<std::int64_t>(kind), with_skip ? 1 : 0},
                       {r, r, r, r, u, u, w}, "norm_backward");
  kernel.scalars[0] = epsilon;
  return kernel;
}

// dims: batch, sequence, heads, heads per token, head_size, inverse; scalars: theta
Kernel Kernel::rotary(std::int64_t batch, std::int64_t sequence, std::int64_t heads,
                      std::int64_t heads_per_token, std::int64_t head_size, double theta,
                      Dtype dtype, bool inverse) {
  Kernel kernel =
      make(Op::rotary, dtype, {batch, sequence, heads, heads_per_token, head_size, inverse ? 1 : 0},
           {u}, inverse ? "rotary_backward" : "rotary");
  kernel.scalars[0] = theta;
  return kernel;
}

// dims: rows, cols of the result, 1 with a bias
Kernel Kernel::gated_activation(std::int64_t rows, std::int64_t cols, Activation activation,
                                Dtype dtype, bool with_bias) {
  Kernel kernel = make(Op::gated_activation, dtype, {rows, cols, with_bias ? 1 : 0}, {r, r, w},
                       "gated_activation");
  kernel.activation = activation;
  return kernel;
}

Kernel Kernel::gated_activation_backward(std::int64_t rows, std::int64_t cols,
                                         Activation activation, Dtype dtype, bool with_bias) {
  Kernel kernel = make(Op::gated_activation_backward, dtype, {rows, cols, with_bias ? 1 : 0},
                       {r, r, r, w}, "gated_activation_backward");
  kernel.activation = activation;
  return kernel;
}

// dims: rows, cols, 1 with a bias
Kernel Kernel::residual_add(std::int64_t rows, std::int64_t cols, Dtype dtype, bool with_bias) {
  return make(Op::residual_add, dtype, {rows, cols, with_bias ? 1 : 0}, {r, r, r, w},
              "residual_add");
}

// dims: rows, cols, sequence
Kernel Kernel::add_positions(std::int64_t rows, std::int64_t cols, std::int64_t sequence,
                             Dtype dtype) {
  return make(Op::add_positions, dtype, {rows, cols, sequence}, {r, u}, "add_positions");
}

Kernel Kernel::positions_backward(std::int64_t rows, std::int64_t cols, std::int64_t sequence,
                                  Dtype dtype) {
  return make(Op::positions_backward, dtype, {rows, cols, sequence}, {r, u}, "positions_backward");
}

// dims: batch, heads, kv_heads, sequence, head_size, causal
Kernel Kernel::attention(std::int64_t batch, std::int64_t heads, std::int64_t kv_heads,
                         std::int64_t sequence, std::int64_t head_size, bool causal, Dtype dtype) {
  return make(Op::attention, dtype, {batch, heads, kv_heads, sequence, head_size, causal ? 1 : 0},
              {r, r, r, w, w}, "attention");
}

Kernel Kernel::attention_backward(std::int64_t batch, std::int64_t heads, std::int64_t kv_heads,
                                  std::int64_t sequence, std::int64_t head_size, bool causal,
                                  Dtype dtype) {
  return make(Op::attention_backward, dtype,
              {batch, heads, kv_heads, sequence, head_size, causal ? 1 : 0},
              {r, r, r, r, r, r, w, w, w}, "attention_backward");
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
