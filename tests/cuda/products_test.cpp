// Products by cuBLASLt as the GPU's launcher makes them, on a double of that library.
#include <atomic>
#include <cmath>
#include <future>

#include "backend/cuda/gpu/blas.hpp"
#include "tests/cpu/cpu_world.hpp"
#include "tests/cuda/double_world.hpp"
#include "tests/parity/small_transformers.hpp"
#include "tests/parity/training_run.hpp"

namespace orrery {
namespace {

thread_local bool communicates = false;  // the rank of this thread
std::atomic<int> tried_late{0};          // operands of products, by ranks that do

// Tells of the calling rank that it communicates from now on.
class TellingTransport final : public transport::Transport {
 public:
  explicit TellingTransport(std::unique_ptr<transport::Transport> in) : in_(std::move(in)) {}
  void stream_opened() override { in_->stream_opened(); }
  void open(std::vector<const Communicator*> communicators) override {
    communicates = true;
    in_->open(std::move(communicators));
  }
  void issue(transport::DeviceStream stream, const Communication& communication, const View& in,
             const View& out) override {
    in_->issue(stream, communication, in, out);
  }
  void close() override { in_->close(); }
  std::exception_ptr failure() override { return in_->failure(); }
  void abort() noexcept override { in_->abort(); }

 private:
  std::unique_ptr<transport::Transport> in_;
};

class ProductLauncher final : public cuda::Launcher {
 public:
  // `tried` counts the operands on which products are tried out.
  explicit ProductLauncher(std::function<void(std::exception_ptr)> failed,
                           std::atomic<int>* tried = nullptr)
      : blas_(search(tried)), others_(cuda::make_host_launcher(cpu_bodies(), std::move(failed))) {}
  void launch(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) override {
    const bool product = kernel.op == Op::gemm || kernel.op == Op::grouped_gemm;
    if (product && blas_.multiply(stream, kernel, views)) return;
    others_->launch(stream, kernel, views);
  }
  void prepare(const Kernel& kernel) override {
    if (kernel.op == Op::gemm || kernel.op == Op::grouped_gemm) blas_.prepare(kernel);
  }

 private:
  static cuda::BlasSearch search(std::atomic<int>* tried) {
    cuda::BlasSearch search;
    if (tried != nullptr)
      search.fill = [tried](CUstream_st* stream, void* data, std::size_t bytes) {
        ++*tried;
        if (communicates) ++tried_late;
        cuda::fill_with_equal_numbers(stream, data, bytes);
      };
    return search;
  }

  cuda::Blas blas_;
  std::unique_ptr<cuda::Launcher> others_;
};

cuda::CudaOptions with_products(cuda::CudaOptions options, std::atomic<int>* tried = nullptr) {
  setenv("ORRERY_CUDA_LIBRARIES", ORRERY_LIBRARY_DOUBLES, 1);
  options.launcher = [tried](int, std::function<void(std::exception_ptr)> failed) {
    return std::make_unique<ProductLauncher>(std::move(failed), tried);
  };
  return options;
}

// C of the kernel, on operands of small numbers.
std::vector<double> product(World& world, const Kernel& kernel, std::array<std::int64_t, 4> sizes) {
  std::vector<double> result;
  world.run([&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    std::vector<Tensor> tensors;
    std::vector<Operand> operands;
    for (const std::int64_t size : sizes) {
      if (size == 0) continue;
      tensors.push_back(make(rank, compute, size));
      std::vector<float> values(static_cast<std::size_t>(size));
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>((i * 7 + tensors.size()) % 11) - 5;
      rank.write_bytes(tensors.back(), std::as_bytes(std::span(values)));
      operands.emplace_back(tensors.back());
    }
    compute.launch(rank.prepare(kernel), operands);
    rank.wait(compute.record());
    result = rank.read(tensors[2]);
  });
  return result;
}

// Sums of whole numbers: exact in any order.
void check_product(const Kernel& kernel, std::array<std::int64_t, 4> sizes) {
  WorldOptions options = options_for(Axis::replicate, 1);
  options.bodies = &cpu_bodies();
  const auto cpu = product(*make_cpu_world(options), kernel, sizes);
  const auto gpu =
      product(*cuda::make_cuda_world(options, with_products(on_the_double())), kernel, sizes);
  CAPTURE(kernel.label);
  CHECK(gpu == cpu);
}

}  // namespace

TEST_CASE("products in every layout are those of the CPU") {
  constexpr std::int64_t m = 3, n = 5, k = 4;
  for (int bits = 0; bits < 8; ++bits)
    check_product(
        Kernel::gemm(m, n, k, Dtype::fp32, (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0),
        {m * k, k * n, m * n, 0});
  check_product(Kernel::gemm_bias(m, n, k, Dtype::fp32), {m * k, k * n, m * n, n});
  check_product(Kernel::grouped_gemm(2, m, n, k, Dtype::fp32),
                {2 * m * k, 2 * k * n, 2 * m * n, 0});
}

TEST_CASE("a product is tried out when it is prepared, and no more when it is launched") {
  std::atomic<int> tried{0};
  run_on_double(
      options_for(Axis::replicate, 1),
      [&](Rank& rank) {
        Stream& compute = rank.stream("compute");
        const Tensor a = make(rank, compute, 3 * 3), b = make(rank, compute, 3 * 3),
                     c = make(rank, compute, 3 * 3);
        CHECK(tried == 0);
        const Prepared gemm = rank.prepare(Kernel::gemm(3, 3, 3, Dtype::fp32));
        const int prepared = tried;
        CHECK(prepared > 0);
        compute.launch(gemm, {a, b, c});
        rank.wait(compute.record());
        CHECK(tried == prepared);
      },
      with_products(on_the_double(), &tried));
}

TEST_CASE("weights and their gradients anywhere in a flat buffer need no trying out at a launch") {
  std::atomic<int> tried{0};
  run_on_double(
      options_for(Axis::replicate, 1),
      [&](Rank& rank) {
        Stream& compute = rank.stream("compute");
        const Tensor a = make(rank, compute, 9), c = make(rank, compute, 9),
                     flat = make(rank, compute, 3 + 9);
        for (const bool gradient : {false, true}) {
          const Prepared gemm =
              rank.prepare(Kernel::gemm(3, 3, 3, Dtype::fp32, gradient, false, gradient));
          const int prepared = tried;
          for (const std::int64_t at : {0, 1, 2, 3}) {
            const Tensor weights = flat.slice(at, at + 9);
            if (gradient)
              compute.launch(gemm, {a, c, weights});
            else
              compute.launch(gemm, {a, weights, c});
          }
          rank.wait(compute.record());
          CHECK(tried == prepared);
        }
      },
      with_products(on_the_double(), &tried));
}

TEST_CASE(
    "a product of which there is one algorithm runs when it is prepared: its code is loaded") {
  setenv("ORRERY_CUDA_LIBRARIES", ORRERY_LIBRARY_DOUBLES, 1);
  std::atomic<int> tried{0};
  cuda::BlasSearch search;
  search.proposals = 1;
  search.fill = [&tried](CUstream_st* stream, void* data, std::size_t bytes) {
    ++tried;
    cuda::fill_with_equal_numbers(stream, data, bytes);
  };
  cuda::Blas(search).prepare(Kernel::gemm(5, 3, 3, Dtype::fp32));
  CHECK(tried == 2 * 3);  // three operands, of weights that are aligned and of those that are not
}

TEST_CASE("no training prepares a product after its ranks have begun to communicate") {
  std::atomic<int> tried{0};
  for (const auto& [data, pipeline] : {std::pair{2, 1}, {1, 2}, {2, 2}}) {
    TrainingCase c;
    c.data = data;
    c.pipeline = pipeline;
    c.steps = 2;
    c.transformer = small_gpt();
    cuda::CudaOptions options = with_products(on_one_gpu(), &tried);
    options.transport = [inner = options.transport](int rank, transport::Waiting waiting) {
      return std::make_unique<TellingTransport>(inner(rank, std::move(waiting)));
    };
    std::vector<Checkpoint> state;
    run_on_double(training_options(c), training(c, state, nullptr), options);
    CHECK(tried > 0);
    CHECK(tried_late == 0);
  }
}

TEST_CASE("a product that is tried out waits for no stream of another rank") {
  std::promise<void> waits;
  run_on_double(
      options_for(Axis::replicate, 2),
      [&](Rank& rank) {
        Channel& channel = rank.channel(Axis::replicate, "gradients");
        Stream& compute = rank.stream("compute");
        Stream& comm = rank.stream("comm");
        const Tensor a = make(rank, compute, 4), b = make(rank, compute, 4),
                     c = make(rank, compute, 4), x = make(rank, comm, 8);
        comm.all_reduce(x, Reduce::sum, channel);  // so that nobody waits for the opening
        if (rank.id() == 1) {
          waits.get_future().wait();
          compute.launch(rank.prepare(Kernel::gemm(2, 2, 2, Dtype::fp32)), {a, b, c});
        }
        const Event end = comm.all_reduce(x, Reduce::sum, channel);
        if (rank.id() == 0) waits.set_value();
        rank.wait(end);
      },
      with_products(on_one_gpu()));
}

TEST_CASE("ranks on one GPU try out products one after the other, and never the same one twice") {
  const auto streams_at_once = [] {
    cuda_double::most_streams();
    run_on_double(
        options_for(Axis::replicate, 4),
        [](Rank& rank) {
          Stream& compute = rank.stream("compute");
          const Tensor a = make(rank, compute, 7 * 7), b = make(rank, compute, 7 * 7),
                       c = make(rank, compute, 7 * 7);
          compute.launch(rank.prepare(Kernel::gemm(7, 7, 7, Dtype::fp32)), {a, b, c});
          rank.wait(compute.record());
        },
        with_products(on_one_gpu()));
    return cuda_double::most_streams();
  };
  // One for all, of each rank one and "compute"; and one to try products out on, which stays.
  CHECK(streams_at_once() == 1 + 2 * 4 + 1);
  CHECK(streams_at_once() == 1 + 2 * 4 + 1);
}

}  // namespace orrery
