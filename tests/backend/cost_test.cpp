// What kernels ask of a device, against closed forms.
#include <doctest/doctest.h>

#include <set>

#include "backend/kernel.hpp"
#include "backend/prepared.hpp"
#include "tests/support/errors.hpp"

using namespace orrery;

TEST_CASE("a GEMM does 2mnk FLOPs and moves each matrix once; accumulating reads the result too") {
  for (const std::int64_t m : {1, 7, 4096})
    for (const std::int64_t n : {1, 128})
      for (const std::int64_t k : {1, 1000}) {
        const Cost c = cost(Kernel::gemm(m, n, k, Dtype::bf16));
        CHECK(c.matrix.value == 2.0 * static_cast<double>(m * n * k));
        CHECK(c.executed == c.matrix);
        CHECK(c.read == Bytes(2 * (m * k + k * n)));
        CHECK(c.written == Bytes(2 * m * n));
        const Cost accumulating = cost(Kernel::gemm(m, n, k, Dtype::bf16, true, false, true));
        CHECK(accumulating.read == Bytes(2 * (m * k + k * n + m * n)));
        CHECK(accumulating.matrix == c.matrix);
      }
}

TEST_CASE("a GEMM beyond 2^53 FLOPs keeps its size") {
  CHECK(cost(Kernel::gemm(1'000'000, 1'000'000, 100'000, Dtype::bf16)).matrix.value == 2e17);
}

TEST_CASE("attention counts the full square for MFU, and half of it as work when causal") {
  const std::int64_t b = 2, heads = 8, kv = 2, s = 1024, h = 64;
  const double square = 4.0 * 2 * 8 * 1024 * 1024 * 64;
  const Cost full = cost(Kernel::attention(b, heads, kv, s, h, false, Dtype::bf16));
  const Cost causal = cost(Kernel::attention(b, heads, kv, s, h, true, Dtype::bf16));
  CHECK(full.matrix.value == square);
  CHECK(full.executed.value == square);
  CHECK(causal.matrix.value == square);
  CHECK(causal.executed.value == square / 2);
  const std::int64_t q = b * heads * s * h, one_kv = b * kv * s * h, statistics = 4 * b * heads * s;
  CHECK(full.read == Bytes(2 * (q + 2 * one_kv)));
  CHECK(full.written == Bytes(2 * q + statistics));
}

TEST_CASE("the backward of attention counts twice the forward and does two and a half") {
  const Cost forward = cost(Kernel::attention(2, 8, 8, 512, 128, true, Dtype::bf16));
  const Cost backward = cost(Kernel::attention_backward(2, 8, 8, 512, 128, true, Dtype::bf16));
  CHECK(backward.matrix.value == 2 * forward.matrix.value);
  CHECK(backward.executed.value == 2.5 * forward.executed.value);
  const std::int64_t q = 2 * 8 * 512 * 128, statistics = 4 * 2 * 8 * 512;
  CHECK(backward.read == Bytes(2 * 5 * q + statistics));  // dO, Q, K, V, O
  CHECK(backward.written == Bytes(2 * 3 * q));            // dQ, dK, dV
}

TEST_CASE("element-wise kernels move what they read and write") {
  const Cost activation = cost(Kernel::bias_activation(10, 20, Activation::gelu, Dtype::bf16));
  CHECK(activation.read == Bytes(2 * (200 + 20)));
  CHECK(activation.written == Bytes(2 * 200));
  const Cost backward =
      cost(Kernel::bias_activation_backward(10, 20, Activation::gelu, Dtype::bf16));
  CHECK(backward.read == Bytes(2 * (400 + 20)));
  CHECK(backward.written == Bytes(2 * 200));
  const Cost sum = cost(Kernel::column_sum(10, 20, Dtype::fp32));
  CHECK(sum.read == Bytes(4 * 220));
  CHECK(sum.written == Bytes(4 * 20));
  const Cost combination = cost(Kernel::linear_combination(100, 1, 2, Dtype::fp32));
  CHECK(combination.read == Bytes(800));
  CHECK(combination.written == Bytes(400));
  const Cost cast = cost(Kernel::cast(100, Dtype::fp32, Dtype::bf16));
  CHECK(cast.read == Bytes(400));
  CHECK(cast.written == Bytes(200));
  const Cost fill = cost(Kernel::fill(100, 0, Dtype::fp32));
  CHECK(fill.read == Bytes(0));
  CHECK(fill.written == Bytes(400));
  const Cost streaming = cost(Kernel::streaming("norm", 300, 200, Dtype::bf16, {Role::read}));
  CHECK(streaming.read == Bytes(600));
  CHECK(streaming.written == Bytes(400));
}

TEST_CASE("what a transformer does between its products moves each activation once") {
  constexpr std::int64_t rows = 40, cols = 30, all = rows * cols;
  const auto moves = [](const Kernel& kernel, std::int64_t read, std::int64_t written) {
    const Cost c = cost(kernel);
    CAPTURE(name(kernel.op));
    CHECK(c.read == Bytes(2 * read));
    CHECK(c.written == Bytes(2 * written));
    CHECK(c.matrix.value == 0);
    CHECK(c.vector.value > 0);
    CHECK(is_elementwise(kernel.op));
  };
  const Dtype t = Dtype::bf16;
  for (const Norm kind : {Norm::rms, Norm::layer}) {
    moves(Kernel::norm(rows, cols, kind, 1e-5, t), all, all);
    moves(Kernel::norm_backward(rows, cols, kind, 1e-5, false, t), 2 * all, all);
    moves(Kernel::norm_backward(rows, cols, kind, 1e-5, true, t), 3 * all, all);
  }
  moves(Kernel::bias_activation(rows, cols, Activation::gelu, t), all + cols, all);
  moves(Kernel::bias_activation(rows, cols, Activation::gelu, t, false), all, all);
  moves(Kernel::bias_activation_backward(rows, cols, Activation::gelu, t, false), 2 * all, all);
  moves(Kernel::gated_activation(rows, cols, Activation::silu, t), 2 * all, all);
  moves(Kernel::gated_activation(rows, cols, Activation::silu, t, true), 2 * (all + cols), all);
  moves(Kernel::gated_activation_backward(rows, cols, Activation::silu, t), 3 * all, 2 * all);
  moves(Kernel::residual_add(rows, cols, t), 2 * all, all);
  moves(Kernel::residual_add(rows, cols, t, true), 2 * all + cols, all);
  moves(Kernel::rotary(2, 20, 3, 5, 8, 1e4, t), 2 * 20 * 3 * 8, 2 * 20 * 3 * 8);
  moves(Kernel::add_positions(rows, cols, 20, t), 2 * all, all);
  moves(Kernel::positions_backward(rows, cols, 20, t), 2 * all, all);
  CHECK(cost(Kernel::gemm_bias(3, 5, 7, t)).read == Bytes(2 * (3 * 7 + 7 * 5 + 5)));
  CHECK(cost(Kernel::text_batch(4, 10, 1, nullptr)).written == Bytes(4 * (40 + 4)));
  CHECK(cost(Kernel::text_batch(4, 10, 1, nullptr, 10)).written == Bytes(4 * 80));
}

TEST_CASE("a convolution is priced by its product and what it reads; a real FFT is 2.5 N log2 N") {
  const Cost c =
      cost(Kernel::implicit_gemm("conv", 100, 64, 576, 9000, 6400, Dtype::bf16, {Role::read}));
  CHECK(c.matrix.value == 2.0 * 100 * 64 * 576);
  CHECK(c.executed == c.matrix);
  CHECK(c.read == Bytes(18000));
  CHECK(c.written == Bytes(12800));
  const Cost forward = cost(Kernel::fft("fft", 32, 4096, Dtype::fp32));
  const Cost inverse = cost(Kernel::fft("fft", 32, 4096, Dtype::fp32, true));
  CHECK(forward.vector.value + inverse.vector.value == 7'864'320);
  CHECK(forward.read == Bytes(4 * 32 * 4096));
  CHECK(forward.written == Bytes(4 * 32 * 2 * 2049));
  CHECK(inverse.read == forward.written);
  CHECK(inverse.written == forward.read);
}

TEST_CASE("a convolution and its gradients are priced as products that move pictures") {
  const ConvolutionShape s{8, 14, 32, 64, 3, 2};  // to pictures of 7 x 7
  const std::int64_t x = 8 * 14 * 14 * 32, y = 8 * 7 * 7 * 64, w = 9 * 32 * 64;
  const auto moves = [&](const Kernel& kernel, std::int64_t read, std::int64_t written) {
    const Cost c = cost(kernel);
    CAPTURE(kernel.label);
    CHECK(c.matrix.value == 2.0 * 8 * 7 * 7 * 64 * 9 * 32);
    CHECK(c.executed == c.matrix);
    CHECK(c.read == Bytes(2 * read));
    CHECK(c.written == Bytes(2 * written));
  };
  moves(Kernel::convolution(s, Dtype::bf16), x + w, y);
  moves(Kernel::convolution_input_gradient(s, Dtype::bf16), y + w, x);
  moves(Kernel::convolution_input_gradient(s, Dtype::bf16, true), y + w + x, x);
  moves(Kernel::convolution_weight_gradient(s, Dtype::bf16), x + y + w, w);
  CHECK(product_of(Kernel::convolution(s, Dtype::bf16)) ==
        std::array<std::int64_t, 3>{8 * 49, 64, 9 * 32});
  CHECK(product_of(Kernel::norm(4, 4, Norm::rms, 1e-5, Dtype::bf16))[0] == 0);
}

TEST_CASE("batch norms read twice forward and four times backward; pools read what they see") {
  const Dtype t = Dtype::bf16;
  const auto moves = [](const Kernel& kernel, std::int64_t read, std::int64_t written) {
    CAPTURE(kernel.label);
    CHECK(cost(kernel).read == Bytes(2 * read));
    CHECK(cost(kernel).written == Bytes(2 * written));
    CHECK(cost(kernel).matrix.value == 0);
  };
  moves(Kernel::batch_norm(100, 8, 1e-5, 0.1, t), 1600, 800);
  moves(Kernel::batch_norm_backward(100, 8, 1e-5, t), 3200, 800);
  moves(Kernel::residual_add_backward(100, 8, Activation::relu, t), 2400, 800);
  moves(Kernel::max_pool(2, 8, 3, 3, 2, t), 2 * 64 * 3, 2 * 16 * 3);
  moves(Kernel::max_pool_backward(2, 8, 3, 2, 2, t), 2 * (64 + 16) * 3, 2 * 64 * 3);
  moves(Kernel::average_pool(2, 8, 3, t), 2 * 64 * 3, 2 * 3);
  moves(Kernel::average_pool_backward(2, 8, 3, t), 2 * 3, 2 * 64 * 3);
  moves(Kernel::picture_batch(2, 8, 1, nullptr, t), 0, 2 * 64 * 3);
}

TEST_CASE("only GEMMs and attention have matrix FLOPs") {
  for (const Kernel& kernel :
       {Kernel::bias_activation(4, 4, Activation::relu, Dtype::fp32),
        Kernel::cross_entropy(4, 4, 1, Dtype::fp32), Kernel::embedding(4, 4, 4, Dtype::fp32),
        Kernel::sgd(4, 1, 0, false, 0, Dtype::fp32), Kernel::sum_squares(4, Dtype::fp32),
        Kernel::timed("t", Seconds(1)), Kernel::custom("c", {}, {}, Flops(9), Bytes(7))}) {
    CHECK(cost(kernel).matrix.value == 0);
    CHECK(cost(kernel).executed.value == 0);
  }
  CHECK(cost(Kernel::custom("c", {}, {}, Flops(9), Bytes(7))).vector.value == 9);
  CHECK(cost(Kernel::custom("c", {}, {}, Flops(9), Bytes(7))).read == Bytes(7));
}

TEST_CASE(
    "AdamW moves 28 bytes an element in fp32, and with a master in bf16 by the gradient's type") {
  const std::int64_t n = 1000;
  const Cost fp32 = cost(Kernel::adamw(n, 1e-3, 0.9, 0.95, 1e-8, 0.1, Dtype::fp32));
  CHECK(fp32.read == Bytes(n * (4 + 4 + 4 + 4)));  // p, g, m, v
  CHECK(fp32.written == Bytes(n * (4 + 4 + 4)));   // p, m, v
  const Cost wide = cost(Kernel::adamw(n, 1e-3, 0.9, 0.95, 1e-8, 0.1, Dtype::bf16));
  CHECK(wide.read == Bytes(n * (4 + 4 + 4 + 4)));     // g, master, m, v
  CHECK(wide.written == Bytes(n * (2 + 4 + 4 + 4)));  // p, master, m, v
  const Cost bf16 = cost(Kernel::adamw(n, 1e-3, 0.9, 0.95, 1e-8, 0.1, Dtype::bf16, Dtype::bf16));
  CHECK(bf16.read == Bytes(n * (2 + 4 + 4 + 4)));     // g, master, m, v
  CHECK(bf16.written == Bytes(n * (2 + 4 + 4 + 4)));  // p, master, m, v
  const Cost thin =
      cost(Kernel::adamw(n, 1e-3, 0.9, 0.95, 1e-8, 0.1, Dtype::fp32, Dtype::fp32, Dtype::bf16));
  CHECK(thin.read == Bytes(n * (4 + 4 + 2 + 2)));  // p, g, m, v
  CHECK(thin.written == Bytes(n * (4 + 2 + 2)));   // p, m, v
}

TEST_CASE("products of operands below 16 bits have results of 16, of fp4 two operands to a byte") {
  for (const auto& [type, read] :
       {std::pair{Dtype::fp8, 64 * 32 + 32 * 16}, {Dtype::fp4, (64 * 32 + 32 * 16) / 2}}) {
    const Cost plain = cost(Kernel::gemm(64, 16, 32, type));
    CHECK(plain.read == Bytes(read));
    CHECK(plain.written == Bytes(2 * 64 * 16));
    CHECK(cost(Kernel::gemm(64, 16, 32, type, false, false, true)).read ==
          Bytes(read + 2 * 64 * 16));
    CHECK(plain.matrix == Flops(2.0 * 64 * 16 * 32));
  }
}

TEST_CASE("SGD reads and writes a momentum only when it has one") {
  const Cost plain = cost(Kernel::sgd(100, 0.1, 0, false, 0, Dtype::fp32));
  CHECK(plain.read == Bytes(800));
  CHECK(plain.written == Bytes(400));
  const Cost momentum = cost(Kernel::sgd(100, 0.1, 0.9, false, 0, Dtype::fp32));
  CHECK(momentum.read == Bytes(1200));
  CHECK(momentum.written == Bytes(800));
  const Cost thin =
      cost(Kernel::sgd(100, 0.1, 0.9, false, 0, Dtype::fp32, Dtype::fp32, Dtype::bf16));
  CHECK(thin.read == Bytes(1000));
  CHECK(thin.written == Bytes(600));
}

TEST_CASE("kernels of the same work compare equal and are prepared once; any other differs") {
  int priced = 0;
  Catalogue catalogue([&](PreparedKernel& k) {
    ++priced;
    k.duration = Time(10);
  });
  const Prepared a = catalogue.prepare(Kernel::gemm(2, 3, 4, Dtype::bf16));
  CHECK(catalogue.prepare(Kernel::gemm(2, 3, 4, Dtype::bf16)).kernel == a.kernel);
  std::set<const PreparedKernel*> all{a.kernel};
  for (const Kernel& other :
       {Kernel::gemm(3, 2, 4, Dtype::bf16), Kernel::gemm(2, 3, 4, Dtype::fp32),
        Kernel::gemm(2, 3, 4, Dtype::bf16, true), Kernel::gemm(2, 3, 4, Dtype::bf16, false, true),
        Kernel::gemm(2, 3, 4, Dtype::bf16, false, false, true),
        Kernel::gemm(2, 3, 4, Dtype::bf16, false, false, false, "head"),
        Kernel::fill(2, 1, Dtype::bf16), Kernel::fill(2, 2, Dtype::bf16),
        Kernel::sgd(2, 1, 0, false, 0, Dtype::fp32), Kernel::sgd(2, 1, 0, true, 0, Dtype::fp32)})
    CHECK(all.insert(catalogue.prepare(other).kernel).second);
  CHECK(priced == 11);
}

TEST_CASE("a sequence costs and lasts the sum of its kernels, and unites the roles of its slots") {
  Catalogue catalogue(
      [](PreparedKernel& k) { k.duration = Time(k.kernel.op == Op::gemm ? 10 : 3); });
  int built = 0;
  const auto build = [&](Sequence& s) {
    ++built;
    const int x = s.slot("x"), w = s.slot("w"), y = s.slot("y"), unused = s.slot("unused");
    const Prepared gemm = catalogue.prepare(Kernel::gemm(2, 3, 4, Dtype::fp32));
    const Prepared scale = catalogue.prepare(Kernel::linear_combination(6, 1, 1, Dtype::fp32));
    s.add(gemm, {{x, 0, 8}, {w, 0, 12}, {y, 0, 6}});
    s.add(scale, {{x, 0, 6}, {y, 0, 6}});
    s.add(scale, {{}, {y, 0, 6}});
    CHECK(unused == 3);
  };
  const Sequence& s = catalogue.sequence("block", build);
  CHECK(&catalogue.sequence("block", build) == &s);
  CHECK(built == 1);
  CHECK(s.duration() == Time(16));
  CHECK(s.cost().matrix.value == 48);
  CHECK(s.cost().written == Bytes(4 * (6 + 6 + 6)));
  CHECK(role_of(s.roles(), 0) == Role::read);
  CHECK(role_of(s.roles(), 1) == Role::read);
  CHECK(role_of(s.roles(), 2) == Role::update);
  CHECK(role_of(s.roles(), 3) == Role::none);
}

TEST_CASE("every operation has a name of its own") {
  std::set<std::string> names;
  for (int op = 0; op <= static_cast<int>(Op::timed); ++op)
    CHECK(names.insert(name(static_cast<Op>(op))).second);
}

TEST_CASE("a kernel whose pricing fails is as if nobody had prepared it") {
  int calls = 0;
  Catalogue catalogue([&](PreparedKernel& k) {
    if (++calls == 1) throw Error(Category::unavailable, "no algorithm");
    k.duration = Time(7);
  });
  const Kernel kernel = Kernel::fill(8, 0, Dtype::fp32);
  CHECK(error_of([&] { catalogue.prepare(kernel); }).message() == "no algorithm");
  const Prepared again = catalogue.prepare(kernel);
  REQUIRE(again.kernel != nullptr);
  CHECK(again.kernel->duration == Time(7));
  CHECK(again.kernel->id == 0);
  CHECK(calls == 2);
}

TEST_CASE("counts of elements that are too many to multiply are counted all the same") {
  const std::int64_t many = std::int64_t{1} << 40;
  const Cost c =
      cost(Kernel::streaming("copy", many, many, Dtype::bf16, {Role::read, Role::write}));
  CHECK(c.read == Bytes(2 * many));
  CHECK(c.written == Bytes(2 * many));
}
