#include "scenarios/published/score.hpp"

#include <algorithm>
#include <cmath>
#include <map>

namespace orrery {

namespace {

FileScore score(const std::vector<const ScoredCase*>& cases) {
  FileScore out;
  out.name = cases.front()->file;
  out.kind = cases.front()->kind;
  out.cases = cases.size();
  std::vector<double> errors, sizes;
  std::size_t banded = 0, covered = 0;
  for (const ScoredCase* c : cases) {
    const std::optional<double> error = c->error();
    if (!error) continue;
    errors.push_back(*error);
    sizes.push_back(std::abs(*error));
    if (!c->low || !c->high) continue;
    ++banded;
    if (*c->low <= *c->measured && *c->measured <= *c->high) ++covered;
  }
  out.scored = errors.size();
  if (errors.empty()) return out;
  const auto number = static_cast<double>(errors.size());
  double sum = 0, within = 0;
  for (const double size : sizes) {
    sum += size;
    if (size <= 0.10 + 1e-12) ++within;  // a tenth in binary
  }
  out.mean_abs_error = sum / number;
  out.median_abs_error = median(sizes);
  out.bias = median(errors);
  out.max_abs_error = *std::max_element(sizes.begin(), sizes.end());
  out.within_10 = within / number;
  if (banded > 0) out.band_coverage = static_cast<double>(covered) / static_cast<double>(banded);
  return out;
}

}  // namespace

std::optional<double> ScoredCase::error() const {
  if (!skipped.empty() || !measured || !predicted) return std::nullopt;
  return *predicted / *measured - 1;
}

std::optional<double> median(std::vector<double> values) {
  if (values.empty()) return std::nullopt;
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  if (values.size() % 2 == 1) return values[middle];
  return (values[middle - 1] + values[middle]) / 2;
}

std::vector<FileScore> score_files(const std::vector<ScoredCase>& cases) {
  std::vector<std::vector<const ScoredCase*>> groups;
  std::map<std::pair<std::string, std::string>, std::size_t> index;
  for (const ScoredCase& c : cases) {
    const auto [at, fresh] = index.emplace(std::pair(c.file, c.kind), groups.size());
    if (fresh) groups.emplace_back();
    groups[at->second].push_back(&c);
  }
  std::vector<FileScore> out;
  for (const auto& group : groups) out.push_back(score(group));
  return out;
}

std::vector<SkipReason> skip_reasons(const std::vector<ScoredCase>& cases) {
  std::map<std::string, std::size_t> counts;
  for (const ScoredCase& c : cases)
    if (!c.skipped.empty()) ++counts[c.skipped];
  std::vector<SkipReason> out;
  for (const auto& [reason, number] : counts) out.push_back({reason, number});
  std::stable_sort(out.begin(), out.end(),
                   [](const SkipReason& a, const SkipReason& b) { return a.cases > b.cases; });
  return out;
}

}  // namespace orrery
