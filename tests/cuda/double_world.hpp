// The CUDA world and the NCCL transport as they are, on the double of the libraries below them.
#pragma once

#include <doctest/doctest.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "backend/cpu/bodies.hpp"
#include "backend/cuda/environment.hpp"
#include "backend/cuda/local_transport.hpp"
#include "backend/cuda/world.hpp"
#include "backend/reference_collectives.hpp"
#include "backend/transport/nccl.hpp"
#include "backend/transport/store.hpp"
#include "tests/cuda/double/cuda_double.hpp"

namespace orrery {

// A GPU for each rank; kernels are the CPU's bodies, in stream order.
inline cuda::CudaOptions on_the_double() {
  cuda::CudaOptions options;
  options.gpu = [](int rank) { return rank; };
  options.launcher = [](int, std::function<void(std::exception_ptr)> failed) {
    return cuda::make_host_launcher(cpu_bodies(), std::move(failed));
  };
  options.transport = [store = std::make_shared<transport::LocalStore>()](
                          int rank, transport::Waiting waiting) {
    return transport::make_nccl_transport(rank, *store, std::move(waiting));
  };
  return options;
}

// As a kernel copies.
inline void copy_by_kernel(CUstream_st* stream, void* to, const void* from, std::size_t bytes) {
  cuda_double::append(stream, [=] { std::memmove(to, from, bytes); });
}

// All ranks on one GPU, where they meet; the operation is the reference's, done by the host in the
// order of the meeting's stream. Time that a throttle asks for is added up in `delayed`.
inline cuda::CudaOptions on_one_gpu(std::optional<Throttle> throttle = {},
                                    std::atomic<std::uint64_t>* delayed = nullptr) {
  cuda::LocalWork work;
  work.carry_out = [](transport::DeviceStream stream, const std::uint64_t* stop,
                      const Communication& c, std::span<const View> in, std::span<const View> out) {
    cuda_double::append(stream, [stop, c, inputs = std::vector<View>(in.begin(), in.end()),
                                 outputs = std::vector<View>(out.begin(), out.end())] {
      if (cuda_double::word(stop) != 0) return;
      const auto results = collective_result(c, inputs);
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        const auto bytes = result_for(c, results, static_cast<int>(i));
        if (outputs[i].data != nullptr && !bytes.empty())
          std::memcpy(outputs[i].data, bytes.data(), bytes.size());
      }
    });
  };
  work.delay = [delayed](transport::DeviceStream, Time time) { *delayed += time.picoseconds; };
  cuda::prepare_environment();
  cuda::CudaOptions options = on_the_double();
  options.gpu = [](int) { return 0; };
  options.copy = copy_by_kernel;
  options.transport = [hub = std::make_shared<std::unique_ptr<cuda::LocalHub>>(), work, throttle](
                          int rank, transport::Waiting waiting) {
    if (*hub == nullptr) *hub = std::make_unique<cuda::LocalHub>(work, throttle);
    return (*hub)->transport_of(rank, std::move(waiting));
  };
  return options;
}

// Time that passes by being looked at: a second each time. So patience is a number of looks.
inline std::function<Seconds()> counted_time() {
  return [looks = std::make_shared<std::atomic<int>>(0)] {
    return Seconds(static_cast<double>(looks->fetch_add(1)));
  };
}

// What no world may do, however its run ends: leave something on a stream that it destroys.
struct StreamsAreFinished {
  ~StreamsAreFinished() { CHECK(cuda_double::streams_destroyed_busy() == 0); }
};

inline RunReport run_on_double(WorldOptions options, const World::Program& program,
                               cuda::CudaOptions cuda = on_the_double()) {
  const StreamsAreFinished finished;
  options.bodies = &cpu_bodies();
  return cuda::make_cuda_world(std::move(options), std::move(cuda))->run(program);
}

}  // namespace orrery
