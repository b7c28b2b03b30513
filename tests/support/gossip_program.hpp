// Gossip in the manner of A2CiD2: a matchmaker beside the ranks, a second flow per rank that
// averages with whoever the matchmaker names while the first goes on training, operands that race
// on purpose, deadlines, and an end that leaves no message behind.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "tests/support/toy.hpp"

namespace orrery::gossip {

inline constexpr Tag ready = 1, leave = 2, assignment = 3;
inline constexpr std::int64_t nobody = -1;
inline constexpr std::int64_t length = 5;

// Pairs ranks in the order in which they are ready; tells the last one when no partner can come.
inline void matchmaker(Service& service, int ranks) {
  int waiting = -1, gone = 0;
  while (gone < ranks) {
    const auto message = service.control_receive(ready);
    if (message->values[0] == leave) {
      ++gone;
    } else if (waiting < 0) {
      waiting = message->from;
    } else {
      const std::int64_t here[1] = {message->from}, there[1] = {waiting};
      service.control_send(waiting, assignment, here);
      service.control_send(message->from, assignment, there);
      waiting = -1;
    }
    if (waiting >= 0 && gone == ranks - 1) {
      const std::int64_t none[1] = {nobody};
      service.control_send(waiting, assignment, none);
      waiting = -1;
    }
  }
}

struct Gossip {
  int steps = 4;
  bool training = true;  // otherwise nothing but averaging: the mean cannot move
};

// x += (theirs - mine) / 2, while training may write x as well.
inline KernelBody average() {
  return [](std::span<const View> v) {
    for (std::int64_t i = 0; i < v[0].elements; ++i)
      toy::floats(v[0])[i] += 0.5F * (toy::floats(v[2])[i] - toy::floats(v[1])[i]);
  };
}

// x -= (x - 1) / 8: a gradient step towards 1.
inline KernelBody descend() {
  return [](std::span<const View> v) {
    for (std::int64_t i = 0; i < v[0].elements; ++i)
      toy::floats(v[0])[i] -= 0.125F * (toy::floats(v[0])[i] - 1.0F);
  };
}

class Gossiper {
 public:
  Gossiper(Rank& rank, Gossip config)
      : rank_(rank),
        config_(config),
        compute_(rank.stream("compute")),
        comm_(rank.stream("gossip")),
        channel_(rank.channel(Axis::replicate, "gossip")),
        tokens_(rank.signal("tokens")),
        matchmaker_(rank.service("matchmaker")),
        x_(toy::vector(rank, compute_, length, "x")),
        mine_(toy::vector(rank, comm_, length, "mine", Label::communication)),
        theirs_(toy::vector(rank, comm_, length, "theirs", Label::communication)),
        average_(toy::kernel(rank, "average", Seconds(1e-6), {Role::update, Role::read, Role::read},
                             average())) {}

  void run(RankNotes& notes) {
    toy::fill(rank_, compute_, x_, rank_.id());
    comm_.after(compute_.record());
    const Task gossip = rank_.fork("gossip", [this] { average_until_alone(); });
    for (int step = 0; step < config_.steps; ++step) {
      const double seconds = 1e-6 * (1 + rank_.rng(Purpose::jitter).uniform() * 20);
      const Prepared train =
          config_.training
              ? toy::kernel(rank_, "train", Seconds(seconds), {Role::update}, descend())
              : toy::kernel(rank_, "look", Seconds(seconds), {Role::read}, [](auto) {});
      compute_.launch(train, {x_.racy()});
      rank_.raise(tokens_);
      rank_.wait(compute_.record());
    }
    rank_.join(gossip);
    compute_.after(comm_.record());
    const std::vector<double> x = rank_.read(x_);
    notes.values = {static_cast<double>(rounds_)};
    notes.values.insert(notes.values.end(), x.begin(), x.end());
  }

 private:
  void average_until_alone() {
    for (int step = 0; step < config_.steps; ++step) {
      rank_.wait(tokens_);
      rank_.control_send(matchmaker_, ready, {ready});
      const int peer = partner();
      if (peer < 0) break;
      comm_.copy(x_.racy(), mine_);
      comm_.exchange(mine_, theirs_, peer, channel_);
      comm_.launch(average_, {x_.racy(), mine_, theirs_});
      rank_.wait(comm_.record());
      ++rounds_;
    }
    rank_.control_send(matchmaker_, ready, {leave});
  }

  // Asks again and again with a deadline; how often depends on time, what comes of it does not.
  int partner() {
    std::optional<ControlMessage> message;
    while (!message) message = rank_.control_receive(assignment, matchmaker_, Seconds(5e-6));
    return static_cast<int>(message->values[0]);
  }

  Rank& rank_;
  Gossip config_;
  Stream &compute_, &comm_;
  Channel& channel_;
  Signal& tokens_;
  int matchmaker_;
  Tensor x_, mine_, theirs_;
  Prepared average_;
  int rounds_ = 0;
};

inline SharedProgram program(Gossip config) {
  return [config](Rank& rank, RankNotes& notes) { Gossiper(rank, config).run(notes); };
}

// Rounds come in pairs, at most one per step. Averaging alone keeps the mean and stays between the
// first values; a training step that races with it may overwrite an average and leave that range.
inline void check(const std::vector<RankNotes>& all, int ranks, Gossip config) {
  REQUIRE(all.size() == static_cast<std::size_t>(ranks));
  double rounds = 0, sum = 0;
  for (const RankNotes& notes : all) {
    REQUIRE(notes.values.size() == 1 + length);
    REQUIRE(notes.values[0] <= config.steps);
    rounds += notes.values[0];
    for (std::size_t i = 1; i <= length; ++i) {
      REQUIRE(std::isfinite(notes.values[i]));
      if (!config.training) REQUIRE(notes.values[i] >= 0);
      if (!config.training) REQUIRE(notes.values[i] <= std::max(1, ranks - 1));
      sum += notes.values[i];
    }
  }
  REQUIRE(std::fmod(rounds, 2) == 0);
  if (ranks > 1) REQUIRE(rounds >= 2);
  if (!config.training)
    REQUIRE(sum ==
            doctest::Approx(static_cast<double>(length) * ranks * (ranks - 1) / 2).epsilon(1e-6));
}

}  // namespace orrery::gossip
