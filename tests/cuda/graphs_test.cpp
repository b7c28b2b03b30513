// Sequences as graphs, on the double of the CUDA runtime.
#include "backend/cuda/graphs.hpp"

#include "tests/cpu/cpu_world.hpp"
#include "tests/cuda/double_world.hpp"
#include "tests/parity/small_transformers.hpp"
#include "tests/parity/training_run.hpp"

namespace orrery {
namespace {

// Kernels that a stream runs by itself, as a GPU's.
class StreamLauncher final : public cuda::Launcher {
 public:
  void launch(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) override {
    cuda_double::append(stream,
                        [&kernel, operands = std::vector<View>(views.begin(), views.end())] {
                          cpu_bodies().run(kernel, operands);
                        });
  }
};

cuda::CudaOptions with_graphs(bool on_streams = true) {
  cuda::CudaOptions options = on_the_double();
  options.graphs = true;
  if (on_streams)
    options.launcher = [](int, const std::function<void(std::exception_ptr)>&) {
      return std::make_unique<StreamLauncher>();
    };
  return options;
}

// y += x twice, for each of `times` launches on the first operands and one on others; y at the end.
double sum_of(int times, cuda::CudaOptions options) {
  double result = 0;
  run_on_double(
      options_for(Axis::replicate, 1),
      [&](Rank& rank) {
        Stream& compute = rank.stream("compute");
        const Tensor x = make(rank, compute, 4), y = make(rank, compute, 4),
                     z = make(rank, compute, 4);
        fill(rank, compute, x, 1);
        fill(rank, compute, y, 0);
        fill(rank, compute, z, 0);
        const Sequence& twice = rank.sequence("twice", [&rank](Sequence& s) {
          const int from = s.slot("x"), to = s.slot("y");
          const Prepared add = rank.prepare(Kernel::linear_combination(4, 1, 1, Dtype::fp32));
          for (int i = 0; i < 2; ++i) s.add(add, {{from, 0, 4}, {to, 0, 4}});
        });
        for (int i = 0; i < times; ++i) {
          compute.launch(twice, {x, y});
          if (i == 1) compute.launch(twice, {x, z});
        }
        rank.wait(compute.record());
        result = rank.read(y)[0];
      },
      std::move(options));
  return result;
}

}  // namespace

TEST_CASE("a sequence that comes again on the same operands is a graph from its second launch on") {
  cuda_double::graphs_launched();
  CHECK(sum_of(5, with_graphs()) == 10);
  CHECK(cuda_double::graphs_launched() == 4);
  CHECK(sum_of(1, with_graphs()) == 2);
  CHECK(cuda_double::graphs_launched() == 0);
}

TEST_CASE("kernels that are timed one by one, or run on the host, are in no graph") {
  cuda_double::graphs_launched();
  cuda::CudaOptions by_kernel = with_graphs();
  by_kernel.by_kernel = true;
  CHECK(sum_of(5, std::move(by_kernel)) == 10);
  CHECK(sum_of(5, with_graphs(false)) == 10);
  CHECK(cuda_double::graphs_launched() == 0);
}

TEST_CASE("there are no more graphs than were asked for") {
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  cuda_double::graphs_launched();
  {
    cuda::Graphs graphs(2);
    const Sequence sequence("any");
    std::array<float, 3> memory{};
    int enqueued = 0;
    for (int round = 0; round < 3; ++round)
      for (float& place : memory) {
        const View view{&place, 1, Dtype::fp32};
        graphs.launch(stream, sequence, std::span(&view, 1), [&] { ++enqueued; });
      }
    // Two places: once enqueued, once recorded. The third: always enqueued.
    CHECK(enqueued == 2 * 2 + 3);
    cudaStreamSynchronize(stream);
  }
  CHECK(cuda_double::graphs_launched() == 2 * 2);
  cudaStreamDestroy(stream);
}

TEST_CASE("a training by graphs gives the bits of the CPU's threads") {
  cuda_double::reuse_memory(true);
  for (const auto& [data, pipeline] : {std::pair{1, 1}, {2, 2}}) {
    TrainingCase c;
    c.data = data;
    c.pipeline = pipeline;
    c.steps = 4;
    c.transformer = as_llama(small_gpt());
    std::vector<Checkpoint> state;
    RunReport report =
        run_on_double(training_options(c), training(c, state, nullptr), with_graphs());
    const Trained gpu = finish(std::move(state), std::move(report)), cpu = train_on_cpu(c);
    CHECK(gpu.losses == cpu.losses);
    CHECK(gpu.state == cpu.state);
    // Forward and backward of each layer at least, in every micro-batch but those of the first step
    // and the second, in which all that comes again has come.
    const auto again = static_cast<int>((c.steps - 2) * data * c.replica.micro_batches);
    CHECK(cuda_double::graphs_launched() >= 2 * c.transformer->layers * again);
  }
}

}  // namespace orrery
