#include "calibration/kernel_samples.hpp"

#include "backend/core/error.hpp"
#include "platforms/measured.hpp"

namespace orrery {

KernelSamples samples_of(const KernelPoint& point, int busy) {
  const std::optional<KernelPlace> place = place_of(point.kernel);
  ORRERY_ASSERT(place, "a kernel without a class is not measured");
  KernelSamples samples;
  samples.kernels = place->kernels;
  samples.busy = busy;
  samples.held_back = point.held_back;
  samples.axes.assign(place->axes.begin(), place->axes.end());
  samples.at.assign(place->at.begin(),
                    place->at.begin() + static_cast<std::ptrdiff_t>(place->axes.size()));
  const Cost c = cost(point.kernel);
  samples.bytes = static_cast<double>((c.read + c.written).value);
  samples.flops = c.executed.value;
  return samples;
}

double share_at_place(const Kernel& kernel) {
  if (kernel.op != Op::attention && kernel.op != Op::attention_backward) return 1;
  return 1.0 / static_cast<double>(kernel.dims[0] * kernel.dims[1]);
}

}  // namespace orrery
