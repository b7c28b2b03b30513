// Types of parameters, activations and gradients other than fp32 and bf16.
#include "tests/parity/worlds_agree.hpp"

namespace orrery {
namespace {

// Out of sight of GCC 12, which takes what an optional does not hold for uninitialised.
[[gnu::noinline]] TrainingCase usual() { return {}; }

}  // namespace

TEST_CASE(
    "training in fp16 with fp32 masters and gradients gives the same bits in sim and on cpu") {
  TrainingCase c;
  c.data = 2;
  c.model.dtype = Dtype::fp16;
  check_worlds_agree(c);
}

TEST_CASE("fp16 gradients, on the wire too, give the same bits in sim and on cpu") {
  TrainingCase c = usual();
  c.data = c.shard = 2;
  c.model.dtype = Dtype::fp16;
  c.replica.gradient_dtype = Dtype::fp16;
  c.zero.emplace().stage = 2;
  check_worlds_agree(c);
}

}  // namespace orrery
