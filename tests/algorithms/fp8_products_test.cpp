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

// All kernels that a step of a small transformer of this kind has.
std::vector<Kernel> kernels_of(Products products) {
  TransformerShape shape{.layers = 2,
                         .hidden = hidden,
                         .heads = 4,
                         .kv_heads = 1,
                         .head_size = 24,
                         .ffn = ffn,
                         .vocabulary = 512,
                         .sequence = 64,
                         .micro_batch = 2,
                         .products = products};
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
  WorldOptions options;
  options.real_values = false;
  options.bodies = &cpu_bodies();  // of counts and losses
  make_sim_world(std::move(options), sim)->run([&](Rank& rank) {
    Replica replica(rank, make_transformer(shape), {});
    Ddp ddp(replica, {});
    Progress progress(rank, {1, 2});
    train(ddp, progress);
  });
  return kernels;
}

// Elements read and written by casts: of each kind once, as equal kernels are one.
std::set<std::pair<std::int64_t, std::int64_t>> casts_of(const std::vector<Kernel>& kernels) {
  std::set<std::pair<std::int64_t, std::int64_t>> casts;
  for (const Kernel& k : kernels)
    if (std::string(k.label) == "fp8.cast") casts.insert({k.dims[0], k.dims[1]});
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
void check_casts(Products products, std::int64_t reads, Scales scales) {
  const std::vector<Kernel> kernels = kernels_of(products);
  check_types(kernels, Dtype::fp8);
  std::set<std::pair<std::int64_t, std::int64_t>> expected;
  for (const std::int64_t n : operands) expected.insert({reads * n, n + scales(n)});
  CHECK(casts_of(kernels) == expected);
}

}  // namespace

TEST_CASE("products as stored have no casts") {
  const std::vector<Kernel> kernels = kernels_of(Products::as_stored);
  check_types(kernels, Dtype::bf16);
  CHECK(casts_of(kernels).empty());
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

}  // namespace orrery
