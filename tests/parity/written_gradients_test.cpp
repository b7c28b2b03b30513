// Gradients that the backward of a step's only micro-batch writes, against those that it adds to
// zeros.
#include <doctest/doctest.h>

#include <atomic>

#include "tests/parity/small_transformers.hpp"
#include "tests/parity/worlds_agree.hpp"

namespace orrery {
namespace {

TrainingCase llama(bool writes, bool tied, Dtype dtype) {
  TrainingCase c;
  c.transformer = as_llama(small_gpt());
  c.transformer->layers = 2;
  c.transformer->tied = tied;
  c.transformer->dtype = dtype;
  c.transformer->writes_gradients = writes;
  c.replica.micro_batches = 1;
  c.replica.gradient_dtype = dtype;
  c.replica.optimizer = {.name = "adamw", .lr = 3e-3};
  c.steps = 5;
  return c;
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
      const Trained added = train_on_cpu(llama(false, tied, dtype));
      const Trained written = train_on_cpu(llama(true, tied, dtype));
      CHECK(written.losses == added.losses);
      CHECK(written.state == added.state);
    }
}

TEST_CASE("written gradients give the same bits in sim and on cpu") {
  check_worlds_agree(llama(true, true, Dtype::fp32));
}

TEST_CASE("of gradients that are written nothing is zeroed and nothing is read") {
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    const TransformerShape s = *llama(true, tied, Dtype::fp32).transformer;
    const std::int64_t gains = s.hidden * (2 * s.layers + 1), table = s.vocabulary * s.hidden;
    TrainingCase one = llama(true, tied, Dtype::fp32), three = one;
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
