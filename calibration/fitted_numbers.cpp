#include "calibration/fitted_numbers.hpp"

#include <algorithm>
#include <cmath>

#include "backend/core/error.hpp"

namespace orrery {

namespace {

// The largest rate of the samples that `wanted` accepts, by what `work` says of them.
template <class Wanted, class Work>
double fastest(const std::vector<KernelSamples>& samples, const Wanted& wanted, const Work& work) {
  double best = 0;
  for (const KernelSamples& s : samples)
    if (s.busy == 1 && wanted(s)) best = std::max(best, work(s) / median(s.seconds));
  return best;
}

}  // namespace

Seconds typical(const std::vector<double>& seconds) {
  if (seconds.empty())
    throw Error(Category::internal, "a calibration without host costs makes no platform");
  return Seconds(std::round(median(seconds) * 1e12) / 1e12);
}

double fastest_product(const std::vector<KernelSamples>& samples, Dtype dtype) {
  const std::string type = std::string(" ") + name(dtype);
  return fastest(
      samples,
      [&](const auto& s) { return s.kernels.starts_with("gemm") && s.kernels.ends_with(type); },
      [](const auto& s) { return s.flops; });
}

double fastest_stream(const std::vector<KernelSamples>& samples) {
  return fastest(
      samples, [](const auto& s) { return s.kernels.starts_with("linear_combination"); },
      [](const auto& s) { return s.bytes; });
}

Sourced<double> fitted_edge(const std::vector<KernelSamples>& samples,
                            const GemmConstants& constants, const std::string& cases) {
  const EdgeFit fit = fit_edge(samples, constants);
  Sourced<double> edge(fit.edge);
  edge.source = Source{};
  edge.source->kind = SourceKind::fitted;
  edge.source->cases = {cases};
  edge.source->residual = std::round(fit.residual * 1e4) / 1e4;
  return edge;
}

}  // namespace orrery
