// Parameter counts and FLOPs of networks for pictures and fields, to the digit.
#include <doctest/doctest.h>

#include "algorithms/models/fno.hpp"
#include "algorithms/models/resnet.hpp"
#include "algorithms/replica.hpp"
#include "backend/cpu/bodies.hpp"
#include "sim/world.hpp"

using namespace orrery;

namespace {

// Runs the program on one rank without values. Once per process.
RunReport on_one_rank(const World::Program& program) {
  UniformSpec spec;
  spec.gpus = 1;
  const UniformMachine machine(spec);
  WorldOptions options;
  options.bodies = &cpu_bodies();
  SimOptions sim;
  sim.machine = &machine;
  return make_sim_world(options, sim)->run(program);
}

struct Flop {
  double forward = 0, backward = 0, first = 0;
};

Flop flops_of(const Model& model, Rank& rank) {
  Flop sum;
  for (const auto& block : model.blocks) {
    const Flops before = block->forward_flops();
    block->prepare(rank);
    CHECK(block->forward_flops() == before);
    sum.forward += block->forward_flops().value;
    sum.backward += block->backward_flops().value;
  }
  sum.first = model.blocks.front()->forward_flops().value;
  return sum;
}

}  // namespace

TEST_CASE("residual networks have torchvision's parameters, for ImageNet and for CIFAR") {
  const auto parameters = [](int depth, bool small) {
    return make_resnet({depth, small ? 32 : 224, small ? 10 : 1000, small}).parameter_elements();
  };
  CHECK(parameters(18, false) == 11'689'512);
  CHECK(parameters(34, false) == 21'797'672);
  CHECK(parameters(50, false) == 25'557'032);
  CHECK(parameters(101, false) == 44'549'160);
  CHECK(parameters(152, false) == 60'192'808);
  CHECK(parameters(18, true) == 11'173'962);
  CHECK(parameters(34, true) == 21'282'122);
  CHECK(parameters(50, true) == 23'520'842);
  CHECK_THROWS_AS(make_resnet({20}), Error);
}

TEST_CASE("residual networks do their multiply-adds, thrice in training but for the first layer") {
  on_one_rank([](Rank& rank) {
    struct Row {
      int depth;
      bool small;
      double multiply_adds;
    };
    for (const Row& row : {Row{18, false, 1'814'073'344}, Row{34, false, 3'663'761'408},
                           Row{50, false, 4'089'184'256}, Row{18, true, 555'422'720},
                           Row{34, true, 1'159'402'496}, Row{50, true, 1'297'829'888}})
      for (const int batch : {1, 8}) {
        CAPTURE(row.depth);
        CAPTURE(row.small);
        ResnetShape shape{row.depth, row.small ? 32 : 224, row.small ? 10 : 1000, row.small};
        shape.micro_batch = batch;
        const Flop f = flops_of(make_resnet(shape), rank);
        CHECK(f.forward == 2 * row.multiply_adds * batch);
        CHECK(f.backward == 2 * f.forward - f.first);  // nobody asks for the picture's gradient
      }
  });
}

TEST_CASE("a Fourier layer has the parameters and FLOPs of its formula") {
  FnoShape shape;  // 64 x 64 points, 12 x 12 modes, 32 channels
  const Model model = make_fno(shape);
  CHECK(shape.kept_modes() == 288);
  CHECK(model.blocks[1]->parameter_elements() == 589'824 + 1'056);
  CHECK(model.parameter_elements() == 4 * (589'824 + 1'056) + (32 + 32) + (32 + 1));
  on_one_rank([&](Rank& rank) {
    flops_of(model, rank);
    const Block& layer = *model.blocks[1];
    CHECK(layer.forward_flops().value == 2'359'296 + 8'388'608);  // modes, pointwise
    CHECK(layer.backward_flops().value == 2 * layer.forward_flops().value);
  });
  CHECK_THROWS_AS(make_fno({.grid = {64}, .modes = {33}}), Error);
  CHECK_THROWS_AS(make_fno({.grid = {64, 64}, .modes = {12}}), Error);
}

TEST_CASE("pictures and fields train in sim without values") {
  const RunReport report = on_one_rank([](Rank& rank) {
    const auto step = [&](Model model) {
      ReplicaOptions options;
      options.micro_batches = 2;
      Replica replica(rank, std::move(model), options);
      Progress progress(rank, {1, 2 * std::int64_t{replica.model().micro_batch}});
      replica.accumulate_gradients(progress);
      replica.optimizer_step(replica.compute(), replica.parameters());
      progress.step_issued({replica.compute().record(), {}});
      progress.finish();
    };
    for (const int depth : {18, 50}) {
      ResnetShape shape{depth};
      shape.micro_batch = 4;
      shape.micro_batches = 2;
      step(make_resnet(shape));
      step(make_fno({.grid = {64, 64, 64}, .modes = {8, 8, 8}, .micro_batch = 4}));
    }
  });
  CHECK(report.ranks[0].matrix_flops.value > 0);
}
