// Where a rank's time and memory went, on the double: by events, by CUPTI, by CUDA's pools.
#include <map>

#include "backend/cuda/gpu/profile.hpp"
#include "tests/cpu/cpu_world.hpp"
#include "tests/cuda/double_world.hpp"

namespace orrery {
namespace {

// Three steps of a sequence of two kernels and a kernel of its own, and one that no step counts.
void three_steps(Rank& rank) {
  Stream& compute = rank.stream("compute");
  const Tensor x = make(rank, compute, 1000);
  const Prepared fill = rank.prepare(Kernel::fill(1000, 1, Dtype::fp32)),
                 add = rank.prepare(Kernel::linear_combination(1000, 1, 1, Dtype::fp32));
  const Sequence& block = rank.sequence("block.forward", [&](Sequence& s) {
    const int slot = s.slot("x");
    s.add(fill, {{slot, 0, 1000}});
    s.add(add, {{slot, 0, 1000}, {slot, 0, 1000}});
  });
  for (int step = 0; step < 3; ++step) {
    compute.launch(block, {x});
    compute.launch(fill, {x});
    compute.mark_step(step);
  }
  compute.launch(add, {x, x});
}

using Calls = std::map<std::pair<std::string, std::string>, std::uint64_t>;

Calls calls_of(const RankReport& report) {
  Calls calls;
  for (const WorkRow& row : report.work) calls[{row.operation, row.kernel}] = row.calls;
  return calls;
}

// What the rows sum to is the computing of the steps that they are of.
void check_sum(const RankReport& report) {
  Time sum;
  for (const WorkRow& row : report.work) sum += row.time;
  CHECK(sum == report.steps.back().parts.compute - report.steps.front().parts.compute);
}

}  // namespace

TEST_CASE("operations sum to the computing of a step, sequences as a whole or by their kernels") {
  cuda::CudaOptions options = on_the_double();
  const RankReport whole =
      run_on_double(options_for(Axis::replicate, 1), three_steps, options).ranks[0];
  CHECK(calls_of(whole) == Calls{{{"block.forward", ""}, 2}, {{"fill", "fill"}, 2}});
  check_sum(whole);
  options = on_the_double();
  options.by_kernel = true;
  const RankReport divided =
      run_on_double(options_for(Axis::replicate, 1), three_steps, options).ranks[0];
  const Calls by_kernel{{{"block.forward", "fill"}, 2},
                        {{"block.forward", "linear_combination"}, 2},
                        {{"fill", "fill"}, 2}};
  CHECK(calls_of(divided) == by_kernel);
  check_sum(divided);
  const RankReport on_cpu = run_cpu(1, three_steps).ranks[0];
  CHECK(calls_of(on_cpu) == by_kernel);
  check_sum(on_cpu);
}

TEST_CASE("CUPTI's kernels belong to the kernels of the program that launched them") {
  setenv("ORRERY_CUDA_LIBRARIES", ORRERY_LIBRARY_DOUBLES, 1);
  cuda::CudaOptions options = on_the_double();
  options.profiler = cuda::make_cupti_profiler();
  CHECK_THROWS_AS(cuda::make_cupti_profiler(), Error);  // one at a time
  const RunReport report = run_on_double(options_for(Axis::replicate, 2), three_steps, options);
  for (const RankReport& rank : report.ranks) {
    Calls calls;
    for (const NativeRow& row : rank.native) {
      CHECK(row.function == "void scale<float>(int)");
      CHECK(row.of.time == Time(row.of.calls * 2'000'000));
      calls[{row.of.operation, row.of.kernel}] = row.of.calls;
    }
    CHECK(calls == Calls{{{"block.forward", "fill"}, 2},
                         {{"block.forward", "linear_combination"}, 2},
                         {{"fill", "fill"}, 2}});
  }
}

TEST_CASE("CUDA's pool holds what the ledger says; the first step does not count") {
  const auto hold = [](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Tensor gone = make(rank, compute, 5000);
    gone = {};
    const Tensor first = make(rank, compute, 3000), second = make(rank, compute, 1000);
    fill(rank, compute, second, 1);
  };
  const auto grow = [](Rank& rank) {
    Stream& compute = rank.stream("compute");
    { const Tensor first = make(rank, compute, 5000); }
    compute.mark_step(0);
    const Tensor second = make(rank, compute, 4000);
    compute.mark_step(1);
  };
  const RunReport grown = run_on_double(options_for(Axis::replicate, 1), grow);
  CHECK(grown.pool->used == Bytes(16'000));
  CHECK(grown.pool->reserved >= Bytes(16'000));
  const RunReport report = run_on_double(options_for(Axis::replicate, 2), hold);
  REQUIRE(report.pool);
  CHECK(report.pool->used == report.ranks[0].peak + report.ranks[1].peak);
  CHECK(report.pool->reserved >= report.pool->used);
  CHECK(report.ranks[0].peak == Bytes(20'000));
}

}  // namespace orrery
