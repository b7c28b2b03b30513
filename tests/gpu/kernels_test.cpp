// Every kernel of the GPU against the CPU's body, in each type, at sizes that fit no tile.
#include <array>

#include "tests/gpu/gpu_run.hpp"

namespace orrery {
namespace {

// Half a unit in the last place of a type, some of them: the sums on both sides are in fp32 or
// better, in orders of their own, and rounded once.
double rounding(Dtype dtype, double units = 2) {
  switch (dtype) {
    case Dtype::bf16:
      return units * 0x1p-9;
    case Dtype::fp16:
      return units * 0x1p-12;
    default:
      return units * 0x1p-21;  // of a sum over some thousand elements
  }
}

// Calls check(type, its error) for each type.
template <class Check>
void in_each_type(const Check& check) {
  if (!gpu_here()) return;
  for (const Dtype dtype : bulk_types) check(dtype);
}

constexpr std::int64_t rows = 37, cols = 131;

}  // namespace

TEST_CASE("GPU: products, with every transposition, accumulation and bias") {
  in_each_type([](Dtype t) {
    for (const auto [m, n, k] : {std::array<std::int64_t, 3>{64, 128, 96}, {33, 8, 200}, {1, 1, 1}})
      for (int bits = 0; bits < 8; ++bits)
        check_kernel(Kernel::gemm(m, n, k, t, (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0),
                     {{m * k, t}, {k * n, t}, {m * n, t}}, rounding(t, 4));
    check_kernel(Kernel::gemm_bias(40, 64, 72, t),
                 {{40 * 72, t}, {72 * 64, t}, {40 * 64, t}, {64, t}}, rounding(t, 4));
    check_kernel(Kernel::grouped_gemm(3, 16, 24, 32, t),
                 {{3 * 16 * 32, t}, {3 * 32 * 24, t}, {3 * 16 * 24, t}}, rounding(t, 4));
  });
}

TEST_CASE("GPU: activations, alone and gating, forward and backward") {
  in_each_type([](Dtype t) {
    for (const Activation a :
         {Activation::none, Activation::relu, Activation::gelu, Activation::silu})
      for (const bool bias : {false, true}) {
        const OperandCase x{rows * cols, t}, b{bias ? cols : 0, t}, wide{2 * rows * cols, t},
            wide_b{bias ? 2 * cols : 0, t};
        check_kernel(Kernel::bias_activation(rows, cols, a, t, bias), {x, b, x}, rounding(t));
        check_kernel(Kernel::bias_activation_backward(rows, cols, a, t, bias), {x, x, b, x},
                     rounding(t));
        check_kernel(Kernel::gated_activation(rows, cols, a, t, bias), {wide, wide_b, x},
                     rounding(t));
        check_kernel(Kernel::gated_activation_backward(rows, cols, a, t, bias),
                     {x, wide, wide_b, wide}, rounding(t));
      }
  });
}

TEST_CASE("GPU: norms, forward and backward, with gradients of gain and bias in fp32") {
  in_each_type([](Dtype t) {
    for (const Norm kind : {Norm::rms, Norm::layer})
      for (const bool skip : {false, true}) {
        const bool bias = kind == Norm::layer;
        const OperandCase x{rows * cols, t}, gain{cols, t}, b{bias ? cols : 0, t};
        check_kernel(Kernel::norm(rows, cols, kind, 1e-5, t), {x, gain, b, x}, rounding(t));
        check_kernel(Kernel::norm_backward(rows, cols, kind, 1e-5, skip, t),
                     {x,
                      x,
                      gain,
                      {skip ? rows * cols : 0, t},
                      {cols, Dtype::fp32},
                      {bias ? cols : 0, Dtype::fp32},
                      x},
                     rounding(t, 4));
      }
  });
}

TEST_CASE("GPU: cross-entropy, its gradient and its loss") {
  in_each_type([](Dtype t) {
    OperandCase targets{rows, Dtype::int32};
    targets.below = 1001;
    check_kernel(Kernel::cross_entropy(rows, 1001, 1.0 / rows, t),
                 {{rows * 1001, t}, targets, {1, Dtype::fp32}}, rounding(t, 4));
  });
}

TEST_CASE("GPU: tokens, positions and initial values") {
  in_each_type([](Dtype t) {
    OperandCase tokens{rows, Dtype::int32};
    tokens.below = 11;
    check_kernel(Kernel::embedding(rows, cols, 11, t), {tokens, {11 * cols, t}, {rows * cols, t}},
                 0);
    tokens.below = 22;
    check_kernel(Kernel::embedding(rows, cols, 11, t, 5, true),
                 {tokens, {11 * cols, t}, {rows * cols, t}}, 0);
    check_kernel(Kernel::embedding_backward(rows, cols, 11, t, 5, true),
                 {tokens, {rows * cols, t}, {11 * cols, Dtype::fp32}}, rounding(t));
    for (const bool inverse : {false, true})
      check_kernel(Kernel::rotary(2, 9, 3, 5, 16, 10000, t, inverse, {1, 2, false}),
                   {{2 * 9 * 5 * 16, t}}, rounding(t));
    check_kernel(Kernel::add_positions(18, 20, 9, t), {{9 * 20, t}, {18 * 20, t}}, rounding(t));
    check_kernel(Kernel::positions_backward(18, 20, 9, t), {{18 * 20, t}, {9 * 20, Dtype::fp32}},
                 rounding(t));
    check_kernel(Kernel::permute(3, 4, 5, 20, 5, t), {{60, t}, {60, t}}, 0);
    check_kernel(Kernel::initialise(4099, 17, 0.02, 7, 3, t), {{4099, t}}, rounding(t));
  });
}

TEST_CASE("GPU: sums, combinations, fills and casts") {
  in_each_type([](Dtype t) {
    const OperandCase x{100'003, t}, s{1, Dtype::fp32, 1, 0, {3}};
    check_kernel(Kernel::column_sum(rows, cols, t), {{rows * cols, t}, {cols, Dtype::fp32}},
                 rounding(t));
    check_kernel(Kernel::sum_squares(100'003, t), {x, s}, rounding(Dtype::fp32));
    check_kernel(Kernel::clip_scale(1), {s, {1, Dtype::fp32}}, rounding(Dtype::fp32));
    check_kernel(Kernel::linear_combination(100'003, 0.5, 2, t), {x, x}, rounding(t));
    check_kernel(Kernel::linear_combination(100'003, 1, 0, t, true),
                 {x, x, {1, Dtype::fp32, 1, 0, {0.25}}, {1, Dtype::fp32, 1, 0, {0}}}, rounding(t));
    check_kernel(Kernel::fill(100'003, 0.1, t), {x}, 0);
    check_kernel(Kernel::residual_add(rows, cols, t, true),
                 {{rows * cols, t}, {rows * cols, t}, {cols, t}, {rows * cols, t}}, rounding(t));
    for (const Dtype to : bulk_types)
      check_kernel(Kernel::cast(4099, t, to), {{4099, t}, {4099, to}}, 0);
  });
}

TEST_CASE("GPU: optimizer steps, with and without momentum, masters and a scale") {
  in_each_type([](Dtype t) {
    const std::int64_t n = 10'007;
    for (const bool all : {false, true}) {
      const OperandCase p{n, t}, g{n, t}, m{n, Dtype::fp32}, master{all ? n : 0, Dtype::fp32};
      OperandCase v = m;
      v.below = 3;
      const OperandCase scale{all ? 1 : 0, Dtype::fp32, 1, 0, {0.5}},
          step{2, Dtype::fp64, 1, 0, {3, 0.7}};
      check_kernel(Kernel::adamw(n, 1e-2, 0.9, 0.95, 1e-8, 0.1, t, t),
                   {p, g, m, v, master, scale, step}, rounding(t, 4));
      check_kernel(Kernel::sgd(n, 1e-2, 0.9, all, 0.1, t, t),
                   {p, g, {all ? n : 0, Dtype::fp32}, master, scale, step}, rounding(t, 4));
    }
  });
}

// Rows of 512 elements are taken 16 bytes at a time, rows of 10,240 are more than what the threads
// of a block keep, and 2,000 rows more than what blocks that run at once take.
TEST_CASE("GPU: rows that are moved in packs, as many and as long as have several stages") {
  in_each_type([](Dtype t) {
    for (const auto [n, m] :
         {std::array<std::int64_t, 2>{64, 512}, {3, 10'240}, {5, 2'501}, {2'000, 64}}) {
      const OperandCase x{n * m, t}, gain{m, t}, wide_gain{m, Dtype::fp32}, sum{m, Dtype::fp32},
          wide{2 * n * m, t};
      check_kernel(Kernel::norm(n, m, Norm::rms, 1e-5, t), {x, gain, {}, x}, rounding(t));
      check_kernel(Kernel::norm(n, m, Norm::layer, 1e-5, t), {x, wide_gain, wide_gain, x},
                   rounding(t));
      check_kernel(Kernel::norm_backward(n, m, Norm::rms, 1e-5, true, t),
                   {x, x, gain, x, sum, {}, x}, rounding(t, 4));
      check_kernel(Kernel::norm_backward(n, m, Norm::layer, 1e-5, false, t),
                   {x, x, gain, {}, sum, sum, x}, rounding(t, 4));
      check_kernel(Kernel::column_sum(n, m, t), {x, sum}, rounding(t, 4));
      for (const bool bias : {false, true}) {
        const OperandCase b{bias ? m : 0, t}, wide_b{bias ? 2 * m : 0, t};
        // Of so many elements some lie so close to the middle of two numbers that both sides round
        // to different ones, which are 2^-7 apart in bf16, and 2^-10 in fp16: a whole unit.
        check_kernel(Kernel::bias_activation(n, m, Activation::gelu, t, bias), {x, b, x},
                     rounding(t, 4));
        check_kernel(Kernel::gated_activation_backward(n, m, Activation::silu, t, bias),
                     {x, wide, wide_b, wide}, rounding(t));
        check_kernel(Kernel::gated_activation(n, m, Activation::silu, t, bias), {wide, wide_b, x},
                     rounding(t));
      }
    }
    check_kernel(Kernel::residual_add(8, 512, t, false, Activation::relu),
                 {{4096, t}, {4096, t}, {}, {4096, t}}, rounding(t));
  });
}

// Of 1,001 columns a block keeps all, of 150,000 it reads some again.
TEST_CASE("GPU: cross-entropy over a large vocabulary, in packs and singly") {
  in_each_type([](Dtype t) {
    for (const std::int64_t vocabulary : {256, 150'000, 120'001}) {
      OperandCase targets{3, Dtype::int32};
      targets.below = vocabulary;
      const OperandCase logits{3 * vocabulary, t, 4};
      check_kernel(Kernel::cross_entropy(3, vocabulary, 1.0 / 3, t),
                   {logits, targets, {1, Dtype::fp32}}, rounding(t, 4));
    }
  });
}

// Some tokens are so frequent that several blocks add their rows up, others occur once.
TEST_CASE("GPU: gradients of tables whose tokens occur from once to hundreds of times") {
  in_each_type([](Dtype t) {
    for (const std::int64_t of : {3, 40, 5'000}) {
      OperandCase tokens{1'000, Dtype::int32};
      tokens.below = of;
      check_kernel(Kernel::embedding_backward(1'000, 64, of, t),
                   {tokens, {64'000, t}, {of * 64, Dtype::fp32}}, rounding(t, 4));
      check_kernel(Kernel::embedding_backward(1'000, 64, of / 2 + 1, t, of / 3, true),
                   {tokens, {64'000, t}, {(of / 2 + 1) * 64, t}}, rounding(t, 8));
      check_kernel(Kernel::embedding(1'000, 64, of, t), {tokens, {of * 64, t}, {64'000, t}}, 0);
    }
    check_kernel(Kernel::rotary(2, 40, 6, 8, 64, 500'000, t, false, {1, 4, true}),
                 {{2 * 40 * 8 * 64, t}}, rounding(t));
    check_kernel(Kernel::permute(3, 4, 16, 16, 64, t, true), {{256, t}, {192, t}}, 0);
    check_kernel(Kernel::add_positions(64, 128, 16, t), {{16 * 128, t}, {64 * 128, t}},
                 rounding(t));
    check_kernel(Kernel::positions_backward(64, 128, 16, t),
                 {{64 * 128, t}, {16 * 128, Dtype::fp32}}, rounding(t, 4));
  });
}

// Operands that begin at one element of aligned storages are moved in packs but for their ends;
// those that begin at different ones, singly.
TEST_CASE("GPU: slices of flat buffers that begin anywhere") {
  in_each_type([](Dtype t) {
    const std::int64_t n = 5'003;
    for (const auto [first, second] :
         {std::array<std::int64_t, 2>{3, 3}, {8, 8}, {1, 2}, {0, 7}, {4, 8}}) {
      OperandCase x{n, t}, y{n, t}, state{n, Dtype::fp32}, variance{n, Dtype::fp32}, tiny{5, t};
      x.from = variance.from = tiny.from = first;
      y.from = state.from = second;
      variance.below = 3;
      check_kernel(Kernel::linear_combination(n, 0.5, 2, t), {x, y}, rounding(t));
      check_kernel(Kernel::linear_combination(n, 0.5, 2, t), {y, state}, rounding(t));
      check_kernel(Kernel::cast(n, t, Dtype::fp32), {x, state}, 0);
      check_kernel(Kernel::fill(n, 0.3, t), {x}, 0);
      check_kernel(Kernel::fill(5, 0.3, t), {tiny}, 0);
      check_kernel(Kernel::sum_squares(n, t), {x, {1, Dtype::fp32, 1, 0, {3}}},
                   rounding(Dtype::fp32));
      check_kernel(Kernel::sum_squares(5, t), {tiny, {1, Dtype::fp32, 1, 0, {3}}},
                   rounding(Dtype::fp32));
      check_kernel(Kernel::residual_add(1, n, t), {x, y, {}, x}, rounding(t));
      check_kernel(Kernel::adamw(n, 1e-2, 0.9, 0.95, 1e-8, 0.1, t, t),
                   {x, y, state, variance, state, {}, {2, Dtype::fp64, 1, 0, {3, 0.7}}},
                   rounding(t, 4));
    }
    OperandCase row{8 * 64, t}, gain{64, t}, sum{64, Dtype::fp32};
    row.from = gain.from = sum.from = 5;
    check_kernel(Kernel::norm(8, 64, Norm::rms, 1e-5, t), {row, gain, {}, row}, rounding(t));
    check_kernel(Kernel::norm_backward(8, 64, Norm::rms, 1e-5, false, t),
                 {row, row, gain, {}, sum, {}, row}, rounding(t, 4));
  });
}

// Of sizes that are no multiple of 8, which our kernel computes in each type; cuDNN has none.
TEST_CASE("GPU: attention, forward and backward, for every part of keys and queries") {
  in_each_type([](Dtype t) {
    const std::int64_t batch = 2, heads = 4, kv = 2, sequence = 70,
                       statistic = t == Dtype::fp32 ? 1 : 2;
    for (const std::int64_t size : {12, 68, 132, 252})
      for (const AttentionPart which : {AttentionPart::full, AttentionPart::causal,
                                        AttentionPart::early_keys, AttentionPart::late_queries}) {
        const std::int64_t q = batch * sequence * heads * size, k = batch * sequence * kv * size;
        const OperandCase statistics{batch * heads * sequence * statistic, t};
        check_kernel(Kernel::attention(batch, heads, kv, sequence, size, which, t),
                     {{q, t}, {k, t}, {k, t}, {q, t}, statistics}, rounding(t, 8));
        check_kernel(Kernel::attention(batch, heads, kv, sequence, size, which, t),
                     {{q + 2 * k, t}, {}, {}, {q, t}, statistics}, rounding(t, 8));
        // Statistics of its own inputs would need the forward pass: with large ones every
        // probability is small, and the formulas are compared all the same.
        const OperandCase large{batch * heads * sequence * statistic, t, 0.1, 0,
                                std::vector<double>(static_cast<std::size_t>(statistics.elements),
                                                    8.0 / static_cast<double>(statistic))};
        check_kernel(Kernel::attention_backward(batch, heads, kv, sequence, size, which, t),
                     {{q, t}, {q, t}, {k, t}, {k, t}, {q, t}, large, {q, t}, {k, t}, {k, t}},
                     rounding(t, 16));
      }
  });
}

TEST_CASE("GPU: a kernel that has none of its own runs on the host, in the order of its stream") {
  in_each_type([](Dtype t) {
    check_kernel(Kernel::reorder(2, 6, 10, t, {0, 2, true}), {{2 * 2 * 6 * 10, t}, {240, t}}, 0);
  });
}

}  // namespace orrery
