// Helpers of the CPU world's tests.
#pragma once

#include <doctest/doctest.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backend/cpu/world.hpp"
#include "backend/rank.hpp"

namespace orrery {

inline WorldOptions options_for(Axis axis, int ranks) {
  WorldOptions options;
  options.grid.set(axis, ranks);
  options.real_values = true;
  return options;
}

inline RunReport run_cpu(WorldOptions options, const World::Program& program, CpuOptions cpu = {}) {
  return make_cpu_world(std::move(options), cpu)->run(program);
}

inline RunReport run_cpu(int ranks, const World::Program& program) {
  return run_cpu(options_for(Axis::replicate, ranks), program);
}

// The Error that `run` throws.
inline std::optional<Error> error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

// Whether what() of the error holds all of these.
inline bool mentions(const Error& error, const std::vector<std::string>& parts) {
  const std::string text = error.what();
  for (const std::string& part : parts)
    if (text.find(part) == std::string::npos) {
      MESSAGE("'" << part << "' is not in: " << text);
      return false;
    }
  return true;
}

inline Tensor make(Rank& rank, Stream& home, std::int64_t elements, Dtype dtype = Dtype::fp32) {
  return rank.allocate(home, Label::activations, elements, dtype);
}

inline void fill(Rank& rank, Stream& stream, const Tensor& tensor, double value) {
  stream.launch(rank.prepare(Kernel::fill(tensor.elements(), value, tensor.dtype())), {tensor});
}

// A kernel that does something on the host, with no operands of its own.
inline Prepared action(Rank& rank, std::function<void()> body) {
  return rank.prepare(
      Kernel::custom("action", {}, [body = std::move(body)](std::span<const View>) { body(); }));
}

}  // namespace orrery
