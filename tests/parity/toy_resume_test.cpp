// A run that is stopped after any step and goes on in a new world, through Archive visits: the same
// final bits in both worlds, and in sim the same times.
//
// README.md names the breaks of the product by which it was seen to fail.
#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/support/worlds.hpp"

using namespace orrery;

namespace {

constexpr std::int64_t length = 12;
constexpr int steps = 5;

// Momentum SGD on a toy loss with an all_reduce per step; how long a step takes is drawn from the
// rank's own numbers, so that their position is part of the state.
class Trainer {
 public:
  explicit Trainer(Rank& rank)
      : rank_(rank),
        compute_(rank.stream("compute")),
        comm_(rank.stream("comm")),
        data_(rank.channel(Axis::replicate, "gradients")),
        x_(toy::vector(rank, compute_, length, "x")),
        momentum_(toy::vector(rank, compute_, length, "momentum", Label::optimizer)) {
    TensorOptions always;
    always.values = Values::always;
    norm_ = rank.allocate(compute_, Label::optimizer, 1, Dtype::fp32, always);
    toy::fill(rank, compute_, x_, 1);
    toy::fill(rank, compute_, momentum_, 0);
    compute_.upload(norm_, {1.0});
    rank.wait(compute_.record());
  }

  void step() {
    const double seconds = 1e-6 * (1 + std::floor(8 * random().uniform()));
    const Tensor gradient = toy::vector(rank_, compute_, length, "gradient", Label::gradients);
    const auto seen = static_cast<float>(rank_.id() + 2 * step_);
    const Prepared backward =
        toy::kernel(rank_, "backward", Seconds(seconds), {Role::read, Role::write},
                    [seen](std::span<const View> v) {
                      for (std::int64_t i = 0; i < v[0].elements; ++i)
                        toy::floats(v[1])[i] = 0.7F * toy::floats(v[0])[i] - 0.1F * seen;
                    });
    compute_.launch(backward, {x_, gradient});
    comm_.after(compute_.record());
    comm_.all_reduce(gradient, Reduce::mean, data_);
    compute_.after(comm_.record());
    const Prepared update = toy::kernel(
        rank_, "update", Seconds(1e-6), {Role::update, Role::update, Role::read, Role::update},
        [](std::span<const View> v) {
          for (std::int64_t i = 0; i < v[0].elements; ++i) {
            toy::floats(v[1])[i] = 0.9F * toy::floats(v[1])[i] + toy::floats(v[2])[i];
            toy::floats(v[0])[i] -= 0.05F * toy::floats(v[1])[i] / toy::floats(v[3])[0];
          }
          toy::floats(v[3])[0] = 1.0F + toy::floats(v[0])[0] * toy::floats(v[0])[0];
        });
    compute_.launch(update, {x_, momentum_, gradient, norm_});
    compute_.mark_step(step_ - first_);
    rank_.wait(compute_.record());
    ++step_;
  }

  void visit(Archive& archive) {
    archive.field("step", step_);
    archive.field("x", x_);
    {
      const Archive::Scope scope(archive, "optimizer");
      archive.field("momentum", momentum_);
      archive.field("norm", norm_);
    }
    auto position = static_cast<std::int64_t>(random().position());
    archive.field("random", position);
    random().seek(static_cast<std::uint64_t>(position));
  }

  void resumed() { first_ = step_; }
  std::int64_t step_number() const { return step_; }

 private:
  Random& random() { return rank_.rng(Purpose::jitter); }
  Rank& rank_;
  Stream &compute_, &comm_;
  Channel& data_;
  Tensor x_, momentum_, norm_;
  std::int64_t step_ = 0, first_ = 0;
};

// From the checkpoint, if one is given, to step `last`; saves the state after it.
SharedProgram train(const WorldResult* from, int last) {
  return [from, last](Rank& rank, RankNotes& notes) {
    Trainer trainer(rank);
    if (from != nullptr) {
      Loader loader(rank, from->notes[static_cast<std::size_t>(rank.id())].checkpoints.at(0));
      trainer.visit(loader);
      loader.finish();
      trainer.resumed();
    }
    while (trainer.step_number() < last) trainer.step();
    Saver saver(rank, notes.checkpoints.emplace_back());
    trainer.visit(saver);
  };
}

using Runner = std::function<WorldResult(const WorldSetup&, const SharedProgram&)>;

void resume_after_every_step(const Runner& run, bool timed) {
  const WorldSetup setup = setup_for(3);
  const WorldResult whole = run(setup, train(nullptr, steps));
  REQUIRE_FALSE(whole.error.has_value());
  for (int stop = 0; stop <= steps; ++stop) {
    CAPTURE(stop);
    const WorldResult first = run(setup, train(nullptr, stop));
    const WorldResult second = run(setup, train(&first, steps));
    REQUIRE_MESSAGE(!second.error, why(second));
    for (std::size_t rank = 0; rank < 3; ++rank) {
      REQUIRE(second.notes[rank].checkpoints == whole.notes[rank].checkpoints);
      if (!timed) continue;
      const auto& all = whole.steps[rank];
      for (std::size_t i = 0; i < second.steps[rank].size(); ++i) {
        const auto before = [&](const std::vector<std::uint64_t>& marks, std::size_t at) {
          return at == 0 ? std::uint64_t{0} : marks[at - 1];
        };
        const std::size_t at = i + static_cast<std::size_t>(stop);
        REQUIRE(second.steps[rank][i] - before(second.steps[rank], i) == all[at] - before(all, at));
      }
    }
  }
}

// The slices of a trace that start at or after `from`, moved to start at 0.
std::vector<std::string> slices(const WorldResult& result, std::uint64_t from) {
  std::vector<std::string> found;
  const nlohmann::json trace = nlohmann::json::parse(result.trace);
  for (const auto& event : trace.is_array() ? trace : trace["traceEvents"]) {
    if (event.value("ph", "") != "X") continue;
    const auto start = static_cast<std::uint64_t>(std::llround(event["ts"].get<double>() * 1e6));
    if (start < from) continue;
    found.push_back(std::to_string(start - from) + " " + event["dur"].dump() + " " +
                    event["pid"].dump() + " " + event["tid"].dump() + " " + event["name"].dump());
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

TEST_CASE("a run stopped after any step and resumed gives the same bits on the CPU") {
  resume_after_every_step([](const auto& s, const auto& p) { return run_in_cpu(s, p); }, false);
}

TEST_CASE("a run stopped after any step and resumed gives the same bits and step times in sim") {
  resume_after_every_step(run_in_sim, true);
}

TEST_CASE("a run stopped in one world goes on in the other") {
  const WorldSetup setup = setup_for(3);
  const WorldResult whole = run_in_cpu(setup, train(nullptr, steps));
  const WorldResult first = run_in_sim(setup, train(nullptr, 2));
  const WorldResult second = run_in_cpu(setup, train(&first, 4));
  const WorldResult third = run_in_sim(setup, train(&second, steps));
  for (std::size_t rank = 0; rank < 3; ++rank)
    CHECK(third.notes[rank].checkpoints == whole.notes[rank].checkpoints);
}

TEST_CASE("the trace of a resumed run is the rest of the whole run's trace") {
  WorldSetup setup = setup_for(1);  // alone: its steps end at one instant for all ranks
  setup.trace = true;
  const WorldResult whole = run_in_sim(setup, train(nullptr, steps));
  const WorldResult first = run_in_sim(setup, train(nullptr, 2));
  const WorldResult second = run_in_sim(setup, train(&first, steps));
  const std::vector<std::string> rest = slices(whole, whole.steps[0][1]);
  const std::vector<std::string> resumed = slices(second, 0);
  REQUIRE(rest.size() >= 6);
  for (const std::string& slice : rest)
    CHECK(std::find(resumed.begin(), resumed.end(), slice) != resumed.end());
}

TEST_CASE("checkpoints of both worlds are the same, and survive the way through a file") {
  const WorldResult sim = run_in_sim(setup_for(3), train(nullptr, steps));
  const WorldResult cpu = run_in_cpu(setup_for(3), train(nullptr, steps));
  for (std::size_t rank = 0; rank < 3; ++rank)
    CHECK(sim.notes[rank].checkpoints == cpu.notes[rank].checkpoints);
  CHECK(sim.peaks == cpu.peaks);
  CHECK(sim.channels == cpu.channels);
}

TEST_CASE("a run without values is resumed at the same times") {
  WorldSetup setup = setup_for(2);
  setup.options.real_values = false;
  const WorldResult whole = run_in_sim(setup, train(nullptr, steps));
  REQUIRE_MESSAGE(!whole.error, why(whole));
  const WorldResult first = run_in_sim(setup, train(nullptr, 3));
  const WorldResult second = run_in_sim(setup, train(&first, steps));
  REQUIRE_FALSE(second.error.has_value());
  CHECK(second.steps[0].back() == whole.steps[0][4] - whole.steps[0][2]);
  CHECK(second.peaks == whole.peaks);
}
