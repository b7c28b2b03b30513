// One kernel on a GPU and on the CPU, on the same random inputs.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "backend/core/philox.hpp"
#include "backend/cpu/bodies.hpp"
#include "backend/cpu/world.hpp"
#include "backend/cuda/environment.hpp"
#include "backend/cuda/gpu/combine.hpp"
#include "backend/cuda/gpu/gpu.hpp"
#include "backend/cuda/world.hpp"
#include "backend/fp8.hpp"
#include "backend/rank.hpp"
#include "backend/transport/nccl.hpp"
#include "backend/transport/store.hpp"

namespace orrery {

inline constexpr Dtype bulk_types[] = {Dtype::fp32, Dtype::bf16, Dtype::fp16};

// Whether there is a GPU; says so where there is none, and why. A test that needs one then returns.
inline bool gpu_here() {
  cuda::prepare_environment();
  if (cuda::gpu_count() > 0) return true;
  MESSAGE("skipped: no GPU can be used here (" << cuda::why_no_gpu() << ")");
  return false;
}

inline cuda::CudaOptions on_gpus(const cuda::Copy& copy = cuda::copy_async) {
  cuda::CudaOptions options;
  options.copy = copy;
  options.gpu = [](int rank) { return rank; };
  options.patience = Seconds(20);
  options.launcher = [copy](int gpu, std::function<void(std::exception_ptr)> failed) {
    return cuda::make_gpu_launcher(gpu, cpu_bodies(), std::move(failed), copy);
  };
  options.transport = [store = std::make_shared<transport::LocalStore>()](
                          int rank, transport::Waiting waiting) {
    return transport::make_nccl_transport(rank, *store, std::move(waiting));
  };
  return options;
}

// All ranks on the first GPU.
inline cuda::CudaOptions on_one_gpu() {
  cuda::CudaOptions options = on_gpus(cuda::copy_by_kernel);
  options.gpu = [](int) { return 0; };
  options.transport = [hub = std::make_shared<std::optional<cuda::LocalHub>>()](
                          int rank, transport::Waiting waiting) {
    if (!*hub) hub->emplace(cuda::gpu_local_work(), std::nullopt);
    return (*hub)->transport_of(rank, std::move(waiting));
  };
  return options;
}

// An operand and what is in it before: random numbers of that deviation; whole numbers below a
// bound; a value; or, of what a kernel only writes, not numbers at all.
struct OperandCase {
  std::int64_t elements = 0;
  Dtype dtype = Dtype::fp32;
  double deviation = 1;
  std::int64_t below = 0;
  std::vector<double> values = {};
  std::int64_t from = 0;  // the element of its storage that it begins with
};

inline std::vector<double> initial(const OperandCase& operand, std::uint64_t seed, bool poison) {
  const Philox philox(seed, Purpose::user);
  std::vector<double> x(static_cast<std::size_t>(operand.elements));
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = operand.deviation * static_cast<double>(philox.normal(i));
    if (operand.below > 0)
      x[i] = static_cast<double>(philox.below(i, static_cast<std::uint64_t>(operand.below)));
    if (!operand.values.empty()) x[i] = operand.values[i];
    if (poison) x[i] = NAN;
  }
  return x;
}

inline std::vector<std::byte> stored(const std::vector<double>& x, Dtype dtype) {
  const auto each = static_cast<std::size_t>(size_of(dtype));
  std::vector<std::byte> bytes(x.size() * each);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto put = [&](auto number) { std::memcpy(bytes.data() + i * each, &number, each); };
    switch (dtype) {
      case Dtype::bf16:
        put(to_bf16(static_cast<float>(x[i])));
        break;
      case Dtype::fp16:
        put(to_fp16(static_cast<float>(x[i])));
        break;
      case Dtype::fp8:
        put(to_fp8(static_cast<float>(x[i])));
        break;
      case Dtype::fp64:
        put(x[i]);
        break;
      case Dtype::int32:
        put(static_cast<std::int32_t>(x[i]));
        break;
      default:
        put(static_cast<float>(x[i]));
    }
  }
  return bytes;
}

// What all operands hold after the kernel, as numbers.
inline std::vector<std::vector<double>> after(World& world, const Kernel& kernel,
                                              const std::vector<OperandCase>& operands) {
  std::vector<std::vector<double>> results;
  world.run([&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    std::vector<Tensor> tensors;
    std::vector<Operand> given;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      const OperandCase& operand = operands[i];
      tensors.emplace_back();
      if (operand.elements > 0) {
        const std::int64_t end = operand.from + operand.elements;
        tensors.back() =
            rank.allocate(compute, Label::activations, end, operand.dtype).slice(operand.from, end);
        const bool poison = role_of(kernel.roles, i) == Role::write;
        rank.write_bytes(tensors.back(), stored(initial(operand, i + 1, poison), operand.dtype));
      }
      given.push_back(tensors.back());
    }
    compute.launch(rank.prepare(kernel), given);
    rank.wait(compute.record());
    for (const Tensor& tensor : tensors)
      results.push_back(tensor ? rank.read(tensor) : std::vector<double>{});
  });
  return results;
}

// Whether it writes parts of its results only and says nothing of the rest.
inline bool writes_in_part(const Kernel& kernel) {
  return kernel.op == Op::attention &&
         static_cast<AttentionPart>(kernel.dims[5]) == AttentionPart::late_queries;
}

// Each number of the GPU's within `error` of the CPU's, relative to the largest in its operand or
// to 1, whichever is more; what the CPU leaves as it is, too.
inline void check_kernel(const Kernel& kernel, const std::vector<OperandCase>& operands,
                         double error, cuda::CudaOptions gpus = on_gpus()) {
  WorldOptions options;
  options.real_values = true;
  options.bodies = &cpu_bodies();
  const auto cpu = after(*make_cpu_world(options), kernel, operands);
  const auto gpu = after(*cuda::make_cuda_world(options, std::move(gpus)), kernel, operands);
  CAPTURE(std::string(kernel.label));
  CAPTURE(std::string(name(kernel.dtype)));
  for (std::size_t i = 0; i < operands.size(); ++i) {
    CAPTURE(i);
    double largest = 1, off = 0;
    bool alike = true;  // in what is no number
    for (std::size_t j = 0; j < cpu[i].size(); ++j) {
      const double a = cpu[i][j], b = gpu[i][j];
      alike = alike && (std::isnan(a) == std::isnan(b) || writes_in_part(kernel));
      if (std::isnan(a) || std::isnan(b)) continue;
      largest = std::max(largest, std::fabs(a));
      off = std::max(off, std::fabs(a - b));
    }
    CHECK(alike);
    CHECK(off <= error * largest);
  }
}

}  // namespace orrery
