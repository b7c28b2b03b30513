// Whole trainings on GPUs, one per rank, against the CPU's threads.
#include <cmath>

#include "tests/gpu/gpu_run.hpp"
#include "tests/parity/small_transformers.hpp"
#include "tests/parity/training_run.hpp"
#include "tests/support/stage_run.hpp"

namespace orrery {
namespace {

TrainingCase case_of(int data, int pipeline, Dtype dtype) {
  TrainingCase c;
  c.data = data;
  c.pipeline = pipeline;
  c.model.dtype = dtype;
  c.steps = 10;
  return c;
}

// In bf16 with attention that cuDNN computes, where it is there.
TrainingCase llama_of(int data, int pipeline, Dtype dtype) {
  TrainingCase c = case_of(data, pipeline, dtype);
  TransformerShape shape = as_llama(small_gpt());
  shape.hidden = 32;
  shape.heads = 4;
  shape.head_size = 16;
  shape.sequence = 32;
  shape.dtype = dtype;
  c.transformer = shape;
  c.replica.optimizer = {.name = "adamw", .lr = 1e-3};
  return c;
}

void check_losses(const TrainingCase& c, double error, bool one_gpu = false, bool graphs = false) {
  if (!gpu_here()) return;
  if (!one_gpu && cuda::gpu_count() < c.ranks()) {
    MESSAGE("skipped: " << c.ranks() << " GPUs are needed, " << cuda::gpu_count() << " are here");
    return;
  }
  std::vector<Checkpoint> state;
  cuda::CudaOptions options = one_gpu ? on_one_gpu() : on_gpus();
  options.graphs = graphs;
  RunReport report = cuda::make_cuda_world(training_options(c), std::move(options))
                         ->run(training(c, state, nullptr));
  const Trained gpu = finish(std::move(state), std::move(report));
  const Trained cpu = train_on_cpu(c);
  REQUIRE(gpu.losses.size() == cpu.losses.size());
  for (std::size_t i = 0; i < cpu.losses.size(); ++i)
    CHECK(std::fabs(gpu.losses[i] - cpu.losses[i]) <= error * cpu.losses[i]);
  for (std::size_t rank = 0; rank < cpu.report.ranks.size(); ++rank)
    CHECK(gpu.report.ranks[rank].peak == cpu.report.ranks[rank].peak);
}

// All ranks on one GPU. The CPU follows what the GPU's ranks learned from time.
template <class Case>
void check_as_on_cpu(const Case& c) {
  if (!gpu_here()) return;
  CAPTURE(c.algorithm);
  const WorldSetup setup = recording(setup_of(c));
  CAPTURE(setup.options.grid.size());
  const auto world = cuda::make_cuda_world(setup.options, on_one_gpu());
  const WorldResult gpu = detail::run_world(*world, setup, training_of(c));
  REQUIRE_MESSAGE(!gpu.error, why(gpu));
  const WorldResult cpu = run_in_cpu(replaying(setup_of(c), gpu), training_of(c));
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  CHECK(gpu.channels == cpu.channels);
  CHECK(gpu.peaks == cpu.peaks);
  for (std::size_t rank = 0; rank < cpu.notes.size(); ++rank) {
    const std::vector<double>&a = gpu.notes[rank].values, &b = cpu.notes[rank].values;
    REQUIRE(a.size() == b.size());  // counts, which are equal, and losses
    for (std::size_t i = 0; i < b.size(); ++i)
      CHECK(std::fabs(a[i] - b[i]) <= 1e-4 * std::fabs(b[i]));
  }
}

AlgorithmCase on_replicas(const std::string& algorithm, int replicas) {
  AlgorithmCase c;
  c.algorithm = algorithm;
  c.replicas = replicas;
  return c;
}

}  // namespace

TEST_CASE("GPU: one rank trains as on the CPU, with NCCL for a group of one") {
  check_losses(case_of(1, 1, Dtype::fp32), 1e-4);
  check_losses(case_of(1, 1, Dtype::bf16), 1e-2);
}
TEST_CASE("GPU: one rank trains as on the CPU with its sequences as graphs") {
  check_losses(case_of(1, 1, Dtype::fp32), 1e-4, false, true);
  check_losses(llama_of(1, 1, Dtype::bf16), 1e-2, false, true);
}
TEST_CASE("GPU: two and four ranks of one GPU train as on the CPU by DDP") {
  for (const int ranks : {2, 4}) check_losses(case_of(ranks, 1, Dtype::fp32), 1e-4, true);
}
TEST_CASE("GPU: two and four ranks of one GPU train as on the CPU by 1F1B") {
  for (const int ranks : {2, 4}) check_losses(case_of(1, ranks, Dtype::fp32), 1e-4, true);
}
TEST_CASE("GPU: two and four ranks of one GPU train as on the CPU by FSDP") {
  for (const Dtype dtype : {Dtype::fp32, Dtype::bf16})
    for (const int ranks : {2, 4}) {
      TrainingCase c = case_of(ranks, 1, dtype);
      c.shard = ranks;
      c.zero.emplace().stage = 3;
      check_losses(c, dtype == Dtype::fp32 ? 1e-4 : 1e-2, true);
    }
}
TEST_CASE("GPU: a transformer in bf16 trains as on the CPU") {
  check_losses(llama_of(1, 1, Dtype::bf16), 1e-2);
}
TEST_CASE("GPU: a transformer on two ranks of one GPU trains as on the CPU by DDP") {
  check_losses(llama_of(2, 1, Dtype::fp32), 1e-4, true);
  check_losses(llama_of(2, 1, Dtype::bf16), 1e-2, true);
}
TEST_CASE("GPU: a transformer on four ranks of one GPU trains as on the CPU by 1F1B") {
  check_losses(llama_of(1, 4, Dtype::fp32), 1e-4, true);
  check_losses(llama_of(1, 4, Dtype::bf16), 1e-2, true);
}
TEST_CASE("GPU: a transformer with products in fp8 trains as on the CPU") {
  TrainingCase c = llama_of(1, 1, Dtype::bf16);
  c.transformer->products = Products::fp8_tensor;
  check_losses(c, 1e-2);
  c.transformer->micro_batch = 4;
  c.transformer->norm_bias = c.transformer->qkv_bias = c.transformer->mlp_bias = true;
  check_losses(c, 1e-2);
}
TEST_CASE("GPU: ACCO, DiLoCo, A2CiD2 and PETRA on ranks of one GPU train as on the CPU") {
  for (const int ranks : {1, 2, 4})
    check_as_on_cpu(on_replicas("{name: acco, optimizer: {name: sgd, lr: 0.1}}", ranks));
  for (const int ranks : {2, 4}) {
    check_as_on_cpu(on_replicas("{name: diloco, inner_steps: 2}", ranks));
    check_as_on_cpu(on_replicas("{name: a2cid2, rate: 1}", ranks));
  }
  for (const int stages : {1, 2, 4}) {
    StageCase c = reversible_mlp("{name: petra, optimizer: {name: sgd, lr: 0.01}}", 2);
    c.stages = stages;
    c.layers.assign(static_cast<std::size_t>(stages), 8 / stages);
    check_as_on_cpu(c);
  }
}
TEST_CASE("GPUs: DDP trains as on the CPU") {
  for (const int ranks : {2, 4, 8}) check_losses(case_of(ranks, 1, Dtype::fp32), 1e-4);
}
TEST_CASE("GPUs: 1F1B trains as on the CPU") {
  for (const int stages : {2, 4}) check_losses(case_of(1, stages, Dtype::fp32), 1e-4);
}
TEST_CASE("GPUs: FSDP trains as on the CPU") {
  TrainingCase c = case_of(2, 1, Dtype::bf16);
  c.shard = 2;
  c.zero.emplace().stage = 3;
  check_losses(c, 1e-2);
}

}  // namespace orrery
