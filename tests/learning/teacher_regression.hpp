// Regression on a teacher: a network of 16 inputs, 32 tanh and one output learns what another of
// its kind, which gave it labels with a little noise, does. Small enough that thousands of steps of
// eight workers take a second.
#pragma once

#include <doctest/doctest.h>

#include <array>
#include <cmath>

#include "algorithms/codecs/view.hpp"
#include "tests/support/algorithm_run.hpp"

namespace orrery {

struct Teacher {
  static constexpr std::size_t inputs = 16, hidden = 32;
  std::vector<double> first, bias, second;  // [inputs][hidden], [hidden], [hidden]
  Teacher() {
    const Philox random(11, Purpose::user, 0);
    std::uint64_t n = 0;
    for (std::size_t i = 0; i < inputs * hidden; ++i) first.push_back(random.normal(n++) / 4);
    for (std::size_t i = 0; i < hidden; ++i) bias.push_back(random.normal(n++) / 2);
    for (std::size_t i = 0; i < hidden; ++i) second.push_back(random.normal(n++) / 4);
  }
  double operator()(std::span<const float> x) const {
    double y = 0;
    for (std::size_t h = 0; h < hidden; ++h) {
      double z = bias[h];
      for (std::size_t i = 0; i < inputs; ++i)
        z += static_cast<double>(x[i]) * first[i * hidden + h];
      y += second[h] * std::tanh(z);
    }
    return y;
  }
};
inline const Teacher& teacher() {
  static const Teacher one;
  return one;
}

// Inputs are bytes of a text that no byte foretells: uniform, with variance 1. Unlike workers add
// an offset of their own.
inline std::shared_ptr<const std::string> random_bytes() {
  static const auto text = [] {
    std::string all;
    const Philox random(12, Purpose::user, 0);
    for (std::uint64_t i = 0; i < (1U << 18); ++i)
      for (std::uint32_t bits = random.bits(i), b = 0; b < 4; ++b, bits >>= 8)
        all.push_back(static_cast<char>(bits & 255));
    return std::make_shared<const std::string>(all);
  }();
  return text;
}
using Offsets = std::array<float, Teacher::inputs>;
inline Offsets offsets_of(int worker, double unlike) {
  Offsets offsets{};
  const Philox random(13, Purpose::user, static_cast<std::uint32_t>(worker));
  for (std::size_t i = 0; i < offsets.size(); ++i)
    offsets[i] = static_cast<float>(unlike * random.normal(i));
  return offsets;
}
inline float input_of(std::int32_t byte) {
  return (static_cast<float>(byte) - 127.5F) / 128 * std::sqrt(3.0F);
}

constexpr double label_noise = 0.1;  // standard deviation

// What both blocks know of a micro-batch.
struct Samples {
  std::size_t batch = 1;
  double unlike = 0;
  Offsets offsets{};
  // x[batch][inputs] of the tokens.
  std::vector<float> inputs(const View& tokens) const {
    const auto* bytes = static_cast<const std::int32_t*>(tokens.data);
    std::vector<float> x(batch * Teacher::inputs);
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = input_of(bytes[i]) + offsets[i % Teacher::inputs];
    return x;
  }
  // With noise that belongs to the sample.
  float label(std::span<const float> x) const {
    std::uint32_t mixed = 2166136261U;
    for (const float each : x)
      mixed = (mixed ^ static_cast<std::uint32_t>(std::lround(each * 1e4))) * 16777619U;
    return static_cast<float>(teacher()(x) +
                              label_noise * Philox(14, Purpose::user, 0).normal(mixed));
  }
};

class TanhLayer : public Block {
 public:
  TanhLayer(Samples samples, double seconds) : s_(samples), seconds_(seconds) {
    parameters_ = {{"weight", Teacher::inputs * Teacher::hidden, 0.25, 0, true, Teacher::hidden},
                   {"bias", Teacher::hidden, 0, 0, false}};
    output_elements_ = saved_elements_ = static_cast<std::int64_t>(s_.batch * Teacher::hidden);
  }
  void prepare(Rank& rank) override {
    constexpr std::size_t n = Teacher::inputs, h = Teacher::hidden;
    s_.offsets = offsets_of(rank.id(), s_.unlike);
    forward_ = rank.prepare(Kernel::custom(
        "tanh layer", {Role::read, Role::read, Role::write, Role::write},
        [s = s_](std::span<const View> v) {
          const auto p = floats(v[0]), saved = floats(v[2]), y = floats(v[3]);
          const std::vector<float> x = s.inputs(v[1]);
          for (std::size_t b = 0; b < s.batch; ++b)
            for (std::size_t j = 0; j < h; ++j) {
              float z = p[n * h + j];
              for (std::size_t i = 0; i < n; ++i) z += x[b * n + i] * p[i * h + j];
              y[b * h + j] = saved[b * h + j] = std::tanh(z);
            }
        },
        Flops(0), Bytes(0), Seconds(seconds_ / 4)));
    backward_ = rank.prepare(Kernel::custom(
        "tanh layer gradient", {Role::read, Role::read, Role::read, Role::update},
        [s = s_](std::span<const View> v) {
          const auto y = floats(v[1]), dy = floats(v[2]), g = floats(v[3]);
          const std::vector<float> x = s.inputs(v[0]);
          for (std::size_t b = 0; b < s.batch; ++b)
            for (std::size_t j = 0; j < h; ++j) {
              const float dz = dy[b * h + j] * (1 - y[b * h + j] * y[b * h + j]);
              g[n * h + j] += dz;
              for (std::size_t i = 0; i < n; ++i) g[i * h + j] += x[b * n + i] * dz;
            }
        },
        Flops(0), Bytes(0), Seconds(seconds_ / 4)));
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(forward_, {p.parameters, p.tokens, p.saved, p.output});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(backward_, {p.tokens, p.saved, p.d_output, p.gradients});
  }

 private:
  Samples s_;
  double seconds_;
  Prepared forward_, backward_;
};

// Half of the mean squared error.
class RegressionHead : public Block {
 public:
  RegressionHead(Samples samples, int micro_batches, double seconds)
      : s_(samples), micro_batches_(micro_batches), seconds_(seconds) {
    parameters_ = {{"weight", Teacher::hidden, 1 / std::sqrt(32.0), 0, true},
                   {"bias", 1, 0, 0, false}};
    kept_elements_ = static_cast<std::int64_t>(s_.batch);
    computes_loss_ = true;
  }
  void prepare(Rank& rank) override {
    constexpr std::size_t n = Teacher::inputs, h = Teacher::hidden;
    s_.offsets = offsets_of(rank.id(), s_.unlike);
    const auto scale = static_cast<float>(1.0 / (static_cast<double>(s_.batch) * micro_batches_));
    forward_ = rank.prepare(Kernel::custom(
        "squared error", {Role::read, Role::read, Role::read, Role::write, Role::update},
        [s = s_, scale](std::span<const View> v) {
          const auto p = floats(v[0]), y = floats(v[1]), d = floats(v[3]);
          const std::vector<float> x = s.inputs(v[2]);
          double sum = 0;
          for (std::size_t b = 0; b < s.batch; ++b) {
            float out = p[h];
            for (std::size_t j = 0; j < h; ++j) out += y[b * h + j] * p[j];
            const float error = out - s.label(std::span(x).subspan(b * n, n));
            sum += 0.5 * static_cast<double>(error) * error;
            d[b] = scale * error;
          }
          floats(v[4])[0] += scale * static_cast<float>(sum);
        },
        Flops(0), Bytes(0), Seconds(seconds_ / 4)));
    backward_ = rank.prepare(Kernel::custom(
        "squared error gradient", {Role::read, Role::read, Role::read, Role::write, Role::update},
        [s = s_](std::span<const View> v) {
          const auto p = floats(v[0]), y = floats(v[1]), d = floats(v[2]), dy = floats(v[3]),
                     g = floats(v[4]);
          for (std::size_t b = 0; b < s.batch; ++b) {
            g[h] += d[b];
            for (std::size_t j = 0; j < h; ++j) {
              dy[b * h + j] = d[b] * p[j];
              g[j] += d[b] * y[b * h + j];
            }
          }
        },
        Flops(0), Bytes(0), Seconds(seconds_ / 4)));
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(forward_, {p.parameters, p.input, p.tokens, p.kept, p.loss});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(backward_, {p.parameters, p.input, p.kept, p.d_input, p.gradients});
  }

 private:
  Samples s_;
  int micro_batches_;
  double seconds_;
  Prepared forward_, backward_;
};

// Of eight workers: 8 samples each per step, in two micro-batches.
struct Regression {
  std::string algorithm;  // YAML
  std::int64_t steps = 3000;
  double unlike = 0;             // workers' inputs
  double seconds = 1e-3;         // of a micro-batch
  std::int64_t stop_after = -1;  // the state after this step instead of the last
};

// What could still be learned, after training from the initial parameters and in the order of
// samples of `seed`: the expected squared error on labels without noise of inputs of all workers
// that nobody saw, by the mean of the workers' parameters.
inline double excess_loss(const Regression& r, std::uint64_t seed) {
  AlgorithmCase c;
  c.algorithm = r.algorithm;
  c.replicas = 8;
  c.steps = r.steps;
  c.stop = r.stop_after;
  c.micro_batches = 2;
  c.model = [r](Rank&, int micro_batches) {
    const Samples samples{4, r.unlike};
    Model model;
    model.name = "regression";
    model.micro_batch = static_cast<int>(samples.batch);
    model.tokens_per_sample = Teacher::inputs;
    model.text = random_bytes();
    model.blocks.push_back(std::make_shared<TanhLayer>(samples, r.seconds));
    model.blocks.push_back(std::make_shared<RegressionHead>(samples, micro_batches, r.seconds));
    return model;
  };
  WorldSetup setup = setup_of(c);
  setup.options.seed = seed;
  const WorldResult trained = run_in_sim(setup, training_of(c));
  REQUIRE_MESSAGE(!trained.error, why(trained));
  constexpr std::size_t n = Teacher::inputs, h = Teacher::hidden;
  std::vector<double> p(n * h + 2 * h + 1);
  for (std::size_t rank = 0; rank < 8; ++rank) {
    const bool plain = trained.notes[rank].checkpoints[0].fields.contains("replica.parameters");
    const std::vector<float> its =
        state_of(trained, rank, plain ? "replica.parameters" : "decoupled.parameters");
    for (std::size_t i = 0; i < p.size(); ++i) p[i] += static_cast<double>(its[i]) / 8;
  }
  const Philox random(15, Purpose::user, 0);
  constexpr std::size_t tests = 4096;
  double sum = 0;
  for (std::size_t t = 0; t < tests; ++t) {
    const Offsets offsets = offsets_of(static_cast<int>(t % 8), r.unlike);
    std::vector<float> x(n);
    for (std::size_t i = 0; i < n; ++i)
      x[i] = input_of(static_cast<std::int32_t>(random.bits(t * n + i) & 255)) + offsets[i];
    double y = p[n * h + 2 * h];
    for (std::size_t j = 0; j < h; ++j) {
      double z = p[n * h + j];
      for (std::size_t i = 0; i < n; ++i) z += static_cast<double>(x[i]) * p[i * h + j];
      y += p[n * h + h + j] * std::tanh(z);
    }
    sum += std::pow(y - teacher()(x), 2);
  }
  return sum / tests;
}

}  // namespace orrery
