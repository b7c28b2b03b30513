#include "scenarios/label_skew.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>

#include "backend/core/philox.hpp"

namespace orrery {

namespace {

// The logarithm of a number drawn from the gamma distribution of this shape: of a small shape the
// number itself would often be too small for a double. Marsaglia and Tsang, "A Simple Method for
// Generating Gamma Variables", ACM TOMS 26 (2000); shapes below 1 by their section 6.
double log_gamma_variate(Random& random, double shape) {
  const double boost = shape < 1 ? std::log1p(-random.uniform()) / shape : 0;
  const double d = std::max(shape, shape < 1 ? shape + 1 : shape) - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = random.normal(), v = std::pow(1 + c * x, 3), u = 1 - random.uniform();
    if (v > 0 && std::log(u) < x * x / 2 + d - d * v + d * std::log(v))
      return std::log(d) + std::log(v) + boost;
  }
}

// q ~ Dir(alpha p), but for a common factor; 0 where p is.
std::vector<double> dirichlet(Random& random, const std::vector<double>& alpha_p) {
  std::vector<double> q;
  double most = -std::numeric_limits<double>::infinity();
  for (const double shape : alpha_p) {
    q.push_back(shape > 0 ? log_gamma_variate(random, shape)
                          : -std::numeric_limits<double>::infinity());
    most = std::max(most, q.back());
  }
  for (double& v : q) v = std::exp(v - most);
  return q;
}

// In proportion to the weights, of which one at least is not 0.
std::size_t drawn(Random& random, const std::vector<double>& weights) {
  double at = random.uniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
  std::size_t last = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    last = i;
    if ((at -= weights[i]) < 0) break;
  }
  return last;
}

// The bytes of a record.
std::int64_t record_bytes(const Scenario& s) {
  if (s.model_spec.kind != ModelKind::resnet) return *s.data.sequence + 1;
  return 3 * std::int64_t{s.model_spec.resnet.image} * s.model_spec.resnet.image + 1;
}

std::vector<std::size_t> labels_of(const Scenario& s, std::string_view data) {
  const auto each = static_cast<std::size_t>(record_bytes(s));
  const std::size_t records = data.size() / each;
  const auto ranges =
      static_cast<std::size_t>(s.data.label_skew->labels.value_or(s.data_parallel()));
  std::vector<std::size_t> labels;
  for (std::size_t i = 0; i < records; ++i)
    labels.push_back(s.model_spec.kind == ModelKind::resnet
                         ? static_cast<unsigned char>(data[i * each])
                         : i * ranges / records);
  return labels;
}

}  // namespace

std::vector<std::vector<std::int64_t>> deal_labels(const std::vector<std::int64_t>& records,
                                                   int shards, double concentration,
                                                   std::uint64_t seed) {
  const std::int64_t all = std::accumulate(records.begin(), records.end(), std::int64_t{0});
  const auto shares = [concentration](const std::vector<std::int64_t>& of, std::int64_t sum) {
    std::vector<double> alpha_p;
    for (const std::int64_t n : of)
      alpha_p.push_back(concentration * static_cast<double>(n) / static_cast<double>(sum));
    return alpha_p;
  };
  std::vector<Random> random;  // stream 0 draws samples
  std::vector<std::vector<double>> wanted;
  for (int shard = 0; shard < shards; ++shard) {
    random.emplace_back(seed, Purpose::data_order, 1 + static_cast<std::uint32_t>(shard));
    wanted.push_back(dirichlet(random.back(), shares(records, all)));
  }
  std::vector<std::vector<std::int64_t>> dealt(wanted.size(),
                                               std::vector<std::int64_t>(records.size()));
  std::vector<std::int64_t> left = records;
  for (std::int64_t n = 0; n < all; ++n) {
    const auto shard = static_cast<std::size_t>(n % shards);
    std::vector<double>& q = wanted[shard];
    if (std::all_of(q.begin(), q.end(), [](double w) { return w <= 0; }))
      q = dirichlet(random[shard], shares(left, all - n));  // nothing that it wants is left
    const std::size_t label = drawn(random[shard], q);
    ++dealt[shard][label];
    if (--left[label] == 0)
      for (std::vector<double>& other : wanted) other[label] = 0;
  }
  return dealt;
}

std::vector<std::shared_ptr<const std::string>> skewed_shards(const Scenario& scenario,
                                                              std::string_view data) {
  const auto each = static_cast<std::size_t>(record_bytes(scenario));
  const std::vector<std::size_t> labels = labels_of(scenario, data);
  std::vector<std::vector<std::size_t>> places;  // of records, by label
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] >= places.size()) places.resize(labels[i] + 1);
    places[labels[i]].push_back(i);
  }
  std::vector<std::int64_t> counts;
  for (const auto& of_label : places) counts.push_back(static_cast<std::int64_t>(of_label.size()));
  std::vector<std::size_t> taken(places.size());
  std::vector<std::shared_ptr<const std::string>> shards;
  for (const auto& dealt :
       deal_labels(counts, scenario.data_parallel(), scenario.data.label_skew->concentration,
                   scenario.run.seed)) {
    std::string shard;
    for (std::size_t label = 0; label < places.size(); ++label)
      for (std::int64_t n = 0; n < dealt[label]; ++n)
        shard += data.substr(places[label][taken[label]++] * each, each);
    shards.push_back(std::make_shared<const std::string>(std::move(shard)));
  }
  return shards;
}

void check_label_skew(const Scenario& s, Problems& problems) {
  if (!s.data.label_skew) return;
  if (s.run.values != RunValues::real)
    return problems.add("data.label_skew", "virtual values have no labels by which to divide them",
                        "set run.values to real, or value_model.label_skew");
  if (s.model_spec.kind == ModelKind::resnet && s.data.label_skew->labels)
    problems.add("data.label_skew.labels", "pictures have labels of their own", "leave it out");
  std::error_code none;
  const auto bytes = static_cast<double>(std::filesystem::file_size(*s.data.text, none));
  const auto records =
      static_cast<std::int64_t>(std::llround(bytes * (1 - s.data.held_out)) / record_bytes(s));
  const std::int64_t least =
      std::max<std::int64_t>(s.data_parallel(), s.data.label_skew->labels.value_or(0));
  if (!none && records < least)
    problems.add("data.label_skew",
                 fmt::format("{} records of {} bytes do not divide into {} parts", records,
                             record_bytes(s), least),
                 "use more data, or fewer GPUs or labels");
}

}  // namespace orrery
