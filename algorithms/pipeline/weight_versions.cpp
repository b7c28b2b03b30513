#include "algorithms/pipeline/weight_versions.hpp"

namespace orrery {

WeightVersions::WeightVersions(Rank& rank, Stream& compute, const FlatParameters& flat, int delay)
    : flat_(flat) {
  const Tensor& now = flat.all_values();
  for (int i = 0; i < delay; ++i)
    older_.push_back(rank.allocate(compute, Label::parameters, now.elements(), now.dtype(),
                                   {.name = "older parameters"}));
}

const Tensor& WeightVersions::of(std::int64_t step) const {
  const auto delay = static_cast<std::int64_t>(older_.size());
  const std::int64_t wanted = version(step);
  ORRERY_ASSERT(wanted <= current_ && wanted >= current_ - delay,
                "a micro-batch uses a version that is kept");
  if (wanted == current_) return flat_.all_values();
  return older_[static_cast<std::size_t>(wanted % delay)];
}

void WeightVersions::keep(Stream& stream) {
  if (!older_.empty())
    stream.copy(flat_.all_values(), older_[static_cast<std::size_t>(current_) % older_.size()]);
  ++current_;
}

void WeightVersions::visit(Archive& archive) {
  const Archive::Scope scope(archive, "versions");
  archive.field("updates", current_);
  for (std::size_t i = 0; i < older_.size(); ++i) archive.field(std::to_string(i), older_[i]);
}

}  // namespace orrery
