// LOpt-A and LAgg-A: what the network sees, what it makes of it, and who may stand for whom.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "algorithms/learned/features.hpp"
#include "tests/parity/learned_network.hpp"
#include "tests/parity/results.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/quadratic.hpp"

namespace orrery {
namespace {

constexpr int averaged_workers = 4;
const std::string averaging_file =
    std::string(ORRERY_SOURCE_DIR) + "/scenarios/learned/averaging.yaml";

// Workers of a quadratic in matrices and vectors; `order[rank]`: whose points and curvatures.
AlgorithmCase unlike_workers(const std::string& algorithm, std::vector<int> order,
                             std::int64_t columns = 5) {
  Quadratic q;
  q.elements = 30;
  q.blocks = 2;
  q.columns = columns;
  const auto who = [order](int rank) { return order[static_cast<std::size_t>(rank)]; };
  q.curvature = [who](int rank, std::size_t j) {
    return 0.2F + 0.1F * static_cast<float>(j % 4) + 0.1F * static_cast<float>(who(rank));
  };
  q.target = [who](int rank, std::size_t j) {
    return static_cast<float>(
        Philox(5, Purpose::user, static_cast<std::uint32_t>(who(rank))).normal(j));
  };
  AlgorithmCase c;
  c.algorithm = algorithm;
  c.replicas = averaged_workers;
  c.steps = 9;
  c.micro_batches = 1;
  c.model = quadratic(q);
  return c;
}

std::string algorithm(const std::string& name, const std::string& weights,
                      const std::string& more = "") {
  return "{name: " + name + ", inner_steps: 3, weights: " + weights +
         ", inner: {optimizer: {name: sgd, lr: 0.3}}" + more + "}";
}

// What a worker does of `steps` steps of SGD from x on a quadratic.
double sgd_from(double x, double curvature, double target, int steps) {
  for (int h = 0; h < steps; ++h) x -= 0.3 * curvature * (x - target);
  return x;
}

}  // namespace

TEST_CASE("the weights written by hand make a meeting a normalised step to the workers' mean") {
  for (const std::string name : {"lopt-a", "lagg-a"}) {
    const bool mean_first = name == "lopt-a";
    const std::string file =
        mean_first ? averaging_file
                   : std::string(ORRERY_SOURCE_DIR) + "/scenarios/learned/averaging-4-workers.yaml";
    AlgorithmCase c = unlike_workers(algorithm(name, file), {0, 1, 2, 3});
    c.steps = 3;
    const std::vector<float> x = weights_after(c);
    for (std::size_t block = 0; block < 2; ++block) {
      // Delta_k, and the mean of Deltas each over its root mean square (lopt-a: of the mean).
      std::vector<std::vector<double>> deltas(mean_first ? 1 : averaged_workers,
                                              std::vector<double>(15));
      for (int k = 0; k < averaged_workers; ++k)
        for (std::size_t i = 0; i < 15; ++i) {
          const std::size_t j = block * 15 + i;
          const double a = 0.2 + 0.1 * static_cast<double>(j % 4) + 0.1 * k;
          const double b =
              static_cast<float>(Philox(5, Purpose::user, static_cast<std::uint32_t>(k)).normal(j));
          deltas[mean_first ? 0 : static_cast<std::size_t>(k)][i] +=
              (sgd_from(1, a, b, 3) - 1) / (mean_first ? averaged_workers : 1);
        }
      std::vector<double> step(15);
      for (const std::vector<double>& delta : deltas) {
        double squares = 0;
        for (const double each : delta) squares += each * each;
        for (std::size_t i = 0; i < 15; ++i)
          step[i] += delta[i] / std::sqrt(1e-5 + squares / 15) / static_cast<double>(deltas.size());
      }
      for (std::size_t i = 0; i < 15; ++i)
        CHECK(x[block * 15 + i] == doctest::Approx(1 + 0.01 * step[i]).epsilon(2e-6));
    }
  }
}

TEST_CASE("permuting the workers leaves LOpt-A as it is and changes LAgg-A") {
  const WeightsFile one(random_network(1)), four(random_network(averaged_workers));
  const std::vector<int> straight{0, 1, 2, 3}, permuted{2, 0, 3, 1};
  const auto changed = [&](const std::string& yaml) {
    return largest_difference(weights_after(unlike_workers(yaml, straight)),
                              weights_after(unlike_workers(yaml, permuted)));
  };
  CHECK(changed(algorithm("lopt-a", one.path())) < 1e-6);
  CHECK(changed(algorithm("lagg-a", four.path())) > 1e-3);
}

TEST_CASE("LAgg-A with a shard on each worker is LAgg-A with all Deltas on all of them") {
  const WeightsFile four(random_network(averaged_workers));
  const std::string sharded = algorithm("lagg-a", four.path());
  const std::string gathered = algorithm("lagg-a", four.path(), ", sharded: false");
  // 30 parameters in matrices or vectors do not divide by 4: shards cut tensors and end in padding.
  for (const std::int64_t columns : {5, 0})
    CHECK(largest_difference(weights_after(unlike_workers(sharded, {0, 1, 2, 3}, columns)),
                             weights_after(unlike_workers(gathered, {0, 1, 2, 3}, columns))) <
          1e-6);
  AlgorithmCase mlp;  // with both
  mlp.algorithm = sharded;
  const std::vector<float> x = weights_after(mlp);
  mlp.algorithm = gathered;
  CHECK(largest_difference(x, weights_after(mlp)) < 2e-5);
}

TEST_CASE("what a network sees of the past is kept when a training stops") {
  const WeightsFile one(random_network(1)), four(random_network(averaged_workers));
  for (const std::string& yaml :
       {algorithm("lopt-a", one.path()), algorithm("lagg-a", four.path())})
    for (const std::int64_t columns : {5, 0}) {
      AlgorithmCase whole = unlike_workers(yaml, {0, 1, 2, 3}, columns);
      const std::vector<float> at_once = weights_after(whole);
      AlgorithmCase first = whole;
      first.stop = 4;
      const WorldResult stopped = run_in_sim(setup_of(first), training_of(first));
      REQUIRE_MESSAGE(!stopped.error, why(stopped));
      whole.resume = &stopped;
      CHECK(weights_after(whole) == at_once);
    }
}

namespace {

// Metz et al.'s features of one tensor in doubles, whole matrices at a time.
class AveragedReference {
 public:
  AveragedReference(std::size_t rows, std::size_t columns)  // a vector: 1 row
      : rows_(rows), columns_(columns), n_(rows * columns) {
    for (auto* each : {&m_, &rowwise_, &columnwise_}) each->assign(3, std::vector<double>(n_));
    v_.resize(n_);
  }
  // x[f][i] before a step, each over its root mean square; t: meetings before.
  std::vector<std::vector<double>> features(const std::vector<double>& p,
                                            const std::vector<double>& g, double t) {
    std::vector<std::vector<double>> all{g, p};
    const bool vector = rows_ == 1;
    for (std::size_t d = 0; d < 3; ++d) move(m_[d], decays[d], g);
    std::vector<double> squares(n_);
    for (std::size_t i = 0; i < n_; ++i) squares[i] = g[i] * g[i];
    move(v_, 0.999, squares);
    for (std::size_t d = 0; d < 3; ++d) {
      move(rowwise_[d], decays[d], vector ? squares : means(squares, true));
      move(columnwise_[d], decays[d], vector ? squares : means(squares, false));
    }
    const auto add = [&](auto value) {
      std::vector<double>& x = all.emplace_back(n_);
      for (std::size_t i = 0; i < n_; ++i) x[i] = value(i);
    };
    const auto each = [&](auto value) {
      for (std::size_t d = 0; d < 3; ++d) add([&](std::size_t i) { return value(d, i); });
    };
    each([&](std::size_t d, std::size_t i) { return m_[d][i]; });
    add([&](std::size_t i) { return v_[i]; });
    each([&](std::size_t d, std::size_t i) { return m_[d][i] / std::sqrt(v_[i] + 1e-6); });
    add([&](std::size_t i) { return 1 / std::sqrt(v_[i] + 1e-6); });
    const auto factor = [&](std::size_t d, std::size_t i) {
      const double mean =
          std::accumulate(rowwise_[d].begin(), rowwise_[d].end(), 0.0) / static_cast<double>(n_);
      return 1 / std::sqrt(std::max(rowwise_[d][i] / (mean + 1e-9), 1e-9)) /
             std::sqrt(std::max(columnwise_[d][i], 1e-9));
    };
    each([&](std::size_t d, std::size_t i) {
      return vector ? g[i] / std::sqrt(rowwise_[d][i] + 1e-9) : g[i] * factor(d, i);
    });
    each([&](std::size_t d, std::size_t i) { return rowwise_[d][i]; });
    each([&](std::size_t d, std::size_t i) { return columnwise_[d][i]; });
    each([&](std::size_t d, std::size_t i) { return 1 / std::sqrt(rowwise_[d][i] + 1e-8); });
    each([&](std::size_t d, std::size_t i) { return 1 / std::sqrt(columnwise_[d][i] + 1e-8); });
    each([&](std::size_t d, std::size_t i) {
      return vector ? m_[d][i] / std::sqrt(rowwise_[d][i] + 1e-6) : m_[d][i] * factor(d, i);
    });
    for (std::vector<double>& x : all) {
      double mean = 0;
      for (const double value : x) mean += value * value / static_cast<double>(n_);
      for (double& value : x) value /= std::sqrt(1e-5 + mean);
    }
    for (const double scale : {1., 3., 10., 30., 100., 300., 1e3, 3e3, 1e4, 3e4, 1e5})
      add([&](std::size_t) { return std::tanh(t / scale - 1); });
    return all;
  }

 private:
  static constexpr double decays[]{0.9, 0.99, 0.999};
  static void move(std::vector<double>& x, double decay, const std::vector<double>& to) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = decay * x[i] + (1 - decay) * to[i];
  }
  // Over the longer dimension (`longer`) or the shorter, at every element.
  std::vector<double> means(const std::vector<double>& x, bool longer) const {
    const bool over_columns = longer == (rows_ <= columns_);
    std::vector<double> out(n_);
    for (std::size_t i = 0; i < n_; ++i)
      for (std::size_t j = 0; j < n_; ++j)
        if (over_columns ? i / columns_ == j / columns_ : i % columns_ == j % columns_)
          out[i] += x[j] / static_cast<double>(over_columns ? columns_ : rows_);
    return out;
  }
  std::size_t rows_, columns_, n_;
  std::vector<std::vector<double>> m_, rowwise_, columnwise_;
  std::vector<double> v_;
};

}  // namespace

TEST_CASE("the 39 features of wide and tall matrices and of vectors are those of small_fc_lopt") {
  // One layer: d is a sum of all features, each with a weight of its own, and s is 0.
  std::string rows;
  for (int f = 0; f < 39; ++f) rows += fmt::format("{}[{}, 0]", f == 0 ? "" : ", ", 1 + 0.1 * f);
  const WeightsFile sum("step: 0.01\nlayers: [{weights: [" + rows + "], biases: [0.5, 0]}]");
  for (const std::size_t columns : {std::size_t{10}, std::size_t{3}, std::size_t{0}}) {
    CAPTURE(columns);
    Quadratic q;
    q.elements = 30;
    q.columns = static_cast<std::int64_t>(columns);
    q.curvature = [](int, std::size_t j) { return 0.5F + 0.02F * static_cast<float>(j); };
    q.target = [](int, std::size_t j) { return static_cast<float>(j % 7) - 2; };
    AlgorithmCase c;
    c.algorithm = algorithm("lopt-a", sum.path());
    c.replicas = 1;
    c.steps = 9;
    c.micro_batches = 1;
    c.model = quadratic(q);
    const std::vector<float> x = weights_after(c);
    AveragedReference reference(columns == 0 ? 1 : 30 / columns, columns == 0 ? 30 : columns);
    std::vector<double> theta(30, 1.0), delta(30);
    for (int t = 0; t < 3; ++t) {
      for (std::size_t j = 0; j < 30; ++j)
        delta[j] = sgd_from(theta[j], static_cast<double>(q.curvature(0, j)),
                            static_cast<double>(q.target(0, j)), 3) -
                   theta[j];
      const auto features = reference.features(theta, delta, t);
      REQUIRE(features.size() == 39);
      for (std::size_t j = 0; j < 30; ++j) {
        double d = 0.5;
        for (std::size_t f = 0; f < 39; ++f)
          d += (1 + 0.1 * static_cast<double>(f)) * features[f][j];
        theta[j] -= 0.01 * d;
      }
    }
    for (std::size_t j = 0; j < 30; ++j) CHECK(x[j] == doctest::Approx(theta[j]).epsilon(1e-4));
  }
}

TEST_CASE("weights that do not fit are refused with what is wrong in their file") {
  const auto said = [](const std::string& name, const std::string& text) {
    const WeightsFile file(text);
    const auto error = error_of([&] { plan_of(algorithm(name, file.path())); });

    CHECK(error.category() == Category::config);
    return std::string(error.what());
  };
  const auto has = [](const std::string& text, const std::string& part) {
    CHECK_MESSAGE(text.find(part) != std::string::npos, text);
  };
  has(said("lopt-a", "layers: [{weights: [[1, 2]], biases: [0, 0]}]"),
      "layer 1 has weights for 1 inputs, not 39");
  has(said("lopt-a", "layers:\n" + layer(39, 3, 1, 1)), "the last layer has 3 outputs");
  has(said("lopt-a", "layers:\n" + layer(39, 4, 1, 1) + layer(5, 2, 1, 1)),
      "layer 2 has weights for 5 inputs, not 4");
  has(said("lopt-a", "momentum_decays: [0.9]\nlayers:\n" + layer(39, 2, 1, 1)), "1 decays");
  has(said("lopt-a", "layer: []"), "did you mean 'layers'?");
  has(said("lopt-a", "layers: []"), "layers");
  has(said("lopt-a", "steps: [\n"), "YAML");
  CHECK_THROWS_AS(plan_of("{name: lopt-a}"), ConfigError);
  CHECK_THROWS_AS(plan_of(algorithm("lopt-a", "/nowhere.yaml")), ConfigError);
}

TEST_CASE("weights for other workers are refused before anything runs") {
  const WeightsFile one(random_network(1)), four(random_network(averaged_workers));
  CHECK_THROWS_AS(plan_of(algorithm("lopt-a", four.path())).divide(4), Error);
  CHECK_THROWS_AS(plan_of(algorithm("lagg-a", one.path())).divide(4), Error);
  CHECK_THROWS_AS(plan_of(algorithm("lagg-a", four.path())).divide(3), Error);
  CHECK(plan_of(algorithm("lagg-a", four.path())).divide(4).island == 4);
  CHECK(plan_of(algorithm("lopt-a", one.path())).divide(3).island == 3);
}

}  // namespace orrery
