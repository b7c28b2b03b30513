// PETRA and its relatives: delays, periods, what they keep, move and compute, and when they are
// stable.
#include <doctest/doctest.h>

#include <cmath>
#include <sstream>

#include "tests/parity/update_equation.hpp"
#include "tests/support/stage_run.hpp"

namespace orrery {
namespace {

WorldResult simulated(const StageCase& c) {
  WorldResult result = run_in_sim(setup_of(c), training_of(c));
  REQUIRE_MESSAGE(!result.error, why(result));
  return result;
}

// Stages of a second's forward, two of backward and one of reconstruction; messages take no time.
StageCase seconds(const std::string& algorithm, int stages = 4, std::vector<double> forward = {1}) {
  StageCase c;
  c.algorithm = algorithm;
  c.stages = stages;
  c.steps = 40;
  c.alpha = Time(0);
  c.bandwidth = 1e30;
  Adders a;
  a.has_parameters.assign(static_cast<std::size_t>(stages), true);
  a.forward = std::move(forward);
  c.model = adders(a);
  return c;
}

std::string petra(const std::string& options = "") {
  return "{name: petra, optimizer: {name: sgd, lr: 0.001}" + options + "}";
}

// Seconds.
double end_of_step(const WorldResult& result, std::size_t rank, std::size_t step) {
  return static_cast<double>(result.steps.at(rank).at(step)) * 1e-12;
}
// While the first stage still has forwards: 2 J - 1 batches are under way at the end of 40.
double period(const WorldResult& result, std::size_t rank = 0) {
  return (end_of_step(result, rank, 28) - end_of_step(result, rank, 18)) / 10;
}

TEST_CASE(
    "a batch's backward comes 2 (J - j) updates behind its forward, by events and by schedule") {
  for (const char* schedule : {"1f1b", "petra"})
    for (const char* engines : {"", ", engines: 2"})
      for (const int stages : {1, 2, 4, 5}) {
        CAPTURE(schedule);
        CAPTURE(engines);
        CAPTURE(stages);
        StageCase c = seconds(petra(engines), stages);
        c.schedule = schedule;
        const WorldResult result = simulated(c);
        for (std::size_t j = 0; j < static_cast<std::size_t>(stages); ++j) {
          const std::vector<double> delays = notes_of(result, j).delays;
          REQUIRE(delays.size() == 40);
          const double tau = 2.0 * (stages - 1.0 - static_cast<double>(j));
          for (std::size_t n = 0; n < delays.size(); ++n)
            CHECK(delays[n] == std::min(tau, static_cast<double>(n)));
        }
      }
}

TEST_CASE("stages take 3 per batch on two engines and 4 on one, after a first one of 15") {
  const WorldResult two = simulated(seconds(petra(", engines: 2")));
  const WorldResult one = simulated(seconds(petra()));
  CHECK(end_of_step(two, 0, 0) == 15);
  CHECK(period(two) == 3);
  CHECK(period(one) == 4);
}

TEST_CASE("by events and by schedule PETRA makes the same updates in the same time") {
  for (const char* engines : {"", ", engines: 2"}) {
    StageCase c = seconds(petra(engines));
    const WorldResult events = simulated(c);
    c.schedule = "petra";
    const WorldResult schedule = simulated(c);
    CHECK(period(schedule) == period(events));
    for (std::size_t j = 0; j < 4; ++j) {
      CHECK(notes_of(events, j).losses == notes_of(schedule, j).losses);
      CHECK(events.notes[j].checkpoints[0] == schedule.notes[j].checkpoints[0]);
    }
  }
}

TEST_CASE("the period is the slowest stage's, not the mean") {
  // Reconstruction and backward of the third stage take 3 x 5.
  CHECK(period(simulated(seconds(petra(", engines: 2"), 4, {1, 2, 5, 1}))) == 15);
  CHECK(period(simulated(seconds(petra(), 4, {1, 2, 5, 1}))) == 20);
  // The last stage keeps its graph: 3 x 5.
  CHECK(period(simulated(seconds(petra(), 4, {1, 2, 1, 5}))) == 15);
}

// The largest curvature, in steps of 1/500, up to which SGD of rate 1 does not grow, where only
// stage j has parameters.
double stability_edge(const std::string& algorithm, int j) {
  Adders a;
  a.has_parameters.assign(4, false);
  a.has_parameters[static_cast<std::size_t>(j - 1)] = true;
  a.elements = 1050;
  a.curvature = [](std::size_t i) { return (static_cast<float>(i) + 0.5F) / 500; };
  StageCase c;
  c.algorithm = algorithm;
  c.steps = 3000;
  c.model = adders(a);
  const WorldResult result = simulated(c);
  const std::vector<float> x =
      state_of(result, static_cast<std::size_t>(j - 1), "replica.parameters");
  std::size_t stable = 0;
  const std::size_t n = 1050, at = x.size() - n - (j == 4 ? 1 : 0);  // beside the ends' unused ones
  while (stable < n && std::fabs(x[at + stable]) < 1) ++stable;
  for (std::size_t i = stable; i < n; ++i) CHECK(!(std::fabs(x[at + i]) < 1));
  return static_cast<double>(stable) / 500;
}

TEST_CASE("on a quadratic PETRA is stable up to 2 sin(pi / (2 (2 tau + 1))) over the curvature") {
  const double expected[]{0.2411, 0.3473, 0.6180, 2.0};
  for (int j = 1; j <= 4; ++j) {
    CAPTURE(j);
    CHECK(std::fabs(stability_edge("{name: petra, optimizer: {name: sgd, lr: 1}}", j) -
                    expected[j - 1]) < 0.003);
  }
}

TEST_CASE("one batch at a time, every stage is stable as without delay") {
  for (int j = 1; j <= 4; ++j)
    CHECK(std::fabs(
              stability_edge("{name: reversible-backprop, optimizer: {name: sgd, lr: 1}}", j) - 2) <
          0.003);
}

std::int64_t bytes_on(const WorldResult& result, std::size_t rank, const std::string& lane) {
  std::int64_t all = 0;
  for (const std::string& line : result.channels) {
    std::istringstream in(line);
    std::size_t of = 0;
    std::string channel, kind;
    std::int64_t calls = 0, bytes = 0;
    in >> of >> channel >> kind >> calls >> bytes;
    if (of == rank && channel.ends_with(lane)) all += bytes;
  }
  return all;
}

// Stages 2 and 3 of `reversible_mlp`, which are alike: two couplings of two products.
constexpr double boundary = 2 * 4 * 12 * 4;                // bytes: two streams of 4 x 12
constexpr double forward = 2 * 2 * 2.0 * 4 * 12 * 12;      // FLOPs
constexpr double graph = 2 * (boundary + 3 * 4 * 12 * 4);  // bytes: input, f, g and y1 of each
constexpr double inputs = 2 * boundary;
constexpr double stage_parameters = 2 * 2 * (12 * 12 + 12) * 4;  // bytes of parameters

// Table 1 of Rivaud et al. 2024: what a stage j < J takes per batch.
struct Row {
  const char* algorithm;
  double flops;     // in forwards of a stage
  double down = 1;  // boundaries that go back, for one that goes up
  double kept = 0;  // bytes of each of the 2 (J - j) batches under way
  bool versions = false;
  double time = 0;     // in forwards of a stage, with two engines
  double in_turn = 0;  // the same, where one stage works at a time
};
const Row backprop{.algorithm = "{name: none", .flops = 3, .in_turn = 3};
const Row reversible_backprop{
    .algorithm = "{name: reversible-backprop", .flops = 4, .down = 2, .in_turn = 4};
const Row delayed{.algorithm = "{name: delayed-gradients, engines: 2",
                  .flops = 3,
                  .kept = graph,
                  .versions = true,
                  .time = 2};
const Row delayed_checkpoints{
    .algorithm = "{name: delayed-gradients, engines: 2, keep: inputs, versions: false",
    .flops = 4,
    .kept = inputs,
    .time = 3};
const Row of_petra{.algorithm = "{name: petra, engines: 2", .flops = 4, .down = 2, .time = 3};
// Beside the table: PETRA with the parameters of its forwards.
const Row petra_versions{
    .algorithm = "{name: delayed-gradients, engines: 2, keep: nothing, versions: true",
    .flops = 4,
    .down = 2,
    .versions = true,
    .time = 3};
const std::vector<Row> table{backprop, reversible_backprop, delayed, delayed_checkpoints,
                             of_petra, petra_versions};

std::string algorithm_of(const Row& row) {
  return std::string(row.algorithm) + ", optimizer: {name: sgd, lr: 0.001}}";
}

TEST_CASE("the table's times hold: 3 J and 4 J in turn, 2 with graphs, else 3 per batch") {
  for (const Row& row : table) {
    CAPTURE(row.algorithm);
    // The last stage, which keeps its graph, takes 3 of its forwards: here it is a short one.
    const StageCase c = seconds(algorithm_of(row), 5, {1, 1, 1, 1, 0.125});
    CHECK(period(simulated(c)) == (row.time > 0 ? row.time : 4 * row.in_turn + 3 * 0.125));
  }
}

TEST_CASE("the table's messages, FLOPs, parameters and activations hold by the counters") {
  const StageNotes least = notes_of(simulated(reversible_mlp(algorithm_of(of_petra))), 1);
  for (const Row& row : table) {
    CAPTURE(row.algorithm);
    const WorldResult result = simulated(reversible_mlp(algorithm_of(row)));
    std::vector<double> beside;
    for (const std::size_t j : {1, 2}) {
      const double under_way = 2.0 * (4 - static_cast<double>(j));  // 2 (J - j)
      const std::int64_t up = bytes_on(result, j, "activations"),
                         down = bytes_on(result, j, "returned") + bytes_on(result, j, "gradients");
      const StageNotes notes = notes_of(result, j);
      CHECK(static_cast<double>(up) == boundary * 30);
      CHECK(static_cast<double>(down) == row.down * boundary * 30);
      CHECK(notes.flops == row.flops * forward * 30);
      CHECK(notes.parameters == stage_parameters * (1 + (row.versions ? under_way : 0)));
      beside.push_back(notes.activations + notes.messages - row.kept * under_way);
    }
    // Besides, a stage holds what it works on, and messages: no more of it in earlier stages.
    CHECK(beside[0] == beside[1]);
    CHECK(beside[0] <= least.activations + least.messages);
  }
}

TEST_CASE("a stage keeps 2 (J - j) / k older versions of its parameters, rounded up") {
  for (const int k : {1, 2, 3, 4, 5, 6, 7}) {
    CAPTURE(k);
    const WorldResult result = simulated(reversible_mlp(algorithm_of(delayed), k));
    CHECK(notes_of(result, 1).parameters == stage_parameters * (1 + std::ceil(6.0 / k)));
    CHECK(notes_of(result, 2).parameters == stage_parameters * (1 + std::ceil(4.0 / k)));
  }
}

TEST_CASE("PETRA and its relatives have the same bits, traffic and peaks in sim and on cpu") {
  const std::string adamw = ", optimizer: {name: adamw, lr: 0.01}";
  for (const std::string& algorithm :
       {"{name: petra" + adamw + "}", "{name: petra, engines: 2" + adamw + "}",
        "{name: reversible-backprop" + adamw + "}", "{name: delayed-gradients" + adamw + "}",
        "{name: delayed-gradients, keep: inputs, versions: false" + adamw + "}"})
    for (const int micro_batches : {1, 3}) {
      CAPTURE(algorithm);
      StageCase c = reversible_mlp(algorithm, micro_batches);
      const WorldResult sim = run_in_sim(recording(setup_of(c)), training_of(c));
      REQUIRE_MESSAGE(!sim.error, why(sim));
      const WorldResult cpu = run_in_cpu(replaying(setup_of(c), sim), training_of(c));
      REQUIRE_MESSAGE(!cpu.error, why(cpu));
      CHECK(sim.noted() == cpu.noted());
      CHECK(sim.peaks == cpu.peaks);
      CHECK(sim.channels == cpu.channels);
      for (std::size_t r = 0; r < 5; ++r)
        CHECK(sim.notes[r].checkpoints[0] == cpu.notes[r].checkpoints[0]);
      const std::vector<double> losses = notes_of(sim, 4).losses;
      CHECK(losses.size() == 30);
      // And what happened on cpu happens again in sim.
      const WorldResult free = run_in_cpu(recording(setup_of(c)), training_of(c));
      REQUIRE_MESSAGE(!free.error, why(free));
      const WorldResult again = run_in_sim(replaying(setup_of(c), free), training_of(c));
      REQUIRE_MESSAGE(!again.error, why(again));
      CHECK(again.noted() == free.noted());
    }
}

TEST_CASE("one batch at a time the stages train as one rank does") {
  const std::string options = "optimizer: {name: sgd, lr: 0.1}}";
  StageCase stages = reversible_mlp("{name: reversible-backprop, " + options, 2), whole = stages;
  whole.algorithm = "{name: none, " + options;
  whole.stages = 1;
  whole.layers = {};
  const std::vector<double> losses = notes_of(simulated(stages), 4).losses,
                            expected = notes_of(simulated(whole), 0).losses;
  REQUIRE(losses.size() == expected.size());
  for (std::size_t i = 0; i < losses.size(); ++i)
    CHECK(losses[i] == doctest::Approx(expected[i]).epsilon(1e-5));
}

TEST_CASE("with the parameters of their forwards, backwards follow the equation with 2 (J - j)") {
  TrainingCase plain;
  plain.pipeline = 4;
  plain.model.hidden = 12;
  plain.replica.micro_batches = 1;
  plain.replica.optimizer = {.name = "sgd", .lr = 0.05, .weight_decay = 0};
  plain.steps = 20;
  const Reference expected = by_equation(plain, {6, 4, 2, 0});
  StageCase c;
  c.schedule = "petra";
  c.steps = plain.steps;
  c.model = [plain](int) { return plain.make(training_text()); };
  const auto trained = [&c](const std::string& options) {
    c.algorithm = "{name: delayed-gradients, optimizer: {name: sgd, lr: 0.05}" + options + "}";
    const WorldResult result = run_in_cpu(setup_of(c), training_of(c));
    REQUIRE_MESSAGE(!result.error, why(result));
    std::vector<float> all;
    for (std::size_t j = 0; j < 4; ++j) {
      const std::vector<float> stage = state_of(result, j, "replica.parameters");
      all.insert(all.end(), stage.begin(), stage.end());
    }
    return std::pair{all, notes_of(result, 3).losses};
  };
  for (const char* keep : {", keep: graph", ", keep: inputs"}) {
    CHECK(trained(keep).first == expected.parameters);
    CHECK(trained(keep).second == expected.losses);
  }
  // With the current parameters in the backward it is another training.
  CHECK(trained(", keep: inputs, versions: false").first != expected.parameters);
}

TEST_CASE("a checkpoint is refused while batches are between stages, and taken when none are") {
  const StageCase c = seconds(petra(), 2);
  const WorldResult result = run_in_cpu(setup_of(c), [c](Rank& rank, RankNotes& notes) {
    const AlgorithmPlan plan = plan_of(c.algorithm);
    ReplicaOptions options;
    options.executes = false;
    options.schedule = "petra";
    options.optimizer = plan.optimizer.options();
    Replica replica(rank, c.model(1), options);
    const std::unique_ptr<Algorithm> algorithm = plan.make(replica);
    Progress progress(rank, {5, replica.model().micro_batch});
    const auto taken = [&] {
      Checkpoint state;
      try {
        Saver saver(rank, state);
        algorithm->visit(saver);
      } catch (const Error& e) {
        return e.category() == Category::config ? 0.0 : -1.0;
      }
      return 1.0;
    };
    algorithm->step(progress);
    notes.values.push_back(taken());
    while (progress.more()) algorithm->step(progress);
    algorithm->finish();
    progress.finish();
    notes.values.push_back(taken());
  });
  REQUIRE_MESSAGE(!result.error, why(result));
  CHECK(result.notes[0].values == std::vector<double>{0, 1});
  CHECK(result.notes[1].values == std::vector<double>{1, 1});  // the last stage has none under way
}

// The largest difference over the largest value.
double apart(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  float difference = 0, most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::fabs(a[i] - b[i]));
    most = std::max(most, std::fabs(b[i]));
  }
  return static_cast<double>(difference / most);
}

TEST_CASE("replicas of PETRA train as one does on the samples of all") {
  StageCase one = reversible_mlp("{name: petra, optimizer: {name: sgd, lr: 0.1}}"), two = one;
  one.model = [](int micro_batches) { return small_reversible_mlp(micro_batches, 8); };
  two.replicas = 2;
  for (const char* schedule : {"1f1b", "petra"}) {
    CAPTURE(schedule);
    one.schedule = two.schedule = schedule;
    StageCase first_step = one;
    first_step.steps = 1;
    const WorldResult whole = simulated(one), start = simulated(first_step),
                      result = simulated(two);
    std::vector<std::vector<float>> states;
    for (std::size_t r = 0; r < 10; ++r)
      states.push_back(state_of(result, r, "replica.parameters"));
    for (std::size_t j = 0; j < 5; ++j) {
      CAPTURE(j);
      const std::vector<float> expected = state_of(whole, j, "replica.parameters");
      int found = 0;
      for (const std::vector<float>& state : states) found += apart(state, expected) < 1e-5 ? 1 : 0;
      CHECK(found == 2);
      CHECK(apart(state_of(start, j, "replica.parameters"), expected) > 1e-2);  // it has learned
    }
  }
}

TEST_CASE("workers of DiLoCo can be pipelines of PETRA, in equal bits in sim and on cpu") {
  for (const char* inner :
       {"{name: petra", "{name: petra, engines: 2", "{name: reversible-backprop"}) {
    CAPTURE(inner);
    StageCase c = reversible_mlp(std::string("{name: diloco, inner_steps: 4, inner: ") + inner +
                                 ", optimizer: {name: adamw, lr: 0.01}}}");
    c.replicas = 2;
    c.steps = 12;
    const WorldResult sim = run_in_sim(recording(setup_of(c)), training_of(c));
    REQUIRE_MESSAGE(!sim.error, why(sim));
    const WorldResult cpu = run_in_cpu(replaying(setup_of(c), sim), training_of(c));
    REQUIRE_MESSAGE(!cpu.error, why(cpu));
    CHECK(sim.noted() == cpu.noted());
    CHECK(sim.peaks == cpu.peaks);
    // The last step met: both workers have the same parameters.
    int pairs = 0;
    for (std::size_t a = 0; a < 10; ++a)
      for (std::size_t b = a + 1; b < 10; ++b)
        if (state_of(cpu, a, "replica.parameters") == state_of(cpu, b, "replica.parameters"))
          ++pairs;
    CHECK(pairs == 5);
  }
}

TEST_CASE("decoupled greedy learning sends nothing down, and every stage learns") {
  StageCase c;
  c.algorithm = "{name: dgl, optimizer: {name: adamw, lr: 0.01}}";
  c.stages = 3;
  c.steps = 200;
  c.model = [](int micro_batches) {
    return make_mlp({.context = 4,
                     .embedding = 8,
                     .hidden = 24,
                     .layers = 3,
                     .vocabulary = 256,
                     .micro_batch = 8,
                     .micro_batches = micro_batches},
                    test_text());
  };
  const WorldResult sim = simulated(c);
  for (std::size_t j = 0; j < 3; ++j) CHECK(bytes_on(sim, j, "returned") == 0);
  for (std::size_t j = 0; j < 2; ++j) CHECK(bytes_on(sim, j, "activations") == 200 * 8 * 24 * 4);
  for (std::size_t j = 0; j < 3; ++j) {  // by its own loss
    CAPTURE(j);
    const std::vector<double> losses = notes_of(sim, j).losses;
    REQUIRE(losses.size() == 200);
    CHECK(losses.back() < 0.8 * losses.front());
  }
  const WorldResult cpu = run_in_cpu(setup_of(c), training_of(c));
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  CHECK(sim.noted() == cpu.noted());
}

}  // namespace
}  // namespace orrery
