// What measures each kernel on the GPU itself, behind an interface that needs no GPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/core/units.hpp"

namespace orrery::cuda {

// A kernel, a copy or a filling of memory as the GPU ran it.
struct GpuActivity {
  std::uint64_t region = 0;  // in which it was enqueued
  std::string name;          // of the function, as its compiler wrote it; "copy", "set memory"
  Time length;
};

class Profiler {
 public:
  virtual ~Profiler() = default;
  // What the calling thread enqueues until leave() belongs to `region`. Regions do not nest.
  virtual void enter(std::uint64_t region) = 0;
  virtual void leave() = 0;
  // All that has ended since the last call, in regions. No stream may be at work.
  virtual std::vector<GpuActivity> take() = 0;
};

}  // namespace orrery::cuda
