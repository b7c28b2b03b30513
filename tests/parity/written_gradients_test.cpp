// Gradients that the backward of a step's only micro-batch writes, against those that it adds to
// zeros.
#include <doctest/doctest.h>

#include <atomic>

#include "tests/parity/small_transformers.hpp"
#include "tests/parity/worlds_agree.hpp"

namespace orrery {
namespace {

TrainingCase one_micro_batch(TransformerShape shape, bool writes, Dtype dtype, Dtype gradients) {
  TrainingCase c;
  shape.layers = 2;
  shape.dtype = dtype;
  shape.writes_gradients = writes;
  c.transformer = shape;
  c.replica.micro_batches = 1;
  c.replica.gradient_dtype = gradients;
  c.replica.optimizer = {.name = "adamw", .lr = 3e-3};
  c.steps = 5;
  return c;
}

TrainingCase llama_case(bool writes, bool tied, Dtype dtype) {
  TransformerShape shape = as_llama(small_gpt());
  shape.tied = tied;
  return one_micro_batch(shape, writes, dtype, dtype);
}

void check_same_bits(const TrainingCase& adds, const TrainingCase& writes) {
  const Trained added = train_on_cpu(adds), written = train_on_cpu(writes);
  CHECK(written.losses == added.losses);
  CHECK(written.state == added.state);
}

// As the CPU's bodies; counts the elements of large fills and of products that add.
class Counting : public KernelBodies {
 public:
  void run(const Kernel& kernel, std::span<const View> operands) const override {
    if (kernel.op == Op::fill && kernel.dims[0] > 1) filled += kernel.dims[0];
    if (kernel.op == Op::gemm && kernel.accumulate) added += kernel.dims[0] * kernel.dims[1];
    cpu_bodies().run(kernel, operands);
  }
  mutable std::atomic<std::int64_t> filled{0}, added{0};
};

std::pair<std::int64_t, std::int64_t> counted(const TrainingCase& c) {
  const Counting bodies;
  WorldOptions options = training_options(c);
  options.bodies = &bodies;
  std::vector<Checkpoint> state;
  make_cpu_world(std::move(options))->run(training(c, state, nullptr));
  return {bodies.filled, bodies.added};
}

TEST_CASE("gradients that are written train in the bits of gradients that are added to zeros") {
  for (const bool tied : {false, true})
    for (const Dtype dtype : {Dtype::fp32, Dtype::bf16}) {
      CAPTURE(tied);
      CAPTURE(name(dtype));
      check_same_bits(llama_case(false, tied, dtype), llama_case(true, tied, dtype));
    }
}

TEST_CASE("so do gradients in fp32 of a model in bf16, and those of a model with biases") {
  using Types = std::pair<Dtype, Dtype>;  // of activations and of gradients
  for (const bool biased : {false, true})
    for (const auto& [dtype, gradients] :
         {Types{Dtype::fp32, Dtype::fp32}, Types{Dtype::bf16, Dtype::fp32},
          Types{Dtype::bf16, Dtype::bf16}}) {
      CAPTURE(biased);
      CAPTURE(name(dtype));
      CAPTURE(name(gradients));
      const TransformerShape shape = biased ? small_gpt() : as_llama(small_gpt());
      check_same_bits(one_micro_batch(shape, false, dtype, gradients),
                      one_micro_batch(shape, true, dtype, gradients));
    }
}

TEST_CASE("written gradients give the same bits in sim and on cpu") {
  check_worlds_agree(llama_case(true, true, Dtype::fp32));
}

TEST_CASE("of gradients that are written nothing is zeroed and nothing is read") {
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    const TransformerShape s = *llama_case(true, tied, Dtype::fp32).transformer;
    const std::int64_t gains = s.hidden * (2 * s.layers + 1), table = s.vocabulary * s.hidden;
    TrainingCase one = llama_case(true, tied, Dtype::fp32), three = one;
    one.steps = 1;
    three.steps = 3;
    const auto [filled_once, added_once] = counted(one);
    const auto [filled, added] = counted(three);
    // The embedding of an untied model adds rows of tokens.
    CHECK(filled - filled_once == 2 * (gains + (tied ? 0 : table)));
    CHECK(added == 0);
    CHECK(added_once == 0);
  }
}

}  // namespace
}  // namespace orrery
