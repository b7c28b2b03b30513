// Gossip on a model whose gradient is a constant of the worker, so that where every worker is at
// each of its steps can be compared with theory.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "tests/support/quadratic.hpp"

namespace orrery {

// On worker i: loss(x) = x_0, gradient of x_0 is drift[i]. So the losses that a worker notes are
// its x at the start of each of its gradients.
struct Drift {
  std::vector<float> drift;
  std::vector<double> seconds{1e-3};  // of a gradient, by worker; the last for all others
};

class DriftBlock : public Block {
 public:
  explicit DriftBlock(Drift d) : d_(std::move(d)) {
    parameters_ = {{"x", 1, 0, 0.0, false, 0}};
    computes_loss_ = true;
  }
  void prepare(Rank& rank) override {
    const auto id = static_cast<std::size_t>(rank.id());
    const double seconds = d_.seconds[std::min(id, d_.seconds.size() - 1)];
    const float drift = d_.drift[id % d_.drift.size()];
    forward_ = rank.prepare(Kernel::custom(
        "place", {Role::read, Role::update},
        [](std::span<const View> v) { floats(v[1])[0] += floats(v[0])[0]; }, Flops(0), Bytes(0),
        Seconds(seconds / 2)));
    backward_ = rank.prepare(Kernel::custom(
        "drift", {Role::read, Role::update},
        [drift](std::span<const View> v) { floats(v[1])[0] += drift; }, Flops(0), Bytes(0),
        Seconds(seconds / 2)));
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(forward_, {p.parameters, p.loss});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(backward_, {p.parameters, p.gradients});
  }

 private:
  Drift d_;
  Prepared forward_, backward_;
};

inline AlgorithmCase drifting(const std::string& algorithm, const Drift& d, std::int64_t steps) {
  AlgorithmCase c;
  c.algorithm = algorithm;
  c.replicas = static_cast<int>(d.drift.size());
  c.steps = steps;
  c.micro_batches = 1;
  c.model = [d](Rank&, int) {
    Model model;
    model.name = "drift";
    model.text = test_text();
    model.blocks.push_back(std::make_shared<DriftBlock>(d));
    return model;
  };
  return c;
}

// Messages and exchanges take next to no time beside a gradient.
inline WorldSetup swift(const AlgorithmCase& c, std::uint64_t seed) {
  WorldSetup setup = setup_of(c);
  setup.options.seed = seed;
  setup.machine.alpha = Time(10'000);
  setup.machine.host.control_latency = Time(10'000);
  return setup;
}

// By worker, its places at the start of its steps.
inline std::vector<std::vector<double>> places(const WorldResult& result) {
  std::vector<std::vector<double>> all;
  for (const RankNotes& notes : result.notes)
    all.emplace_back(notes.values.begin() + 1, notes.values.end());
  return all;
}

}  // namespace orrery
