// Attention as the GPU's launcher gives it to cuDNN, on a double of that library.
#include <atomic>

#include "backend/cuda/gpu/dnn.hpp"
#include "backend/cuda/gpu/kernels.hpp"
#include "tests/cpu/cpu_world.hpp"
#include "tests/cuda/double_world.hpp"
#include "tests/parity/small_transformers.hpp"
#include "tests/parity/training_run.hpp"

namespace orrery {

namespace cuda {
// The double of cuDNN leaves no statistics to convert.
void split_statistics(cudaStream_t, Dtype, std::int64_t, const float*, void*) {}
void join_statistics(cudaStream_t, Dtype, std::int64_t, const void*, float*) {}
}  // namespace cuda

namespace {

using cuda_double::plans_of_this_thread;

// Over all ranks.
struct LaunchCounts {
  std::atomic<int> rehearsed{0}, made_in_rehearsal{0}, launched{0}, made_in_launch{0};
};

// Plans are cuDNN's, values the host's: the double computes none.
class AttentionLauncher final : public cuda::Launcher {
 public:
  AttentionLauncher(std::function<void(std::exception_ptr)> failed, LaunchCounts& counts)
      : counts_(counts), others_(cuda::make_host_launcher(cpu_bodies(), std::move(failed))) {}
  void rehearse(CUstream_st* stream, const Kernel& kernel,
                std::span<const std::int64_t> elements) override {
    if (!is_attention(kernel)) return;
    const auto before = plans_of_this_thread();
    dnn_.rehearse(stream, kernel, elements);
    counts_.made_in_rehearsal += plans_of_this_thread().made - before.made;
    counts_.rehearsed += plans_of_this_thread().run - before.run;
  }
  void launch(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) override {
    if (is_attention(kernel)) {
      const auto before = plans_of_this_thread();
      const bool done = kernel.op == Op::attention ? dnn_.attention(stream, kernel, views)
                                                   : dnn_.attention_backward(stream, kernel, views);
      CHECK(done);
      counts_.made_in_launch += plans_of_this_thread().made - before.made;
      counts_.launched += plans_of_this_thread().run - before.run;
    }
    others_->launch(stream, kernel, views);
  }

 private:
  static bool is_attention(const Kernel& kernel) {
    return kernel.op == Op::attention || kernel.op == Op::attention_backward;
  }

  LaunchCounts& counts_;
  cuda::Dnn dnn_;
  std::unique_ptr<cuda::Launcher> others_;
};

// All ranks on one GPU.
cuda::CudaOptions with_attention(LaunchCounts& counts) {
  setenv("ORRERY_CUDA_LIBRARIES", ORRERY_LIBRARY_DOUBLES, 1);
  cuda::CudaOptions options = on_one_gpu();
  options.launcher = [&counts](int, std::function<void(std::exception_ptr)> failed) {
    return std::make_unique<AttentionLauncher>(std::move(failed), counts);
  };
  return options;
}

TrainingCase llama_of(int data, int pipeline) {
  TrainingCase c;
  c.data = data;
  c.pipeline = pipeline;
  c.steps = 2;
  TransformerShape shape = as_llama(small_gpt());
  shape.hidden = 32;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.sequence = 16;
  shape.dtype = Dtype::bf16;
  c.transformer = shape;
  return c;
}

}  // namespace

TEST_CASE("every rank makes its plans for attention, and runs them, before ranks communicate") {
  for (const auto& [data, pipeline] : {std::pair{2, 1}, {1, 4}}) {
    const TrainingCase c = llama_of(data, pipeline);
    LaunchCounts counts;
    std::vector<Checkpoint> state;
    RunReport report =
        run_on_double(training_options(c), training(c, state, nullptr), with_attention(counts));
    CHECK(finish(std::move(state), std::move(report)).losses == train_on_cpu(c).losses);
    // Of one shape, forward and backward.
    CHECK(counts.made_in_rehearsal == 2 * c.ranks());
    CHECK(counts.rehearsed >= 2 * c.ranks());
    CHECK(counts.made_in_launch == 0);
    const std::int64_t micro_batches = c.steps * data * c.replica.micro_batches;
    CHECK(counts.launched == 2 * micro_batches * c.transformer->layers);
  }
}

TEST_CASE("attention that cuDNN does not do is not rehearsed, and leaves no memory behind") {
  LaunchCounts counts;
  run_on_double(
      options_for(Axis::replicate, 1),
      [](Rank& rank) {
        const auto rehearse = [&rank](const std::string& key, const Kernel& kernel) {
          rank.sequence(key, [&](Sequence& sequence) {
            const int qkv = sequence.slot("qkv"), out = sequence.slot("out");
            sequence.add(rank.prepare(kernel), {{qkv, 0, 3 * 64}, {}, {}, {out, 0, 64}, {}});
          });
        };
        rehearse("fp32", Kernel::attention(1, 2, 2, 4, 8, true, Dtype::fp32));
        rehearse("part", Kernel::attention(1, 2, 2, 4, 8, AttentionPart::early_keys, Dtype::bf16));
        rehearse("odd heads", Kernel::attention(1, 2, 2, 4, 4, true, Dtype::bf16));
      },
      with_attention(counts));
  CHECK(counts.made_in_rehearsal == 0);
}

TEST_CASE("a sequence that many layers ask for is rehearsed once") {
  LaunchCounts counts;
  run_on_double(
      options_for(Axis::replicate, 1),
      [](Rank& rank) {
        for (int layer = 0; layer < 3; ++layer)
          rank.sequence("attention", [&](Sequence& sequence) {
            const int qkv = sequence.slot("qkv"), out = sequence.slot("out");
            sequence.add(rank.prepare(Kernel::attention(1, 2, 2, 4, 8, true, Dtype::bf16)),
                         {{qkv, 0, 3 * 64}, {}, {}, {out, 0, 64}, {}});
          });
      },
      with_attention(counts));
  CHECK(counts.made_in_rehearsal == 1);
  CHECK(counts.rehearsed == 1);
}

}  // namespace orrery
