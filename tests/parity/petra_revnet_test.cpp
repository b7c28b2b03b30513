// PETRA on RevNets: what it saves, by the ledger, its period, and equal bits.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "algorithms/models/revnet.hpp"
#include "tests/support/picture_models.hpp"
#include "tests/support/stage_run.hpp"

namespace orrery {
namespace {

constexpr int stages = 18;

// RevNet-50 for ImageNet, 64 pictures per batch, a stage for the stem, each block and the head.
StageCase revnet_50(bool inputs, bool versions) {
  StageCase c;
  c.algorithm = std::string("{name: delayed-gradients, keep: ") + (inputs ? "inputs" : "nothing") +
                ", versions: " + (versions ? "true" : "false") + "}";
  c.schedule = "petra";
  c.stages = stages;
  c.layers.assign(stages, 1);
  c.layers.front() = c.layers.back() = 0;
  c.steps = 80;
  c.values = false;
  c.model = [](int micro_batches) {
    ResnetShape shape{50};
    shape.micro_batch = 64;
    shape.micro_batches = micro_batches;
    shape.dtype = Dtype::fp32;
    return make_revnet(shape);
  };
  return c;
}

TEST_CASE("on RevNet-50 with 64 pictures PETRA saves 55 % of what its table counts") {
  const auto run = [](bool inputs, bool versions) {
    const StageCase c = revnet_50(inputs, versions);
    WorldResult result = run_in_sim(setup_of(c), training_of(c));
    REQUIRE_MESSAGE(!result.error, why(result));
    return result;
  };
  const WorldResult both = run(true, true), petra = run(false, false);
  const Model model = revnet_50(true, true).model(1);
  // Table 3 of the paper counts parameters, statistics and the inputs that backwards read; the
  // first stage's, which are pictures, it leaves out where none are kept. So they are left out
  // here.
  double counted = 0, saved = 0, held = 0, held_by_petra = 0;
  for (std::size_t j = 0; j < stages; ++j) {
    const StageNotes with = notes_of(both, j), without = notes_of(petra, j);
    held += static_cast<double>(both.peaks[j]);
    held_by_petra += static_cast<double>(petra.peaks[j]);
    if (j == 0) continue;
    const std::int64_t again = model.blocks[j]->input_read_again();
    const double input =
        4.0 * static_cast<double>(again < 0 ? model.blocks[j - 1]->output_elements() : again);
    const double under_way = 2.0 * (stages - 1.0 - static_cast<double>(j)) + 1;
    counted += with.parameters + under_way * input;
    saved += with.parameters - without.parameters + with.activations - without.activations;
  }
  MESSAGE("counted " << counted / 1e9 << " GB, saved " << saved / 1e9 << " GB = "
                     << 100 * saved / counted << " %; of all that stages hold, " << held / 1e9
                     << " GB, PETRA saves " << 100 * (1 - held_by_petra / held) << " %");
  CHECK(std::fabs(counted / 1e9 - 44.5) < 0.05 * 44.5);
  CHECK(std::fabs(saved / counted - 0.543) < 0.03);
}

TEST_CASE("the period of a RevNet is its slowest stage's reconstruction and backward") {
  for (const int depth : {18, 34, 50}) {
    CAPTURE(depth);
    StageCase c;
    c.stages = depth == 18 ? 10 : 18;
    c.layers.assign(static_cast<std::size_t>(c.stages), 1);
    c.layers.front() = c.layers.back() = 0;
    c.steps = 120;
    c.values = false;
    c.alpha = Time(0);
    c.bandwidth = 1e30;
    c.model = [depth](int micro_batches) {
      ResnetShape shape{depth, 32, 10, true};
      shape.micro_batch = 4;
      shape.micro_batches = micro_batches;
      shape.dtype = Dtype::fp32;
      return make_revnet(shape);
    };
    // Kernels take 1e-10 s per FLOP; the most of a stage per batch, and the rhythm of the first.
    struct Rhythm {
      double slowest = 0, mean = 0, period = 0;
    };
    const auto rhythm_by = [&c](const std::string& algorithm) {
      c.algorithm = algorithm;
      const WorldResult result = run_in_sim(setup_of(c), training_of(c));
      REQUIRE_MESSAGE(!result.error, why(result));
      Rhythm r;
      for (std::size_t j = 0; j < static_cast<std::size_t>(c.stages); ++j) {
        const double seconds = notes_of(result, j).flops / 120 * 1e-10;
        r.slowest = std::max(r.slowest, seconds);
        r.mean += seconds / c.stages;
      }
      const auto& ends = result.steps.at(0);
      // Before the first stage has no forwards any more, 2 J - 1 batches before the end.
      r.period = static_cast<double>(ends.at(80) - ends.at(60)) / 20 * 1e-12;
      return r;
    };
    const Rhythm one = rhythm_by("{name: petra}"), two = rhythm_by("{name: petra, engines: 2}");
    // With graphs kept a stage computes a forward and a backward: as much as a reconstruction and a
    // backward.
    const Rhythm graphs = rhythm_by("{name: delayed-gradients, keep: graph}");
    CHECK(two.period == doctest::Approx(graphs.slowest).epsilon(1e-6));
    CHECK(one.period == doctest::Approx(one.slowest).epsilon(1e-6));
    CHECK(two.period > 1.1 * graphs.mean);  // stages are unbalanced
  }
}

TEST_CASE("a RevNet by PETRA has the same bits and peaks in sim and on cpu") {
  for (const char* algorithm : {"petra", "reversible-backprop", "delayed-gradients", "dgl"}) {
    CAPTURE(algorithm);
    StageCase c;
    c.algorithm = std::string("{name: ") + algorithm + ", optimizer: {name: momentum, lr: 0.01}}";
    c.stages = 6;
    c.layers = {0, 1, 1, 1, 1, 0};
    c.steps = 16;
    c.model = [](int micro_batches) {
      ResnetShape shape = small_pictures(18, 8, 4, 6, micro_batches);
      shape.blocks = {2, 2};
      return make_revnet(shape, noise_pictures(40, 8, 5));
    };
    const WorldResult sim = run_in_sim(recording(setup_of(c)), training_of(c));
    REQUIRE_MESSAGE(!sim.error, why(sim));
    const WorldResult cpu = run_in_cpu(replaying(setup_of(c), sim), training_of(c));
    REQUIRE_MESSAGE(!cpu.error, why(cpu));
    CHECK(sim.noted() == cpu.noted());
    CHECK(sim.peaks == cpu.peaks);
    CHECK(sim.channels == cpu.channels);
    for (std::size_t r = 0; r < 6; ++r)
      CHECK(sim.notes[r].checkpoints[0] == cpu.notes[r].checkpoints[0]);
  }
}

}  // namespace
}  // namespace orrery
