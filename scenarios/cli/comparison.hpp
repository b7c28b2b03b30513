// A simulation beside real runs of the same scenario: what `orrery validate` prints (schema
// orrery.validation/1).
//
// A difference is simulated / measured - 1, a fraction; 0 where both are 0, unknown (null) where
// only the measured figure is, or where one is not known. The measured result is that of the repeat
// with the median step time (the faster of two in the middle). The difference of losses is that of
// the step where it is largest; 0 means equal bits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "scenarios/cli/provenance.hpp"
#include "scenarios/cli/result.hpp"

namespace orrery::cli {

// One run for real.
struct Repeat {
  std::string result;             // as to_json makes it
  double median_step_s = 0;       // of the slowest rank's steps 2 to n
  std::int64_t ledger_bytes = 0;  // sum of all ranks' peaks, by the ledger
  std::int64_t resident_growth =
      0;                          // of the process, from before the run to its largest; 0: unknown
  std::int64_t device_bytes = 0;  // of ledger_bytes, those on devices
};

// To bring it from one process to another. from_text throws what reading JSON throws.
std::string to_text(const Repeat& repeat);
Repeat repeat_from_text(const std::string& text);

// What the repeat is, of a run that has just ended in this process.
Repeat repeat_of(const RunReport& report, const Result& result, std::int64_t resident_growth);

class Comparison {
 public:
  // `simulated`: a result's JSON. `repeats`: at least one, in the order in which they ran.
  Comparison(std::string simulated, std::vector<Repeat> repeats, std::optional<double> tolerance);

  // One more run, in which kernels were measured one by one: the classes of `work` are its.
  void add_profile(std::string result) { profile_ = std::move(result); }
  void add_provenance(Provenance provenance) { provenance_ = std::move(provenance); }

  std::optional<double> step_difference() const;
  // Whether the step time's difference is known and at most the tolerance, if there is one.
  bool within_tolerance() const;
  std::string to_json() const;  // one object, with a final newline
  std::string to_table(const Subject& subject, bool color) const;
  std::string to_page(const Subject& subject) const;  // in HTML

 private:
  std::string simulated_;
  std::vector<Repeat> repeats_;
  std::size_t median_ = 0;
  std::optional<double> tolerance_;
  std::string profile_;  // a result's JSON; "": none
  Provenance provenance_;
};

}  // namespace orrery::cli
