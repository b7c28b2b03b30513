#include "platforms/conditions.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backend/core/error.hpp"
#include "backend/core/philox.hpp"

namespace orrery {

namespace {

// Streams of Purpose::jitter above those of the ranks, whose kernels' they are
// (sim/variability.hpp).
constexpr std::uint32_t speed_stream = 0xffff'ffff;
constexpr std::uint32_t link_stream = 0xffff'0000;  // and up, one per entry, twice

template <class Spec>
void distribution_key(Fields<Spec>& f) {
  f.field("distribution", &Spec::distribution)
      .one_of({{"normal", Distribution::normal},
               {"uniform", Distribution::uniform},
               {"log-normal", Distribution::log_normal}});
  f.field("spread", &Spec::spread).between(0, 0.5).doc("standard deviation over the mean");
}

// Whether `name` is this link, or lies below it: "node3" and "node3.nic0" name "node3.nic0.out".
bool names(const std::string& name, const LinkSpec& link) {
  if (name == orrery::name(link.tier)) return true;
  return link.name.starts_with(name) &&
         (link.name.size() == name.size() || link.name[name.size()] == '.');
}

}  // namespace

void describe(Fields<SlowGpusSpec>& f) {
  f.list("gpus", &SlowGpusSpec::gpus).required().at_least(0).doc("numbers of ranks, from 0");
  f.field("speed", &SlowGpusSpec::speed).required().between(0.001, 1000);
}

void describe(Fields<GpuSpeedSpec>& f) {
  distribution_key(f);
  f.list("slow", &GpuSpeedSpec::slow).doc("single GPUs, and how fast they are beside the others");
}

void describe(Fields<LinkConditionSpec>& f) {
  f.field("links", &LinkConditionSpec::links)
      .required()
      .doc("a tier such as nic, a link such as node3.nic0.out, or the first parts of its name");
  f.field("bandwidth", &LinkConditionSpec::bandwidth)
      .between(0.0001, 1000)
      .doc("of an affected link, over what it should be");
  f.field("share", &LinkConditionSpec::share).between(0, 1).doc("of them that are affected");
  distribution_key(f);
}

void describe(Fields<ConditionsSpec>& f) {
  f.field("seed", &ConditionsSpec::seed).doc("absent: run.seed");
  f.section("gpu_speed", &ConditionsSpec::gpu_speed).doc("from GPU to GPU");
  f.field("jitter", &ConditionsSpec::jitter)
      .between(0, 0.25)
      .doc("from kernel to kernel: standard deviation over the mean");
  f.list("links", &ConditionsSpec::links).doc("in a condition of their own");
}

double draw(Distribution distribution, double spread, std::uint64_t seed, std::uint32_t stream,
            std::uint64_t index) {
  const Philox random(seed, Purpose::jitter, stream);
  switch (distribution) {
    case Distribution::normal:
      return std::max(0.05, 1 + spread * random.normal(index));
    case Distribution::uniform:
      return 1 + spread * std::sqrt(3.0) * (2 * random.uniform(index) - 1);
    case Distribution::log_normal: {
      const double variance = std::log(1 + spread * spread);
      return std::exp(std::sqrt(variance) * random.normal(index) - variance / 2);
    }
  }
  return 1;
}

std::vector<double> gpu_slowness(const GpuSpeedSpec& spec, int gpus, std::uint64_t seed) {
  if (spec.spread == 0 && spec.slow.empty()) return {};
  std::vector<double> speed(static_cast<std::size_t>(gpus), 1.0);
  if (spec.spread > 0)
    for (std::size_t g = 0; g < speed.size(); ++g)
      speed[g] = draw(spec.distribution, spec.spread, seed, speed_stream, g);
  for (const SlowGpusSpec& slow : spec.slow)
    for (const std::int64_t g : slow.gpus) {
      if (g >= gpus)
        throw Error(
            Category::config,
            fmt::format("cluster_conditions.gpu_speed.slow: there is no GPU {}: the run has {}", g,
                        gpus));
      speed[static_cast<std::size_t>(g)] *= slow.speed;
    }
  for (double& s : speed) s = 1 / s;
  return speed;
}

std::vector<double> link_factors(const std::vector<LinkConditionSpec>& specs,
                                 const std::vector<LinkSpec>& links, std::uint64_t seed) {
  if (specs.empty()) return {};
  std::vector<double> factors(links.size(), 1.0);
  std::uint32_t stream = link_stream;
  for (const LinkConditionSpec& spec : specs) {
    const Philox affected(seed, Purpose::jitter, stream);
    bool found = false;
    for (std::size_t i = 0; i < links.size(); ++i) {
      if (!names(spec.links, links[i])) continue;
      found = true;
      if (spec.share < 1 && affected.uniform(i) >= spec.share) continue;
      factors[i] *= spec.bandwidth;
      if (spec.spread > 0) factors[i] *= draw(spec.distribution, spec.spread, seed, stream + 1, i);
    }
    if (!found)
      throw Error(Category::config,
                  fmt::format("cluster_conditions.links: no link is called '{}'", spec.links))
          .with("hint", fmt::format("one is called {}", links.empty() ? "" : links.front().name));
    stream += 2;
  }
  return factors;
}

}  // namespace orrery
