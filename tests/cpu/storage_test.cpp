// Kernels on 16-bit storage, and the promise that bits do not depend on where a buffer lies.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "backend/core/philox.hpp"
#include "backend/cpu/bodies.hpp"

using namespace orrery;

namespace {

// An operand of a case: how many elements, of what kind.
struct OperandSpec {
  std::int64_t elements;
  enum { numbers, positive, tokens, small } what = numbers;
};

struct Case {
  const char* name;
  Kernel (*kernel)(Dtype);
  std::vector<OperandSpec> operands;
  double tolerance;  // of 16-bit storage, relative to the largest magnitude
};

std::vector<Case> cases() {
  return {
      {"gemm",
       [](Dtype d) { return Kernel::gemm(33, 29, 47, d); },
       {{33 * 47}, {47 * 29}, {33 * 29}},
       0.01},
      {"gemm, small",
       [](Dtype d) { return Kernel::gemm(3, 5, 4, d, true, true, true); },
       {{12}, {20}, {15}},
       0.01},
      {"gemm, one row",
       [](Dtype d) { return Kernel::gemm(1, 77, 51, d); },
       {{51}, {51 * 77}, {77}},
       0.01},
      {"gemm, one column",
       [](Dtype d) { return Kernel::gemm(77, 1, 51, d, true, false, true); },
       {{51 * 77}, {51}, {77}},
       0.01},
      {"gelu",
       [](Dtype d) { return Kernel::bias_activation(7, 53, Activation::gelu, d); },
       {{371}, {53}, {371}},
       0.01},
      {"gelu backward",
       [](Dtype d) { return Kernel::bias_activation_backward(7, 53, Activation::gelu, d); },
       {{371}, {371}, {53}, {371}},
       0.01},
      {"relu backward",
       [](Dtype d) { return Kernel::bias_activation_backward(7, 53, Activation::relu, d); },
       {{371}, {371}, {53}, {371}},
       0.01},
      {"column_sum",
       [](Dtype d) { return Kernel::column_sum(13, 201, d); },
       {{13 * 201}, {201}},
       0.02},
      {"embedding",
       [](Dtype d) { return Kernel::embedding(9, 31, 8, d); },
       {{9, OperandSpec::tokens}, {8 * 31}, {9 * 31}},
       0.01},
      {"embedding_backward",
       [](Dtype d) { return Kernel::embedding_backward(9, 31, 8, d); },
       {{9, OperandSpec::tokens}, {9 * 31}, {8 * 31}},
       0.02},
      {"cross_entropy",
       [](Dtype d) { return Kernel::cross_entropy(6, 83, 0.5, d); },
       {{6 * 83}, {6, OperandSpec::tokens}, {1, OperandSpec::small}},
       0.02},
      {"linear_combination",
       [](Dtype d) { return Kernel::linear_combination(203, 0.3, 0.7, d); },
       {{203}, {203}},
       0.01},
      {"sum_squares",
       [](Dtype d) { return Kernel::sum_squares(203, d); },
       {{203}, {1, OperandSpec::small}},
       0.01},
      {"sgd",
       [](Dtype d) { return Kernel::sgd(101, 0.1, 0.9, true, 0.1, d); },
       {{101}, {101}, {101}, {0}, {1, OperandSpec::small}, {2, OperandSpec::small}},
       0.02},
      {"adamw",
       [](Dtype d) { return Kernel::adamw(101, 0.1, 0.9, 0.99, 1e-8, 0.1, d); },
       {{101}, {101}, {101}, {101, OperandSpec::positive}, {0}, {0}, {2, OperandSpec::small}},
       0.05},
      {"initialise", [](Dtype d) { return Kernel::initialise(77, 5, 1, 3, 2, d); }, {{77}}, 0.01},
  };
}

double value_of(const OperandSpec& shape, std::size_t operand, std::int64_t i) {
  const double normal = Philox(11, Purpose::user, static_cast<std::uint32_t>(operand))
                            .normal(static_cast<std::uint64_t>(i));
  // Rounded so that bf16 and fp16 hold it: what is left of a difference comes from storing results.
  const double rounded = static_cast<double>(from_bf16(to_bf16(static_cast<float>(normal))));
  switch (shape.what) {
    case OperandSpec::tokens:
      return static_cast<double>((i * 5) % 8);
    case OperandSpec::positive:
      return std::fabs(rounded);
    case OperandSpec::small:
      return 1;
    case OperandSpec::numbers:
      break;
  }
  return rounded;
}

void put(const View& view, std::int64_t i, double x) {
  switch (view.dtype) {
    case Dtype::int32:
      static_cast<std::int32_t*>(view.data)[i] = static_cast<std::int32_t>(x);
      return;
    case Dtype::bf16:
      static_cast<std::uint16_t*>(view.data)[i] = to_bf16(static_cast<float>(x));
      return;
    case Dtype::fp16:
      static_cast<std::uint16_t*>(view.data)[i] = to_fp16(static_cast<float>(x));
      return;
    default:
      static_cast<float*>(view.data)[i] = static_cast<float>(x);
  }
}
double get(const View& view, std::int64_t i) {
  switch (view.dtype) {
    case Dtype::int32:
      return static_cast<const std::int32_t*>(view.data)[i];
    case Dtype::bf16:
      return static_cast<double>(from_bf16(static_cast<const std::uint16_t*>(view.data)[i]));
    case Dtype::fp16:
      return static_cast<double>(from_fp16(static_cast<const std::uint16_t*>(view.data)[i]));
    default:
      return static_cast<double>(static_cast<const float*>(view.data)[i]);
  }
}

// The operands after one run of the kernel, in storage of `dtype` that starts `shift` elements
// behind a 64-byte boundary.
std::vector<std::vector<double>> after_run(const Case& c, Dtype dtype, std::int64_t shift) {
  const Kernel kernel = c.kernel(dtype);
  std::vector<std::vector<std::byte>> memory;
  std::vector<View> views;
  for (std::size_t o = 0; o < c.operands.size(); ++o) {
    const OperandSpec& shape = c.operands[o];
    const Dtype type = shape.what == OperandSpec::tokens  ? Dtype::int32
                       : shape.what == OperandSpec::small ? Dtype::fp32
                                                          : dtype;
    memory.emplace_back(static_cast<std::size_t>(bytes_of(shape.elements + shift, type).value) +
                        64);
    const auto start = reinterpret_cast<std::uintptr_t>(memory.back().data());
    std::byte* base = memory.back().data() + (64 - start % 64) % 64 + bytes_of(shift, type).value;
    views.push_back(shape.elements == 0 ? View{} : View{base, shape.elements, type});
    for (std::int64_t i = 0; i < shape.elements; ++i) put(views[o], i, value_of(shape, o, i));
  }
  cpu_bodies().run(kernel, views);
  std::vector<std::vector<double>> result;
  for (std::size_t o = 0; o < views.size(); ++o) {
    result.emplace_back();
    for (std::int64_t i = 0; i < views[o].elements; ++i) result.back().push_back(get(views[o], i));
  }
  return result;
}

}  // namespace

TEST_CASE("the same inputs give the same bits wherever the buffers lie") {
  for (const Case& c : cases())
    for (const Dtype dtype : {Dtype::fp32, Dtype::bf16}) {
      CAPTURE(std::string(c.name));
      const auto expected = after_run(c, dtype, 0);
      for (const std::int64_t shift : {1, 2, 3, 4, 5, 7, 8, 11, 15})
        CHECK(after_run(c, dtype, shift) == expected);
      CHECK(after_run(c, dtype, 0) == expected);
    }
}

TEST_CASE("16-bit storage rounds the results of fp32 arithmetic") {
  for (const Case& c : cases())
    for (const Dtype dtype : {Dtype::bf16, Dtype::fp16}) {
      CAPTURE(std::string(c.name));
      CAPTURE(std::string(name(dtype)));
      const auto exact = after_run(c, Dtype::fp32, 0), stored = after_run(c, dtype, 0);
      for (std::size_t o = 0; o < exact.size(); ++o) {
        double largest = 0, most = 0;
        for (std::size_t i = 0; i < exact[o].size(); ++i) {
          largest = std::max(largest, std::fabs(exact[o][i]));
          most = std::max(most, std::fabs(exact[o][i] - stored[o][i]));
        }
        CHECK(most <= c.tolerance * largest);
        // Rounding happens once: a result that is stored is the fp32 result, rounded.
        std::size_t off = 0;
        for (std::size_t i = 0; i < exact[o].size(); ++i) {
          const auto x = static_cast<float>(exact[o][i]);
          const float rounded =
              dtype == Dtype::bf16 ? from_bf16(to_bf16(x)) : from_fp16(to_fp16(x));
          off += c.operands[o].what <= OperandSpec::positive &&
                         static_cast<double>(rounded) != stored[o][i]
                     ? 1U
                     : 0U;
        }
        CHECK(off == 0);
      }
    }
}
