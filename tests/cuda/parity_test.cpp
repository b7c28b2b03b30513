// The CUDA world with the NCCL transport gives the bits of the CPU world, on the double.
#include <doctest/doctest.h>

#include "tests/cuda/double_world.hpp"
#include "tests/parity/worlds_agree.hpp"
#include "tests/support/stage_run.hpp"

namespace orrery {
namespace {

TrainingCase case_of(int data, int pipeline, const char* schedule = "1f1b") {
  TrainingCase c;
  c.data = data;
  c.pipeline = pipeline;
  c.replica.schedule = schedule;
  c.steps = 6;
  return c;
}

void check_as_on_cpu(const TrainingCase& c, const cuda::CudaOptions& options = on_the_double()) {
  std::vector<Checkpoint> state;
  RunReport report = run_on_double(training_options(c), training(c, state, nullptr), options);
  const Trained gpu = finish(std::move(state), std::move(report));
  const Trained cpu = train_on_cpu(c);
  CHECK(gpu.losses.size() == static_cast<std::size_t>(c.steps));
  CHECK(gpu.losses == cpu.losses);
  CHECK(gpu.state == cpu.state);
  for (std::size_t rank = 0; rank < cpu.report.ranks.size(); ++rank) {
    check_same_traffic(gpu.report.ranks[rank], cpu.report.ranks[rank]);
    CHECK(gpu.report.ranks[rank].peak == cpu.report.ranks[rank].peak);
    CHECK(gpu.report.ranks[rank].operations == cpu.report.ranks[rank].operations);
    CHECK(gpu.report.ranks[rank].steps.size() == static_cast<std::size_t>(c.steps));
    for (const StepMark& step : gpu.report.ranks[rank].steps)
      CHECK(step.parts.total() == step.at);  // no time is lost, or counted twice
  }
}

// Losses, final state and traffic; the CPU follows what the other learned from time.
template <class Case>
void check_training_as_on_cpu(const Case& c, const cuda::CudaOptions& options) {
  const WorldSetup setup = recording(setup_of(c));
  const auto world = cuda::make_cuda_world(setup.options, options);
  const WorldResult gpu = detail::run_world(*world, setup, training_of(c));
  REQUIRE_MESSAGE(!gpu.error, why(gpu));
  const WorldResult cpu = run_in_cpu(replaying(setup_of(c), gpu), training_of(c));
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  CHECK(gpu.noted() == cpu.noted());
  CHECK(gpu.channels == cpu.channels);
  CHECK(gpu.peaks == cpu.peaks);
  for (std::size_t rank = 0; rank < cpu.notes.size(); ++rank)
    CHECK(gpu.notes[rank].checkpoints == cpu.notes[rank].checkpoints);
}

void check_as_on_cpu(const std::string& algorithm, int replicas,
                     const cuda::CudaOptions& options = on_the_double()) {
  AlgorithmCase c;
  c.algorithm = algorithm;
  c.replicas = replicas;
  c.steps = 6;
  check_training_as_on_cpu(c, options);
}

}  // namespace

TEST_CASE("one rank on a GPU gives the bits of the CPU") { check_as_on_cpu(case_of(1, 1)); }
TEST_CASE("kernels on copies of their operands in pinned memory give the same bits") {
  cuda::CudaOptions options = on_the_double();
  options.launcher = [](int, std::function<void(std::exception_ptr)> failed) {
    return cuda::make_staged_launcher(cpu_bodies(), std::move(failed));
  };
  check_as_on_cpu(case_of(2, 2), options);
}
TEST_CASE("DDP on NCCL gives the bits of the CPU's threads") {
  for (const int ranks : {2, 4, 8}) check_as_on_cpu(case_of(ranks, 1));
}
TEST_CASE("1F1B on NCCL gives the bits of the CPU's threads") {
  for (const int stages : {2, 4}) check_as_on_cpu(case_of(1, stages));
}
TEST_CASE("two pipelines of two stages on NCCL give the bits of the CPU's threads") {
  check_as_on_cpu(case_of(2, 2));
}
TEST_CASE("clipping by a global norm in bf16 on NCCL gives the bits of the CPU's threads") {
  TrainingCase c = case_of(2, 2);
  c.ddp.clip_norm = 0.5;
  c.model.dtype = Dtype::bf16;
  check_as_on_cpu(c);
}
TEST_CASE("FSDP on NCCL gives the bits of the CPU's threads") {
  for (const int ranks : {2, 4}) check_as_on_cpu("{name: fsdp}", ranks);
}
TEST_CASE("ACCO on NCCL gives the bits of the CPU's threads that follow its decisions") {
  for (const int ranks : {2, 4})
    check_as_on_cpu("{name: acco, optimizer: {name: sgd, lr: 0.1}}", ranks);
}
TEST_CASE("DiLoCo on NCCL gives the bits of the CPU's threads") {
  check_as_on_cpu("{name: diloco, inner_steps: 2}", 4);
}

TEST_CASE("hosts that wait for room on their streams change no bits") {
  cuda_double::set_queue_depth(64);
  for (cuda::CudaOptions options : {on_the_double(), on_one_gpu()}) {
    options.queue = 40;
    check_as_on_cpu(case_of(2, 2), options);
  }
}

TEST_CASE("ranks on one GPU do not wait for each other's copies on its engine") {
  cuda_double::queue_copies(true);
  for (const int ranks : {2, 4}) {
    cuda::CudaOptions options = on_one_gpu();
    options.launcher = [](int, std::function<void(std::exception_ptr)> failed) {
      return cuda::make_staged_launcher(cpu_bodies(), std::move(failed), copy_by_kernel);
    };
    options.patience = Seconds(10);
    check_as_on_cpu("{name: fsdp}", ranks, options);
  }
}

TEST_CASE("one GPU gives any number of ranks the bits of the CPU's threads") {
  check_as_on_cpu(case_of(4, 1), on_one_gpu());
  check_as_on_cpu(case_of(1, 4), on_one_gpu());
  check_as_on_cpu(case_of(2, 2), on_one_gpu());
  check_as_on_cpu("{name: fsdp}", 4, on_one_gpu());
  check_as_on_cpu("{name: acco, optimizer: {name: sgd, lr: 0.1}}", 4, on_one_gpu());
  check_as_on_cpu("{name: a2cid2, rate: 1}", 4, on_one_gpu());
  StageCase petra = reversible_mlp("{name: petra, optimizer: {name: sgd, lr: 0.01}}");
  petra.stages = 4;
  petra.layers = {2, 2, 2, 2};
  check_training_as_on_cpu(petra, on_one_gpu());
}

}  // namespace orrery
