// A correct program has no unordered access in either world; with any one of its `after`s removed
// it has one, the same in both: same tensor, same operations, same call sites. And its memory peak
// is one number.
#include <doctest/doctest.h>

#include "tests/support/worlds.hpp"

using namespace orrery;

namespace {

constexpr int layers = 3;
constexpr std::int64_t width = 256;
constexpr int afters = 3;

// Data-parallel training of three layers with a bucket each, the gradients' memory recycled between
// steps. `removed` is the number of the `after` that is left out, or -1.
void train(Rank& rank, RankNotes& notes, int removed) {
  Stream &compute = rank.stream("compute"), &comm = rank.stream("comm"),
         &optimizer = rank.stream("optimizer");
  Channel& data = rank.channel(Axis::replicate, "gradients");
  const auto order = [&](int number, Stream& later, Event event) {
    if (number != removed) later.after(event);
  };
  std::vector<Tensor> weights;
  for (int layer = 0; layer < layers; ++layer) {
    weights.push_back(
        toy::vector(rank, compute, width, "weights." + std::to_string(layer), Label::parameters));
    toy::fill(rank, compute, weights.back(), 1);
  }
  const Prepared backward = toy::kernel(rank, "backward", Seconds(2e-6), {Role::read, Role::write},
                                        [](std::span<const View> v) {
                                          for (std::int64_t i = 0; i < v[0].elements; ++i)
                                            toy::floats(v[1])[i] = 0.25F * toy::floats(v[0])[i];
                                        });
  const Prepared update = toy::kernel(rank, "update", Seconds(1e-6), {Role::update, Role::read},
                                      [](std::span<const View> v) {
                                        for (std::int64_t i = 0; i < v[0].elements; ++i)
                                          toy::floats(v[0])[i] -= toy::floats(v[1])[i];
                                      });
  for (int step = 0; step < 4; ++step) {
    std::vector<Tensor> gradients;
    for (int layer = layers - 1; layer >= 0; --layer) {
      const Tensor gradient = toy::vector(rank, compute, width, "gradient", Label::gradients);
      compute.launch(backward, {weights[static_cast<std::size_t>(layer)], gradient});
      order(0, comm, compute.record());
      comm.all_reduce(gradient, Reduce::mean, data);
      gradients.push_back(gradient);
    }
    order(1, optimizer, comm.record());
    for (int layer = 0; layer < layers; ++layer)
      optimizer.launch(update, {weights[static_cast<std::size_t>(layer)],
                                gradients[static_cast<std::size_t>(layers - 1 - layer)]});
    order(2, compute, optimizer.record());
  }
  for (const Tensor& w : weights) notes.values.push_back(rank.read(w)[0]);
}

SharedProgram without(int removed) {
  return [removed](Rank& rank, RankNotes& notes) { train(rank, notes, removed); };
}

}  // namespace

TEST_CASE("a correct program has no unordered access, the same bits and one peak in both worlds") {
  const WorldResult sim = run_in_sim(setup_for(3), without(-1));
  const WorldResult cpu = run_in_cpu(setup_for(3), without(-1));
  REQUIRE_MESSAGE(!sim.error, why(sim));
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  CHECK(sim.noted() == cpu.noted());
  CHECK(sim.noted()[0] == 0.31640625);  // 0.75^4
  CHECK(sim.peaks == cpu.peaks);
  CHECK(sim.peaks[0] == 4 * width * 2 * layers);
  CHECK(sim.channels == cpu.channels);
}

TEST_CASE("with any one `after` removed both worlds report the same unordered access") {
  for (int removed = 0; removed < afters; ++removed) {
    CAPTURE(removed);
    const WorldResult sim = run_in_sim(setup_for(3), without(removed));
    const WorldResult cpu = run_in_cpu(setup_for(3), without(removed));
    REQUIRE(sim.error.has_value());
    REQUIRE(cpu.error.has_value());
    for (const WorldResult* result : {&sim, &cpu}) {
      CHECK(result->error->category() == Category::unordered_access);
      CHECK(!result->error->context("rank").empty());  // which rank is first is time's to say
      for (const char* side : {"first", "second"})
        CHECK_MESSAGE(
            result->error->context(side).find("toy_hazards_test.cpp:") != std::string::npos,
            why(*result));
    }
    CHECK(sim.error->message() == cpu.error->message());
    CHECK(sim.error->context("first") == cpu.error->context("first"));
    CHECK(sim.error->context("second") == cpu.error->context("second"));
  }
}
