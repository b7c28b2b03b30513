// One training by an algorithm whose stages go on by themselves, in any world; and models of stages
// whose times and gradients are known.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "algorithms/codecs/view.hpp"
#include "algorithms/petra.hpp"
#include "tests/support/algorithm_run.hpp"

namespace orrery {

struct StageCase {
  std::string algorithm = "{name: petra}";  // YAML
  int stages = 4, replicas = 1;
  std::string schedule = "1f1b";
  std::vector<int> layers{};
  std::int64_t steps = 12;
  int micro_batches = 1;  // per step
  std::function<Model(int micro_batches)> model;
  bool values = true;
  std::uint64_t seed = 7;
  // Of sim.
  Time alpha{1'000'000};
  double bandwidth = 1e9;
};

inline WorldSetup setup_of(const StageCase& c) {
  WorldSetup setup = setup_for(1);
  const DataAxes axes = plan_of(c.algorithm).divide(c.replicas);
  setup.options.grid.set(Axis::pipeline, c.stages)
      .set(Axis::replicate, axes.replicate)
      .set(Axis::island, axes.island);
  setup.options.seed = c.seed;
  setup.options.real_values = c.values;
  setup.machine.alpha = c.alpha;
  setup.machine.bandwidth = BytesPerSecond(c.bandwidth);
  setup.machine.kernel_time = [](const Kernel& kernel, const Cost& cost) {
    return to_time(kernel.op == Op::custom ? Seconds(kernel.scalars[1])
                                           : Seconds(cost.matrix.value / 1e10));
  };
  return setup;
}

// Notes, of each rank: peaks of activations, of messages and of parameters, in bytes; matrix FLOPs;
// the number of delays, the delays; the losses, of stages with one of their own that. Keeps the
// state.
struct StageNotes {
  double activations = 0, messages = 0, parameters = 0, flops = 0;
  std::vector<double> delays, losses;
};

inline SharedProgram training_of(const StageCase& c) {
  return [c](Rank& rank, RankNotes& notes) {
    const AlgorithmPlan plan = plan_of(c.algorithm);
    Model model = c.model(c.micro_batches);
    ReplicaOptions options;
    options.micro_batches = c.micro_batches;
    options.optimizer = plan.optimizer.options();
    options.schedule = c.schedule;
    options.layers = c.layers;
    options.executes = !plan.runs_stages;
    if (plan.adapt) plan.adapt(model, options, c.stages);
    const int samples = model.micro_batch;
    Replica replica(rank, model, options);
    const std::unique_ptr<Algorithm> algorithm = plan.make(replica);
    Progress progress(rank, {c.steps, std::int64_t{c.replicas} * c.micro_batches * samples});
    auto* stages = dynamic_cast<Petra*>(algorithm.get());
    std::vector<double> delays;
    if (stages != nullptr)
      stages->watch_delays([&delays](auto delay) { delays.push_back(static_cast<double>(delay)); });
    std::vector<Tensor> own_losses;
    while (progress.more()) {
      algorithm->step(progress);
      if (stages != nullptr && stages->loss()) own_losses.push_back(stages->loss());
    }
    algorithm->finish();
    progress.finish();
    const auto peak = [&](Label label) {
      return static_cast<double>(
          rank.ledger(Place::device).peak_by_label()[static_cast<std::size_t>(label)].value);
    };
    notes.values = {peak(Label::activations), peak(Label::communication), peak(Label::parameters),
                    rank.matrix_flops().value};
    notes.values.push_back(static_cast<double>(delays.size()));
    notes.values.insert(notes.values.end(), delays.begin(), delays.end());
    for (const auto& [step, loss] : rank.losses()) notes.values.push_back(loss);
    if (rank.losses().empty() && rank.computes_values())
      for (const Tensor& loss : own_losses) notes.values.push_back(rank.read(loss)[0]);
    Saver saver(rank, notes.checkpoints.emplace_back());
    progress.visit(saver);
    algorithm->visit(saver);
    note_staleness(rank, replica, notes);
  };
}

inline Model small_reversible_mlp(int micro_batches, int micro_batch = 4) {
  return make_mlp({.context = 4,
                   .embedding = 4,
                   .hidden = 12,
                   .layers = 6,
                   .vocabulary = 256,
                   .micro_batch = micro_batch,
                   .micro_batches = micro_batches,
                   .dtype = Dtype::fp32,
                   .reversible = true},
                  test_text());
}

// Three stages of couplings between the ends: embedding, hidden layer, doubling | coupling x 2 |
// coupling x 2 | coupling | averaging, head.
inline StageCase reversible_mlp(const std::string& algorithm, int micro_batches = 1) {
  StageCase c;
  c.algorithm = algorithm;
  c.stages = 5;
  c.layers = {2, 2, 2, 1, 1};
  c.micro_batches = micro_batches;
  c.steps = 30;
  c.model = [](int micro_batches_of) { return small_reversible_mlp(micro_batches_of); };
  return c;
}

inline StageNotes notes_of(const WorldResult& result, std::size_t rank) {
  const std::vector<double>& v = result.notes.at(rank).values;
  const auto losses = v.begin() + 5 + static_cast<std::ptrdiff_t>(v.at(4));
  return {v[0], v[1], v[2], v[3], {v.begin() + 5, losses}, {losses, v.end()}};
}

// A model of stages that add their parameters to what goes through: x_j = x_{j-1} + theta_j, and
// the loss is the mean of 1/2 sum a_i x_i^2. So the gradient of every stage is a_i x_i.
struct Adders {
  std::int64_t elements = 1;
  std::vector<bool> has_parameters;  // by stage
  std::function<float(std::size_t)> curvature = [](std::size_t) { return 1.0F; };
  double start = 1;
  std::vector<double> forward{1};        // seconds, by stage; the last for all others
  double reconstruct = 1, backward = 2;  // times the forward
};

class AdderBlock : public Block {
 public:
  AdderBlock(const Adders& a, int stage, int micro_batches) : a_(a), stage_(stage) {
    first_ = stage < 0;
    last_ = stage >= static_cast<int>(a.has_parameters.size());
    scale_ = 1.0F / static_cast<float>(micro_batches);
    if (!last_) output_elements_ = a.elements;
    if (!first_ && !last_ && a.has_parameters[static_cast<std::size_t>(stage)])
      parameters_ = {{"theta", a.elements, 0, a.start, false}};
    else
      parameters_ = {{"unused", 1, 0, 0, false}};
    computes_loss_ = last_;
    reversible_ = !first_ && !last_;
    if (reversible_) saved_elements_ = 1;  // what is not kept is computed again
  }
  void prepare(Rank& rank) override {
    const double seconds =
        first_ || last_
            ? 0
            : a_.forward[std::min(static_cast<std::size_t>(stage_), a_.forward.size() - 1)];
    const auto kernel = [&](const char* label, double times, std::initializer_list<Role> roles,
                            KernelBody body) {
      return rank.prepare(Kernel::custom(label, roles, std::move(body), Flops(0), Bytes(0),
                                         Seconds(seconds * times)));
    };
    const auto sum = [](float sign) {
      return [sign](std::span<const View> v) {
        const auto x = floats(v[0]), theta = floats(v[1]), y = floats(v[2]);
        for (std::size_t i = 0; i < y.size(); ++i)
          y[i] = (x.empty() ? 0.0F : x[i]) + (theta.size() == y.size() ? sign * theta[i] : 0.0F);
      };
    };
    forward_ = kernel("forward", 1, {Role::read, Role::read, Role::write}, sum(1));
    reconstruct_ =
        kernel("reconstruct", a_.reconstruct, {Role::read, Role::read, Role::write}, sum(-1));
    loss_ = kernel("loss", 1, {Role::read, Role::update}, [a = a_, scale = scale_](auto v) {
      double all = 0;
      const auto x = floats(v[0]);
      for (std::size_t i = 0; i < x.size(); ++i) all += 0.5 * a.curvature(i) * x[i] * x[i];
      floats(v[1])[0] += scale * static_cast<float>(all);
    });
    backward_ = kernel("backward", a_.backward, {Role::read, Role::update, Role::write},
                       [](std::span<const View> v) {
                         const auto dy = floats(v[0]), g = floats(v[1]), dx = floats(v[2]);
                         for (std::size_t i = 0; i < dy.size(); ++i) {
                           if (g.size() == dy.size()) g[i] += dy[i];
                           if (!dx.empty()) dx[i] = dy[i];
                         }
                       });
    loss_backward_ = kernel("loss_backward", 1, {Role::read, Role::write},
                            [a = a_, scale = scale_](std::span<const View> v) {
                              const auto x = floats(v[0]), dx = floats(v[1]);
                              for (std::size_t i = 0; i < x.size(); ++i)
                                dx[i] = scale * a.curvature(i) * x[i];
                            });
  }
  void forward(const BlockPass& p) const override {
    if (last_) return p.stream.launch(loss_, {p.input, p.loss});
    p.stream.launch(forward_, {p.input, p.parameters, p.output});
  }
  void reconstruct(const BlockPass& p) const override {
    p.stream.launch(reconstruct_, {p.output, p.parameters, p.input});
  }
  void backward(const BlockPass& p) const override {
    if (last_) return p.stream.launch(loss_backward_, {p.input, p.d_input});
    if (first_) return;
    p.stream.launch(backward_, {p.d_output, p.gradients, p.d_input});
  }

 private:
  Adders a_;
  int stage_;
  bool first_ = false, last_ = false;
  float scale_;
  Prepared forward_, reconstruct_, loss_, backward_, loss_backward_;
};

inline std::function<Model(int)> adders(const Adders& a) {
  return [a](int micro_batches) {
    Model model;
    model.name = "adders";
    model.text = test_text();
    const int stages = static_cast<int>(a.has_parameters.size());
    for (int stage = -1; stage <= stages; ++stage)
      model.blocks.push_back(std::make_shared<AdderBlock>(a, stage, micro_batches));
    return model;
  };
}

}  // namespace orrery
