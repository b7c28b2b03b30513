// Products with operands in 8 bits: what is priced at the peak of fp8, and which casts there are.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>

#include "algorithms/ddp.hpp"
#include "algorithms/models/transformer.hpp"
#include "backend/cpu/bodies.hpp"
#include "sim/world.hpp"

namespace orrery {
namespace {

constexpr std::int64_t rows = 2 * 64, hidden = 96, kv = 24, ffn = 160, packed = hidden + 2 * kv;

TransformerShape dense(Products products) {
  return {.layers = 2,
          .hidden = hidden,
          .heads = 4,
          .kv_heads = 1,
          .head_size = 24,
          .ffn = ffn,
          .vocabulary = 512,
          .sequence = 64,
          .micro_batch = 2,
          .products = products};
}

struct Step {
  std::vector<Kernel> kernels;  // that are different, once each
  std::size_t casts = 0;        // launched
};

// A step of training a small transformer.
Step step_of(const TransformerShape& shape) {
  std::vector<Kernel> kernels;
  std::mutex mutex;
  const UniformMachine machine({.gpus = 1,
                                .memory = Bytes(0),
                                .alpha = Time(0),
                                .bandwidth = BytesPerSecond(1e9),
                                .host = {},
                                .kernel_time = [&](const Kernel& kernel, const Cost&) {
                                  const std::lock_guard lock(mutex);
                                  kernels.push_back(kernel);
                                  return Time(1000);
                                }});
  SimOptions sim;
  sim.machine = &machine;
  StringTraceSink trace;
  sim.trace = &trace;
  WorldOptions options;
  options.real_values = false;
  options.bodies = &cpu_bodies();  // of counts and losses
  make_sim_world(std::move(options), sim)->run([&](Rank& rank) {
    Replica replica(rank, make_transformer(shape), {});
    Ddp ddp(replica, {});
    Progress progress(rank, {1, 2});
    train(ddp, progress);
  });
  Step step{kernels, 0};
  const std::string slice = shape.products == Products::nvfp4 ? "\"name\":\"fp4.cast\""
                                                              : "\"name\":\"fp8.cast\"",
                    text = trace.text();
  for (std::size_t at = text.find(slice); at != text.npos; at = text.find(slice, at + 1))
    ++step.casts;
  return step;
}

// Elements read and written by casts of each kind.
std::set<std::pair<std::int64_t, std::int64_t>> casts_of(const std::vector<Kernel>& kernels) {
  std::set<std::pair<std::int64_t, std::int64_t>> casts;
  for (const Kernel& k : kernels)
    if (std::string(k.label).ends_with(".cast")) casts.insert({k.dims[0], k.dims[1]});
  return casts;
}

std::map<std::string, Dtype> products_of(const std::vector<Kernel>& kernels) {
  std::map<std::string, Dtype> types;
  for (const Kernel& k : kernels)
    if (k.op == Op::gemm) types[k.label] = k.dtype;
  return types;
}

// Of operands of a layer: inputs, matrices, gradients of outputs.
const std::vector<std::int64_t> operands{rows * hidden,  rows* ffn,        hidden* packed,
                                         hidden* hidden, hidden * 2 * ffn, ffn* hidden,
                                         rows* packed,   rows * 2 * ffn};

void check_types(const std::vector<Kernel>& kernels, Dtype of_layers) {
  const auto types = products_of(kernels);
  for (const std::string of_layer : {"qkv", "out", "up", "down"})
    for (const char* pass : {"", ".dgrad", ".wgrad"}) {
      CAPTURE(of_layer + pass);
      REQUIRE(types.count(of_layer + pass) == 1);
      CHECK(types.at(of_layer + pass) == of_layers);
    }
  for (const char* of_head : {"logits", "logits.dgrad", "logits.wgrad"}) {
    REQUIRE(types.count(of_head) == 1);
    CHECK(types.at(of_head) == Dtype::bf16);
  }
}

// Each operand is read `reads` times and written as it is and transposed, in elements of two bytes;
// `scales`: of it and of its transpose, likewise.
template <class Scales>
void check_casts(Products products, std::int64_t reads, Scales scales, Dtype type = Dtype::fp8) {
  const auto [kernels, casts] = step_of(dense(products));
  check_types(kernels, type);
  // Of two layers, four products: inputs and matrices forward, gradients of outputs backward.
  CHECK(casts == 2 * 4 * 3);
  std::set<std::pair<std::int64_t, std::int64_t>> expected;
  for (const std::int64_t n : operands)
    expected.insert({reads * n, bytes_of(n, type).value + scales(n)});
  CHECK(casts_of(kernels) == expected);
}

}  // namespace

TEST_CASE("products as stored have no casts") {
  const auto [kernels, casts] = step_of(dense(Products::as_stored));
  check_types(kernels, Dtype::bf16);
  CHECK(casts_of(kernels).empty());
  CHECK(casts == 0);
}

TEST_CASE("the products of experts are fp8 with as many casts, those of the router are not") {
  constexpr std::int64_t experts = 4, places = rows * 2, wide = 40, shared = 56;  // 2 per token
  TransformerShape shape = dense(Products::fp8_tensor);
  shape.experts = experts;
  shape.experts_per_token = 2;
  shape.expert_ffn = wide;
  shape.shared_ffn = shared;
  const auto [kernels, casts] = step_of(shape);
  for (const Kernel& k : kernels) {
    const std::string label = k.label;
    if (k.op == Op::grouped_gemm || label.starts_with("shared.")) CHECK(k.dtype == Dtype::fp8);
    if (label.starts_with("router")) CHECK(k.dtype == Dtype::bf16);
  }
  // Of two layers: qkv and out, up and down of the experts and of the shared one.
  CHECK(casts == 2 * 6 * 3);
  std::set<std::pair<std::int64_t, std::int64_t>> expected;
  for (const std::int64_t n :
       {rows * hidden, hidden * packed, hidden * hidden, rows * packed,  // attention
        places * hidden, experts * hidden * 2 * wide, places * 2 * wide, places * wide,
        experts * wide * hidden,  //
        hidden * 2 * shared, rows * 2 * shared, rows * shared, shared * hidden})
    expected.insert({2 * n, n});
  CHECK(casts_of(kernels) == expected);
}

TEST_CASE("fp8 with a scale per tensor reads every operand of a layer's products twice") {
  check_casts(Products::fp8_tensor, 2, [](std::int64_t) { return 0; });
}

TEST_CASE("fp8 with a scale of four bytes per 128 numbers writes them twice") {
  check_casts(Products::fp8_block, 1, [](std::int64_t n) { return 4 * ((n + 127) / 128); });
}

TEST_CASE("mxfp8 writes a scale of a byte per 32 numbers twice") {
  check_casts(Products::mxfp8, 1, [](std::int64_t n) { return (n + 31) / 32; });
}

TEST_CASE("nvfp4 reads operands twice and writes half a byte, with a scale of a byte per 16") {
  check_casts(
      Products::nvfp4, 2, [](std::int64_t n) { return (n + 15) / 16; }, Dtype::fp4);
}

}  // namespace orrery
