// How predictions compare with measurements: errors of cases, and their statistics by file and
// kind.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "platforms/cluster.hpp"

namespace orrery {

struct ScoredCase {
  std::string id, file, kind;
  std::string unit;  // "" when there is no figure
  std::optional<double> measured, predicted;
  std::optional<double> low, high;  // the forecast's band; absent without a calibration
  std::string skipped;              // the reason; "" when scored
  std::vector<Assumption> assumptions;

  // predicted / measured - 1; absent when skipped.
  std::optional<double> error() const;
};

// Of the scored cases of one kind in one file. Figures are fractions; absent when none is scored.
struct FileScore {
  std::string name, kind;
  std::size_t cases = 0, scored = 0;
  std::optional<double> mean_abs_error, median_abs_error;
  std::optional<double> bias;  // median of the signed errors
  std::optional<double> max_abs_error;
  std::optional<double> within_10;      // share of the cases with an error of at most 10 %
  std::optional<double> band_coverage;  // share of the measurements within the band, where there is
                                        // one
};

// One row per file and kind, in the order of the cases.
std::vector<FileScore> score_files(const std::vector<ScoredCase>& cases);

// Middle value, the mean of the two middle ones of an even number; empty of nothing.
std::optional<double> median(std::vector<double> values);

// Reasons of skipped cases with their numbers, the most frequent first, then by text.
struct SkipReason {
  std::string reason;
  std::size_t cases = 0;
};
std::vector<SkipReason> skip_reasons(const std::vector<ScoredCase>& cases);

}  // namespace orrery
