// The committed GPT learns: on text it has not seen it predicts better than pairs of bytes could,
// and it is attention that does it. Each test trains for up to a minute on one core.
#include <doctest/doctest.h>

#include <cstring>

#include "backend/core/config.hpp"
#include "backend/cpu/bodies.hpp"
#include "backend/cpu/world.hpp"
#include "scenarios/training.hpp"

using namespace orrery;

namespace {

// As the CPU's bodies, but attention gives nothing and passes no gradient on.
class WithoutAttention : public KernelBodies {
 public:
  void run(const Kernel& kernel, std::span<const View> operands) const override {
    if (kernel.op != Op::attention && kernel.op != Op::attention_backward)
      return cpu_bodies().run(kernel, operands);
    for (std::size_t i = 0; i < operands.size(); ++i)
      if (role_of(kernel.roles, i) == Role::write && operands[i].data != nullptr)
        std::memset(
            operands[i].data, 0,
            static_cast<std::size_t>(bytes_of(operands[i].elements, operands[i].dtype).value));
  }
};

// Nats per byte on the last tenth of the text, after training on the rest.
double held_out_loss(const KernelBodies& bodies) {
  const std::string root = ORRERY_SOURCE_DIR;
  const Scenario scenario =
      read_scenario(Document::parse_file(root + "/scenarios/gpt-bytes.yaml"), root);
  CHECK(scenario.data.held_out == 0.1);
  WorldOptions options = world_options(scenario);
  options.bodies = &bodies;
  std::optional<HeldOut> held_out;
  TrainingHooks hooks;
  hooks.held_out = &held_out;
  make_cpu_world(std::move(options))->run(training_program(scenario, hooks));
  REQUIRE(held_out.has_value());
  MESSAGE("held-out loss: " << held_out->loss);
  return held_out->loss;
}

}  // namespace

TEST_CASE("a small GPT reaches 2.35 nats per byte on text it has not seen") {
  CHECK(held_out_loss(cpu_bodies()) <= 2.35);
}

TEST_CASE("without attention a small GPT stays above 2.6 nats per byte, as pairs of bytes do") {
  CHECK(held_out_loss(WithoutAttention()) > 2.6);
}
