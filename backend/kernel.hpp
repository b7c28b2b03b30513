// What a device can compute: descriptors of kernels, the roles of their operands, and their cost.
//
// A `Kernel` says which operation on which shapes. It holds no data and no device: worlds price it
// (sim), run a body for it (cpu) or plan it (cuda). `Op` is the whole vocabulary that algorithms
// and models are written in; a researcher's own operation is `Op::custom` with a body.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "backend/core/units.hpp"
#include "backend/dtype.hpp"

namespace orrery {

// Operands in order, with r = read, w = written, u = read and written (updated), (…) = optional,
// passed as an empty operand.
enum class Op : std::uint8_t {
  gemm,  // A r, B r, C w|u, (b r) : C[m,n] = op(A)[m,k] op(B)[k,n] (+ C when accumulating) (+ b[n]
         // in every row)
  bias_activation,           // X r, (b r), Y w : Y[rows,cols] = act(X + b)
  bias_activation_backward,  // dY r, X r, (b r), dX w : dX = dY * act'(X + b)
  column_sum,                // X r, y u : y[cols] += sum of rows of X
  embedding,                 // tokens r, table r, Y w : Y[rows,cols] = table[tokens]
  embedding_backward,        // tokens r, dY r, dtable u
  cross_entropy,  // logits u -> d logits, targets r, loss u : loss += scale * sum(-log p); logits =
                  // scale * (p - onehot)
  linear_combination,  // x r, y u, (a r, b r) : y = a x + b y; a, b are `scalars` 0 and 1, times
                       // the scalar operands if given
  fill,                // y w : y = scalars[0]
  cast,                // x r, y w : y = x in the type of y
  sum_squares,         // x r, s u : s += sum of x^2
  clip_scale,          // s r, scale w : scale = min(1, scalars[0] / sqrt(s)); 1 where s is 0
  sgd,                 // p u, g r, (m u, master u, scale r, step r): see SgdScalars
  adamw,               // p u, g r, m u, v u, (master u, scale r), step r : see AdamwScalars
  initialise,     // y w : normal numbers, mean 0, deviation scalars[0], indexed by global element
                  // dims[1] + i
  text_batch,     // cursor r, tokens w, targets w : samples of a text; see Kernel::text_batch
  norm,           // X r, gain r, (bias r), Y w : each row of X normalised; see Norm
  norm_backward,  // dY r, X r, gain r, (skip r), dgain u, (dbias u), dX w : dX = skip + the
                  // gradient of X; statistics of the rows are computed again
  rotary,         // X u : the first heads of each token turned by its position; see Kernel::rotary
  gated_activation,           // X r, (b r), Y w : (G | U) = X + b, Y[rows,cols] = act(G) * U
  gated_activation_backward,  // dY r, X r, (b r), dX w : dX = (dY * U * act'(G) | dY * act(G))
  residual_add,               // x r, y r, (b r), z w : z[rows,cols] = act(x + (y + b))
  add_positions,              // table r, Y u : Y[row] += table[row mod sequence]
  positions_backward,         // dY r, dtable u : dtable[row mod sequence] += dY[row]
  attention,                  // q r, (k r, v r), o w, (statistics w); see Kernel::attention
  attention_backward,         // do r, q r, (k r, v r), o r, statistics r, dq w, (dk w, dv w)
  attention_merge,   // o u, statistics u, o' r, statistics' r : attention to more keys; see
                     // Kernel::attention_merge
  row_maximum,       // logits r, maxima w : the largest of each row
  softmax_sums,      // logits u -> e^(logits - maxima), targets r, maxima r, sums w : sums[rows] of
                     // each row, and behind them the logit of each row's target less the maximum, 0
                     // where another part of the vocabulary has it
  softmax_gradient,  // exponentials u -> d logits, targets r, sums r, loss u : what cross_entropy
                     // leaves, from the sums over all parts of the vocabulary
  permute,           // X r, Y w (or, inverse, X w, Y r) : see Kernel::permute
  reorder,           // X r, Y w : see Kernel::reorder
  grouped_gemm,      // as gemm, for each of several groups of matrices
  route,             // logits r, weights w, choices w, (bias r, counts u) : see Kernel::route
  route_backward,    // d weights r, logits r, weights r, choices r, d logits w
  dispatch,          // X r, choices r, D w : rows to the places of their experts; the rest zeros
  dispatch_backward,  // dD r, choices r, dX w : dX = scale * the sum of a row's places
  combine,            // O r, weights r, choices r, Y u : Y += the weighted sum of a row's places
  combine_backward,   // dY r, O r, weights r, choices r, dO w, d weights w : dO is times scale
  convolution,        // X r, W r, Y w : see ConvolutionShape
  convolution_input_gradient,   // dY r, W r, dX w|u
  convolution_weight_gradient,  // X r, dY r, dW u
  batch_norm,                   // X r, gain r, bias r, Y w, (running u) : see Kernel::batch_norm
  batch_norm_backward,  // dY r, X r, gain r, dgain u, dbias u, dX w : statistics of the columns are
                        // computed again
  residual_add_backward,  // dY r, x r, y r, dX w : dX = dY * act'(x + y)
  max_pool,               // X r, Y w : see Kernel::max_pool
  max_pool_backward,      // X r, dY r, dX w : to the first of the largest of each window
  average_pool,           // X r, Y w : Y[samples, channels], means over all pixels
  average_pool_backward,  // dY r, dX w
  picture_batch,          // cursor r, X w, labels w : see Kernel::picture_batch
  implicit_gemm,          // roles given: a product whose operands are not stored as
                          // matrices                                                 timing model
  fft,                    // X r, Y w : real transforms or their inverses              timing model
  streaming,              // anything bound by memory; roles given: copies             timing model
  host_copy,  // x r, y w : y = x, of which one is in the host's memory       timing model
  custom,     // roles and body given by the program
  timed,      // takes a stated time in sim; does nothing elsewhere. For schedules and tests
};
const char* name(Op);

enum class Role : std::uint8_t { none = 0, read = 1, write = 2, update = 3 };
inline constexpr int max_operands = 12;

// Packs roles of up to `max_operands` operands, 2 bits each, the first in the lowest bits.
constexpr std::uint32_t pack_roles(std::initializer_list<Role> roles) {
  std::uint32_t packed = 0;
  int at = 0;
  for (Role role : roles) packed |= static_cast<std::uint32_t>(role) << (2 * at++);
  return packed;
}
constexpr Role role_of(std::uint32_t packed, std::size_t operand) {
  return static_cast<Role>((packed >> (2 * operand)) & 3U);
}

enum class Activation : std::uint8_t { none, relu, gelu, silu };

// How a row x of n elements is normalised; e stands for the kernel's epsilon.
//   rms    gain x / sqrt(sum x^2 / n + e)            Zhang and Sennrich 2019, arXiv 1910.07467
//   layer  gain (x - mean) / sqrt(variance + e) + bias     Ba et al. 2016, arXiv 1607.06450
enum class Norm : std::uint8_t { rms, layer };

// Whether a kernel bound by memory works on activations element by element, so that a software
// stack may move its bytes more or less than once.
bool is_elementwise(Op op);

// Which part of every sequence a rank holds: of `of` equal parts the one at `index`; or, zigzag, of
// twice as many the one at `index` and its mirror image from the end, so that under a causal mask
// each rank has as many pairs of query and key as any other.
struct SequencePart {
  std::int32_t index = 0, of = 1;
  bool zigzag = false;
  bool operator==(const SequencePart&) const = default;
  // In the sequence, of the local token `at` of `length`.
  std::int64_t position(std::int64_t at, std::int64_t length) const {
    if (!zigzag) return index * length + at;
    const std::int64_t half = length / 2;
    return at < half ? index * half + at : (2 * of - 1 - index) * half + at - half;
  }
};

// Which keys a query sees.
enum class AttentionPart : std::uint8_t {
  full,          // all
  causal,        // those up to its own position
  early_keys,    // those of the first half; the others get no gradient
  late_queries,  // all for queries of the second half; results of others say nothing
  prefix,  // of a whole sequence, those up to its own position; queries are a part of the sequence
};

// How the logits of a router become the weights of the experts that it chooses: those with the
// largest logits.
enum class Router : std::uint8_t {
  softmax,      // over the chosen
  softmax_all,  // over all experts
  sigmoid,      // divided by their sum over the chosen
};

// Pictures are X[samples, size, size, channels]. A convolution sees each pixel's window of kernel x
// kernel, of whose pixels (kernel - 1) / 2 lie before it, those beyond the edge being zero; windows
// are `stride` apart. Weights are W[kernel, kernel, in, out].
struct ConvolutionShape {
  std::int64_t samples = 1, size = 1, in = 1, out = 1, kernel = 1, stride = 1;
  std::int64_t out_size() const { return (size - 1) / stride + 1; }
  std::int64_t inputs() const { return samples * size * size * in; }
  std::int64_t outputs() const { return samples * out_size() * out_size() * out; }
  std::int64_t window() const { return kernel * kernel * in; }
  std::int64_t weights() const { return window() * out; }
  bool operator==(const ConvolutionShape&) const = default;
};

// A kernel body's view of one operand. `data` is null for an operand that was left empty.
struct View {
  void* data = nullptr;
  std::int64_t elements = 0;
  Dtype dtype = Dtype::fp32;
};
using KernelBody = std::function<void(std::span<const View>)>;

// Place of a grouped_gemm's load in Kernel::scalars; 0 there is 1.
inline constexpr std::size_t grouped_load = 0;

struct Kernel {
  Op op = Op::timed;
  Dtype dtype = Dtype::fp32;  // of the bulk operands; decides bytes and which peak applies
  bool transpose_a = false, transpose_b = false, accumulate = false;
  Activation activation = Activation::none;
  std::array<std::int64_t, 6> dims{};  // meaning per factory below
  std::array<double, 6> scalars{};
  SequencePart part{};     // which tokens the operands hold, where positions matter
  std::uint64_t seed = 0;  // initialise
  std::uint32_t roles = 0;
  const char* label = "";                   // a string literal; shown in traces and errors
  std::shared_ptr<const KernelBody> body;   // custom
  std::shared_ptr<const std::string> text;  // text_batch, picture_batch: the bytes

  bool operator==(const Kernel& o) const;  // same work: bodies and texts compare by address
  std::size_t hash() const;

  static Kernel gemm(std::int64_t m, std::int64_t n, std::int64_t k, Dtype,
                     bool transpose_a = false, bool transpose_b = false, bool accumulate = false,
                     const char* label = "gemm");
  // C = A B + b, the bias added while a tile is still in registers.
  static Kernel gemm_bias(std::int64_t m, std::int64_t n, std::int64_t k, Dtype,
                          const char* label = "gemm");
  static Kernel bias_activation(std::int64_t rows, std::int64_t cols, Activation, Dtype,
                                bool with_bias = true);
  static Kernel bias_activation_backward(std::int64_t rows, std::int64_t cols, Activation, Dtype,
                                         bool with_bias = true);
  static Kernel column_sum(std::int64_t rows, std::int64_t cols, Dtype);
  // Of a table whose first row is token `first`. Where it is a `part` of the vocabulary, tokens of
  // other parts get zeros, and have no gradient here.
  static Kernel embedding(std::int64_t rows, std::int64_t cols, std::int64_t vocabulary, Dtype,
                          std::int64_t first = 0, bool part = false);
  static Kernel embedding_backward(std::int64_t rows, std::int64_t cols, std::int64_t vocabulary,
                                   Dtype, std::int64_t first = 0, bool part = false);
  static Kernel cross_entropy(std::int64_t rows, std::int64_t vocabulary, double scale, Dtype);
  // The cross-entropy over a vocabulary of which this is the part from token `first` on: maxima and
  // sums are reduced over the parts in between. Maxima, sums and loss are fp32.
  static Kernel row_maximum(std::int64_t rows, std::int64_t cols, Dtype);
  static Kernel softmax_sums(std::int64_t rows, std::int64_t cols, std::int64_t first, Dtype);
  static Kernel softmax_gradient(std::int64_t rows, std::int64_t cols, std::int64_t first,
                                 double scale, Dtype);
  static Kernel linear_combination(std::int64_t elements, double a, double b, Dtype,
                                   bool with_scalars = false);
  static Kernel fill(std::int64_t elements, double value, Dtype);
  static Kernel cast(std::int64_t elements, Dtype from, Dtype to);
  static Kernel sum_squares(std::int64_t elements, Dtype,
                            double weight = 1);  // s += weight sum x^2
  static Kernel clip_scale(double max_norm);
  // p -= lr * (g' + weight_decay p), g' the momentum-averaged gradient; the step operand scales lr
  // (a schedule). The types are those of p, of g and of m and v, here and below.
  static Kernel sgd(std::int64_t elements, double lr, double momentum, bool nesterov,
                    double weight_decay, Dtype, Dtype gradient = Dtype::fp32,
                    Dtype moments = Dtype::fp32);
  // Loshchilov and Hutter 2019, decoupled decay; `step` holds {t, lr multiplier}, t counted from 1.
  static Kernel adamw(std::int64_t elements, double lr, double beta1, double beta2, double epsilon,
                      double weight_decay, Dtype, Dtype gradient = Dtype::fp32,
                      Dtype moments = Dtype::fp32);
  static Kernel initialise(std::int64_t elements, std::int64_t first_global_element,
                           double deviation, std::uint64_t seed, std::uint64_t tensor_number,
                           Dtype);
  // The same of `cols` columns of a matrix, of which the operand is a part that begins there with
  // element `first` of the whole: rows are `stride` elements apart in the operand and
  // `global_stride` in the whole.
  static Kernel initialise_columns(std::int64_t rows, std::int64_t cols, std::int64_t stride,
                                   std::int64_t first, std::int64_t global_stride, double deviation,
                                   std::uint64_t seed, std::uint64_t tensor_number, Dtype);
  // `cursor` holds {first sample}; sample s reads `context`+1 bytes at a position drawn from (seed,
  // s), or at byte s * stride when stride > 0. The next byte is the target: of the last token
  // (targets_per_sample 1: targets[samples]), or of each (`context`: targets[samples, context]).
  // Of a `part` of each sample: tokens and targets[samples, context / part.of].
  static Kernel text_batch(std::int64_t samples, std::int64_t context, std::uint64_t seed,
                           std::shared_ptr<const std::string> text,
                           std::int64_t targets_per_sample = 1, std::int64_t stride = 0,
                           SequencePart part = {});
  static Kernel norm(std::int64_t rows, std::int64_t cols, Norm, double epsilon, Dtype);
  static Kernel norm_backward(std::int64_t rows, std::int64_t cols, Norm, double epsilon,
                              bool with_skip, Dtype);
  // Su et al. 2021 (arXiv 2104.09864), in the layout of Llama: X[batch, sequence, heads_per_token,
  // head_size]; in the first `heads` heads of the token at position p, elements i and i +
  // head_size/2 turn by the angle p theta^(-2i/head_size); `inverse` turns back, which is the
  // gradient.
  static Kernel rotary(std::int64_t batch, std::int64_t sequence, std::int64_t heads,
                       std::int64_t heads_per_token, std::int64_t head_size, double theta, Dtype,
                       bool inverse = false, SequencePart part = {});
  static Kernel gated_activation(std::int64_t rows, std::int64_t cols, Activation, Dtype,
                                 bool with_bias = false);
  static Kernel gated_activation_backward(std::int64_t rows, std::int64_t cols, Activation, Dtype,
                                          bool with_bias = false);
  static Kernel residual_add(std::int64_t rows, std::int64_t cols, Dtype, bool with_bias = false,
                             Activation = Activation::none);
  static Kernel residual_add_backward(std::int64_t rows, std::int64_t cols, Activation, Dtype);
  // `sequence`: tokens of each sample on this rank, of which the operand's first row is number
  // `first_row`. The table has a row for every position of the whole sequence.
  static Kernel add_positions(std::int64_t rows, std::int64_t cols, std::int64_t sequence, Dtype,
                              std::int64_t first_row = 0, SequencePart part = {});
  static Kernel positions_backward(std::int64_t rows, std::int64_t cols, std::int64_t sequence,
                                   Dtype, std::int64_t first_row = 0, SequencePart part = {});
  // softmax(Q K^T / sqrt(head_size)) V, for Q and o[batch, sequence, heads, head_size], K and
  // V[batch, sequence, kv_heads, head_size]; query head h looks at head h / (heads / kv_heads).
  // With K and V left empty, q holds all three, token by token: [batch, sequence, heads + 2
  // kv_heads, head_size]; so does dq in the backward pass. `statistics`[batch, heads, sequence]
  // are the logarithms of the softmax's denominators, from which the backward pass computes the
  // probabilities again (Dao 2023, arXiv 2307.08691); in a 16-bit type each is two elements, whose
  // sum it is. Beside K and V, Q and dQ may still be packed with keys and values, which are not
  // touched.
  static Kernel attention(std::int64_t batch, std::int64_t heads, std::int64_t kv_heads,
                          std::int64_t sequence, std::int64_t head_size, AttentionPart, Dtype,
                          SequencePart part = {});
  static Kernel attention_backward(std::int64_t batch, std::int64_t heads, std::int64_t kv_heads,
                                   std::int64_t sequence, std::int64_t head_size, AttentionPart,
                                   Dtype, SequencePart part = {});
  static Kernel attention(std::int64_t batch, std::int64_t heads, std::int64_t kv_heads,
                          std::int64_t sequence, std::int64_t head_size, bool causal, Dtype dtype) {
    return attention(batch, heads, kv_heads, sequence, head_size,
                     causal ? AttentionPart::causal : AttentionPart::full, dtype);
  }
  static Kernel attention_backward(std::int64_t batch, std::int64_t heads, std::int64_t kv_heads,
                                   std::int64_t sequence, std::int64_t head_size, bool causal,
                                   Dtype dtype) {
    return attention_backward(batch, heads, kv_heads, sequence, head_size,
                              causal ? AttentionPart::causal : AttentionPart::full, dtype);
  }
  // o and statistics of a query over two disjoint sets of keys from those over each; late_queries:
  // of queries of the second half only (Liu et al. 2023, arXiv 2310.01889).
  static Kernel attention_merge(std::int64_t batch, std::int64_t heads, std::int64_t sequence,
                                std::int64_t head_size, AttentionPart, Dtype);
  // Y[j][i][0 .. inner) = X[i * stride_i + j * stride_j + (0 .. inner)], i < n_i, j < n_j;
  // `inverse`: X from Y.
  static Kernel permute(std::int64_t n_i, std::int64_t n_j, std::int64_t inner,
                        std::int64_t stride_i, std::int64_t stride_j, Dtype, bool inverse = false);
  // X[part.of, batch, length, width], the parts of sequences one rank after the other, to
  // Y[batch, part.of * length, width], each sequence in order; `inverse`: back.
  static Kernel reorder(std::int64_t batch, std::int64_t length, std::int64_t width, Dtype,
                        SequencePart part, bool inverse = false);
  // C[g] = op(A[g]) op(B[g]) (+ C[g]), g < groups, matrices one behind the other. In a timing model
  // scalars[grouped_load] may say how much more than the mean of all ranks the fullest has to do.
  static Kernel grouped_gemm(std::int64_t groups, std::int64_t m, std::int64_t n, std::int64_t k,
                             Dtype, bool transpose_a = false, bool transpose_b = false,
                             bool accumulate = false, const char* label = "grouped_gemm");
  // Mixture of experts (Shazeer et al. 2017, arXiv 1701.06538; capacities as Lepikhin et al. 2020,
  // GShard, arXiv 2006.16668). Each row of logits[rows, experts] chooses `chosen` experts, the
  // larger logit first, the lower number among equals. An expert has `capacity` places, which rows
  // take in order, those that chose it first before others; who comes later is dropped. weights
  // [rows, chosen] are fp32; choices[2, rows, chosen] are int32: experts, then places (expert *
  // capacity + …, or -1). With an fp32 bias[experts], those with the largest sigmoid(logit) + bias
  // are chosen (of Router::sigmoid); counts[experts], fp32, grow by the rows that chose each.
  static Kernel route(std::int64_t rows, std::int64_t experts, std::int64_t chosen,
                      std::int64_t capacity, Router, Dtype);
  static Kernel route_backward(std::int64_t rows, std::int64_t experts, std::int64_t chosen, Router,
                               Dtype);
  // Between X, Y[rows, width] and D, O[places, width].
  static Kernel dispatch(std::int64_t rows, std::int64_t width, std::int64_t chosen,
                         std::int64_t places, Dtype);
  static Kernel dispatch_backward(std::int64_t rows, std::int64_t width, std::int64_t chosen,
                                  std::int64_t places, double scale, Dtype);
  static Kernel combine(std::int64_t rows, std::int64_t width, std::int64_t chosen,
                        std::int64_t places, Dtype);
  static Kernel combine_backward(std::int64_t rows, std::int64_t width, std::int64_t chosen,
                                 std::int64_t places, double scale, Dtype);
  // Priced as the product of the windows and the weights, or of either and the gradient, which
  // reads and writes pictures instead of windows.
  static Kernel convolution(const ConvolutionShape&, Dtype);
  static Kernel convolution_input_gradient(const ConvolutionShape&, Dtype, bool accumulate = false);
  static Kernel convolution_weight_gradient(const ConvolutionShape&, Dtype);
  // gain (x - mean) / sqrt(variance + e) + bias, mean and variance being those of a column over all
  // rows (Ioffe and Szegedy 2015, arXiv 1502.03167); running[2, cols], means and variances, move by
  // `momentum` towards them, the variance as an unbiased estimate. `evaluates`: with the running
  // ones, which stay. Statistics are fp32.
  static Kernel batch_norm(std::int64_t rows, std::int64_t cols, double epsilon, double momentum,
                           Dtype, bool evaluates = false);
  static Kernel batch_norm_backward(std::int64_t rows, std::int64_t cols, double epsilon, Dtype);
  // The largest of windows of kernel x kernel, which lie as those of a convolution, without the
  // pixels beyond the edge.
  static Kernel max_pool(std::int64_t samples, std::int64_t size, std::int64_t channels,
                         std::int64_t kernel, std::int64_t stride, Dtype);
  static Kernel max_pool_backward(std::int64_t samples, std::int64_t size, std::int64_t channels,
                                  std::int64_t kernel, std::int64_t stride, Dtype);
  static Kernel average_pool(std::int64_t samples, std::int64_t size, std::int64_t channels, Dtype);
  static Kernel average_pool_backward(std::int64_t samples, std::int64_t size,
                                      std::int64_t channels, Dtype);
  // `pictures` are records of one byte, the label, and 3 size^2 bytes, the red, the green and the
  // blue values by rows (the binary version of CIFAR-10, Krizhevsky 2009). `cursor` holds {first
  // sample}; sample s is the record drawn for (seed, s), or record s where `in_order`. Values are
  // (byte - 128) / 64.
  static Kernel picture_batch(std::int64_t samples, std::int64_t size, std::uint64_t seed,
                              std::shared_ptr<const std::string> pictures, Dtype,
                              bool in_order = false);
  // C[m,n] = A[m,k] B[k,n] where A and B are gathered while they are read: `read` and `written`
  // are the elements moved. Priced as a gemm.
  static Kernel implicit_gemm(const char* label, std::int64_t m, std::int64_t n, std::int64_t k,
                              std::int64_t read, std::int64_t written, Dtype,
                              std::initializer_list<Role> roles);
  // `count` transforms of `points` real values to or from points/2 + 1 complex ones, 2.5 points
  // log2(points) FLOPs each (half of the 5 N log2 N of a complex one). A transform over several
  // dimensions has their product of points.
  static Kernel fft(const char* label, std::int64_t count, std::int64_t points, Dtype,
                    bool inverse = false);
  // `read` and `written`: elements of `dtype` moved.
  static Kernel streaming(const char* label, std::int64_t read, std::int64_t written, Dtype,
                          std::initializer_list<Role> roles);
  static Kernel host_copy(std::int64_t n, Dtype);
  static Kernel custom(const char* label, std::initializer_list<Role> roles, KernelBody body,
                       Flops flops = Flops(0), Bytes moved = Bytes(0),
                       Seconds duration = Seconds(0));
  static Kernel timed(const char* label, Seconds duration, std::initializer_list<Role> roles = {});
};

// What a kernel asks of a device. `matrix` counts multiply-adds of GEMMs and attention as two FLOPs
// (the FLOPs of MFU); attention counts the full s^2 even where a causal kernel skips half,
// `executed` the work it really does.
struct Cost {
  Flops matrix{0};
  Flops executed{0};
  Flops vector{0};
  Bytes read, written;
};
Cost cost(const Kernel&);
// m, n and k of the matrix product that a kernel is priced as; zeros for other kernels.
std::array<std::int64_t, 3> product_of(const Kernel&);
// Of a convolution or its gradients.
ConvolutionShape convolution_of(const Kernel&);

// The bodies of kernels, given to a world that computes values. Implemented by backend/cpu.
class KernelBodies {
 public:
  virtual ~KernelBodies() = default;
  // Runs `kernel` on host memory. Error{invalid_program} for a kernel that is a timing model only.
  virtual void run(const Kernel& kernel, std::span<const View> operands) const = 0;
};

}  // namespace orrery

template <>
struct std::hash<orrery::Kernel> {
  std::size_t operator()(const orrery::Kernel& kernel) const { return kernel.hash(); }
};
