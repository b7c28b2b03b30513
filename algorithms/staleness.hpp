// How stale gradients are: how many updates lie between the parameters that a gradient was computed
// with and those that it is applied to. Counted as a training goes, not told by an algorithm: every
// pass notes which version of the parameters it reads, every update which one it changes.
#pragma once

#include <compare>
#include <cstdint>
#include <map>

namespace orrery {

// Parameters that so many updates have made, or are foretold to make where `predicted`.
struct Version {
  std::int64_t updates = 0;
  bool predicted = false;
  auto operator<=>(const Version&) const = default;
};

// Micro-batches whose gradients have been added up, by the version that they were computed with.
using GradientVersions = std::map<Version, std::int64_t>;

class Staleness {
 public:
  // What the parameters are now, and what passes read: the same, unless told otherwise.
  Version current() const { return current_; }
  Version read() const { return reads_current_ ? current_ : read_; }
  void reads(Version version) {
    read_ = version;
    reads_current_ = false;
  }
  void reads_current() { reads_current_ = true; }
  // The parameters were changed, by an average for one, but not by the gradients.
  void changed() { ++current_.updates; }

  // A micro-batch's gradient has been added to the others.
  void added(Version version) { ++waiting_[version]; }
  const GradientVersions& waiting() const { return waiting_; }
  void set_waiting(GradientVersions versions) { waiting_ = std::move(versions); }
  // They are applied to the current parameters, which they change.
  void apply() {
    apply(waiting_);
    waiting_.clear();
  }
  void apply(const GradientVersions& gradients) {
    for (const auto& [version, micro_batches] : gradients)
      count({current_.updates - version.updates, version.predicted}, micro_batches);
    ++current_.updates;
  }

  // Micro-batches by how many updates late they were applied, and whether they were computed with
  // predicted parameters.
  const GradientVersions& counts() const { return counts_; }
  void count(Version late, std::int64_t micro_batches = 1) { counts_[late] += micro_batches; }

 private:
  Version current_, read_;
  bool reads_current_ = true;
  GradientVersions waiting_, counts_;
};

}  // namespace orrery
