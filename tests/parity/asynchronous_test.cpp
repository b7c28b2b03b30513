// PipeDream and PipeDream-2BW against their update equations, written down on one rank.
#include <doctest/doctest.h>

#include "tests/parity/update_equation.hpp"
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
