// ZeRO's stages under every synchronous pipeline schedule: training as on one rank, and the same
// bits in both worlds where every stage is on two devices.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "tests/parity/worlds_agree.hpp"

namespace orrery {
namespace {

// Four devices, two replicas, of which each has eight micro-batches.
TrainingCase schedule_case(const char* schedule, int chunks, int stage) {
  TrainingCase c;
  c.model.layers = 8;
  c.model.hidden = 12;
  c.model.micro_batch = 1;
  c.pipeline = 4;
  c.data = c.shard = 2;
  c.replica.schedule = schedule;
  c.replica.chunks = chunks;
  c.replica.micro_batches = 8;
  c.zero.emplace().stage = stage;
  return c;
}

void check_follows_one_rank(const char* schedule, int chunks = 1) {
  TrainingCase one = schedule_case("1f1b", 1, 1);
  one.zero.reset();
  one.data = one.shard = one.pipeline = 1;
  one.replica.micro_batches = 16;
  const std::vector<double> expected = train_on_cpu(one).losses;
  for (const int stage : {1, 2, 3}) {
    CAPTURE(stage);
    const std::vector<double> losses = train_on_cpu(schedule_case(schedule, chunks, stage)).losses;
    REQUIRE(losses.size() == usual_steps);
    REQUIRE(losses.size() == expected.size());
    for (std::size_t i = 0; i < losses.size(); ++i)
      CHECK(std::fabs(losses[i] - expected[i]) <= 1e-5 * expected[i]);
    CHECK((under_sanitizer || losses.back() < losses.front()));
  }
}

}  // namespace

TEST_CASE("ZeRO's stages under GPipe on 8 ranks have one rank's losses") {
  check_follows_one_rank("gpipe");
}
TEST_CASE("ZeRO's stages under 1F1B on 8 ranks have one rank's losses") {
  check_follows_one_rank("1f1b");
}
TEST_CASE("ZeRO's stages under interleaved 1F1B on 8 ranks have one rank's losses") {
  check_follows_one_rank("interleaved-1f1b", 2);
}
TEST_CASE("ZeRO's stages under ZB-H1 on 8 ranks have one rank's losses") {
  check_follows_one_rank("zb-h1");
}
TEST_CASE("ZeRO's stages under ZB-H2 on 8 ranks have one rank's losses") {
  check_follows_one_rank("zb-h2");
}
TEST_CASE("ZeRO's stages under ZB-V on 8 ranks have one rank's losses") {
  check_follows_one_rank("zb-v");
}
TEST_CASE("ZeRO's stages under V-Half on 8 ranks have one rank's losses") {
  check_follows_one_rank("v-half");
}
TEST_CASE("ZeRO's stages under V-Min on 8 ranks have one rank's losses") {
  check_follows_one_rank("v-min");
}
TEST_CASE(
    "ZeRO's stages under the automatic zero-bubble schedule on 8 ranks have one rank's losses") {
  check_follows_one_rank("zb-auto");
}
TEST_CASE("ZeRO's stages under DualPipeV on 8 ranks have one rank's losses") {
  check_follows_one_rank("dualpipev");
}
TEST_CASE("ZeRO's stages under Chimera on 8 ranks have one rank's losses") {
  check_follows_one_rank("chimera");
}
TEST_CASE("ZeRO's stages under DualPipe on 8 ranks have one rank's losses") {
  check_follows_one_rank("dualpipe");
}

// On the two devices in the middle a group of stage 2 reaches from one stage into the other.
TEST_CASE("stage 2 under Chimera gives the same bits in sim and on cpu") {
  TrainingCase c = schedule_case("chimera", 1, 2);
  c.zero->group = Bytes(1 << 20);
  check_worlds_agree(c);
}
TEST_CASE(
    "FSDP under DualPipe, clipped and freed between passes, gives the same bits in both worlds") {
  TrainingCase c = schedule_case("dualpipe", 1, 3);
  c.zero->clip_norm = 0.5;
  c.zero->gather.after_forward = Reshard::yes;
  c.zero->gather.after_backward = true;
  check_worlds_agree(c);
}
TEST_CASE("hybrid sharding under Chimera gives the same bits in sim and on cpu") {
  TrainingCase c = schedule_case("chimera", 1, 3);
  c.pipeline = 2;
  c.data = 4;
  check_worlds_agree(c);
}

TEST_CASE("two pipes refuse gradients that are divided in each micro-batch, and say why") {
  TrainingCase c = schedule_case("chimera", 1, 2);
  c.zero->reduce_each = true;
  c.steps = 1;
  std::string told;
  try {
    train_on_cpu(c);
  } catch (const Error& error) {
    CHECK(error.category() == Category::config);
    told = error.what();
  }
  CHECK(told.find("reduce them in its last one") != std::string::npos);
}

}  // namespace orrery
