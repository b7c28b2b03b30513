// PipeDream and PipeDream-2BW against their update equations, written down on one rank.
#include <doctest/doctest.h>

#include <numeric>

#include "tests/parity/worlds_agree.hpp"

namespace orrery {
namespace {

TrainingCase asynchronous(const char* schedule, int devices, int micro_batches,
                          bool vertical_sync = false) {
  TrainingCase c;
  c.pipeline = devices;
  c.model.hidden = 12;
  c.replica.schedule = schedule;
  c.replica.micro_batches = micro_batches;
  c.replica.vertical_sync = vertical_sync;
  c.replica.optimizer = {.name = "momentum", .lr = 0.05};
  c.steps = 9;
  return c;
}

struct Reference {
  std::vector<float> parameters;
  std::vector<double> losses;
};

// w(t+1) = w(t) - lr grad f(w_0(t - delays[0]), …, w_p-1(t - delays[p-1])), versions before the
// first being the first; the gradient is summed over the step's micro-batches.
Reference by_equation(const TrainingCase& c, const std::vector<int>& delays) {
  Reference result;
  TrainingCase one = c;
  one.pipeline = 1;
  make_cpu_world(training_options(one))->run([&](Rank& rank) {
    Stream& stream = rank.stream("compute");
    const Model model = c.make(training_text());
    const int blocks = static_cast<int>(model.blocks.size());
    std::vector<int> all(model.blocks.size());
    std::iota(all.begin(), all.end(), 0);
    FlatOptions options;
    options.optimizer = c.replica.optimizer;
    FlatParameters flat(rank, stream, model, all, -1, 0, options);
    for (const auto& block : model.blocks) block->prepare(rank);
    const auto tensor = [&](std::int64_t n, Dtype type = Dtype::fp32, Values v = Values::as_run) {
      return n == 0 ? Tensor() : rank.allocate(stream, Label::activations, n, type, {.values = v});
    };
    const Prepared load =
        rank.prepare(Kernel::text_batch(model.micro_batch, model.tokens_per_sample, rank.seed(),
                                        model.text, model.targets_per_sample));
    const Prepared zero_loss = rank.prepare(Kernel::fill(1, 0, Dtype::fp32));
    const Tensor cursor = tensor(1, Dtype::int64, Values::always);
    const Progress progress(rank, {c.steps, c.global_batch()});
    const auto stages = stage_blocks(blocks, c.pipeline);
    std::vector<Tensor> versions;
    for (std::int64_t t = 0; t < c.steps; ++t) {
      versions.push_back(tensor(flat.all_values().elements()));
      stream.copy(flat.all_values(), versions.back());
      flat.zero_gradients(stream);
      const Tensor loss = tensor(1, Dtype::fp32, Values::always);
      stream.launch(zero_loss, {loss});
      for (int i = 0; i < c.replica.micro_batches; ++i) {
        const Batch batch =
            progress.part(t, std::int64_t{i} * model.micro_batch, model.micro_batch);
        std::vector<BlockPass> passes;
        Tensor x;
        for (int b = 0; b < blocks; ++b) {
          const Block& block = *model.blocks[static_cast<std::size_t>(b)];
          BlockPass pass{stream};
          std::size_t stage = 0;
          while (b >= stages[stage].second) ++stage;
          const std::int64_t version = std::max<std::int64_t>(0, t - delays[stage]);
          pass.parameters = flat.values(b, versions[static_cast<std::size_t>(version)]);
          pass.gradients = flat.gradients(b);
          pass.tokens = b == 0 ? tensor(model.micro_batch * model.tokens_per_sample, Dtype::int32)
                               : passes[0].tokens;
          pass.targets = b == 0 ? tensor(model.micro_batch, Dtype::int32) : passes[0].targets;
          if (b == 0) {
            stream.upload(cursor, {static_cast<double>(batch.first_sample)});
            stream.launch(load, {cursor, pass.tokens, pass.targets});
          }
          pass.loss = loss;
          pass.input = x;
          pass.saved = tensor(block.saved_elements());
          pass.kept = tensor(block.kept_elements());
          pass.output = x = tensor(block.output_elements());
          pass.workspace = tensor(std::max(block.forward_workspace(), block.backward_workspace()));
          BlockPass forward = pass;
          forward.workspace = tensor(block.forward_workspace());
          block.forward(forward);
          passes.push_back(pass);
        }
        Tensor d;
        for (int b = blocks; b-- > 0;) {
          const Block& block = *model.blocks[static_cast<std::size_t>(b)];
          BlockPass& pass = passes[static_cast<std::size_t>(b)];
          pass.d_output = d;
          pass.d_input = d = pass.input ? tensor(pass.input.elements()) : Tensor();
          pass.workspace = tensor(block.backward_workspace());
          block.backward(pass);
        }
      }
      flat.begin_update(stream);
      flat.update(stream, flat.parameters(), {});
      result.losses.push_back(rank.read(loss)[0]);
    }
    for (const double v : rank.read(flat.all_values()))
      result.parameters.push_back(static_cast<float>(v));
  });
  return result;
}

void check_follows(const TrainingCase& c, const std::vector<int>& delays) {
  const Trained trained = train_on_cpu(c);
  const Reference expected = by_equation(c, delays);
  CHECK(trained.losses == expected.losses);
  CHECK(parameters_of(c, trained) == expected.parameters);
  std::vector<int> other = delays;  // the last stage of 1F1B has no delay
  other.back() += 1;
  CHECK(parameters_of(c, trained) != by_equation(c, other).parameters);
}

TEST_CASE("PipeDream's stage s follows its update equation with a delay of p - 1 - s") {
  check_follows(asynchronous("pipedream", 2, 1), {1, 0});
  check_follows(asynchronous("pipedream", 3, 1), {2, 1, 0});
  check_follows(asynchronous("pipedream", 4, 1), {3, 2, 1, 0});
}

TEST_CASE("PipeDream with vertical sync follows its update equation with a delay of p - 1") {
  check_follows(asynchronous("pipedream", 2, 1, true), {1, 1});
  check_follows(asynchronous("pipedream", 4, 1, true), {3, 3, 3, 3});
}

TEST_CASE("PipeDream-2BW follows w(t+1) = w(t) - lr grad f(w(t-1))") {
  check_follows(asynchronous("pipedream-2bw", 2, 2), {1, 1});
  check_follows(asynchronous("pipedream-2bw", 4, 4), {1, 1, 1, 1});
  check_follows(asynchronous("pipedream-2bw", 4, 6), {1, 1, 1, 1});
}

TEST_CASE("PipeDream gives the same bits in sim and on cpu") {
  TrainingCase c = asynchronous("pipedream", 4, 1);
  c.steps = 60;
  check_worlds_agree(c);
}
TEST_CASE("PipeDream with vertical sync gives the same bits in sim and on cpu") {
  TrainingCase c = asynchronous("pipedream", 3, 1, true);
  c.steps = 60;
  check_worlds_agree(c);
}
TEST_CASE("PipeDream-2BW on two replicas gives the same bits in sim and on cpu") {
  TrainingCase c = asynchronous("pipedream-2bw", 2, 4);
  c.data = 2;
  c.steps = 20;
  check_worlds_agree(c);
}

TEST_CASE("a device keeps as many versions of its parameters as its schedule says") {
  const auto check_versions = [](const TrainingCase& c, const std::vector<int>& versions) {
    TrainingCase plain = c;
    plain.replica.schedule = "1f1b";
    plain.replica.vertical_sync = false;
    const auto parameters = [](const RankReport& r) {
      return r.peak_by_label[static_cast<std::size_t>(Label::parameters)].value;
    };
    const Trained kept = train_on_cpu(c), one = train_on_cpu(plain);
    for (std::size_t s = 0; s < versions.size(); ++s)
      CHECK(parameters(kept.report.ranks[s]) == versions[s] * parameters(one.report.ranks[s]));
  };
  check_versions(asynchronous("pipedream", 4, 1), {4, 3, 2, 1});
  check_versions(asynchronous("pipedream", 4, 1, true), {4, 4, 4, 4});
  check_versions(asynchronous("pipedream-2bw", 4, 4), {2, 2, 2, 2});
}

// What is in flight between steps is computed again, with the versions that it used.
TEST_CASE("an asynchronous pipeline resumes after any step in the same bits") {
  for (TrainingCase c : {asynchronous("pipedream", 3, 1), asynchronous("pipedream", 3, 1, true),
                         asynchronous("pipedream-2bw", 3, 3)}) {
    c.steps = 6;
    const Trained straight = train_on_cpu(c);
    for (int stop = 1; stop < 6; ++stop) {
      TrainingCase part = c;
      part.steps = stop;
      const Trained first = train_on_cpu(part);
      part.steps = 6;
      CHECK(train_on_cpu(part, &first.state).state == straight.state);
    }
  }
}

}  // namespace
}  // namespace orrery
