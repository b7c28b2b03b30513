#include "platforms/measured.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "backend/core/error.hpp"
#include "backend/core/real.hpp"
#include "backend/fp8.hpp"

namespace orrery {

namespace {

const char* activation_name(Activation a) {
  switch (a) {
    case Activation::none:
      return "none";
    case Activation::relu:
      return "relu";
    case Activation::gelu:
      return "gelu";
    case Activation::silu:
      return "silu";
  }
  return "";
}

KernelPlace gemm_place(const Kernel& k) {
  const auto [m, n, depth] = std::array{real(k.dims[0]), real(k.dims[1]), real(k.dims[2])};
  const char* extra = k.dims[3] != 0 ? "bias " : k.accumulate ? "accumulate " : "";
  // Of products in fp8 those with a scale per tensor are the usual.
  const char* scaling =
      k.dtype == Dtype::fp8 && fp8_of(k).scaling != Fp8Scaling::tensor ? " scaled otherwise" : "";
  return {fmt::format("gemm {}{} {}{}{}", k.transpose_a ? 't' : 'n', k.transpose_b ? 't' : 'n',
                      extra, name(k.dtype), scaling),
          {"m", "n", "k"},
          {m, n, depth},
          m * n * depth};
}

KernelPlace attention_place(const Kernel& k) {
  const double sequence = real(k.dims[3]), head = real(k.dims[4]);
  const auto which = static_cast<AttentionPart>(k.dims[5]);
  // Tables are of squares of queries and keys: half of one, or a prefix, is as much of the work.
  const bool square = which == AttentionPart::full || which == AttentionPart::causal;
  const double keys = which == AttentionPart::prefix ? sequence * k.part.of / 2
                      : square                       ? sequence
                                                     : sequence / 2;
  return {fmt::format("{} {} {}", name(k.op), which == AttentionPart::causal ? "causal" : "full",
                      name(k.dtype)),
          {"sequence", "head"},
          {sequence, head},
          real(k.dims[0]) * real(k.dims[1]) * sequence * keys * head};
}

KernelPlace matrix_place(const Kernel& k, const std::string& kernels, double rows, double cols) {
  return {kernels + (k.op == Op::text_batch ? "" : fmt::format(" {}", name(k.dtype))),
          {"rows", "cols"},
          {rows, cols},
          rows * cols};
}

KernelPlace vector_place(const Kernel& k, const std::string& kernels, double elements) {
  return {kernels + fmt::format(" {}", name(k.dtype)), {"elements"}, {elements}, elements};
}

// A gradient of another type than the parameter's is part of an optimizer's class, and so are
// moments below fp32.
KernelPlace optimizer_place(const Kernel& k, const std::string& kernels, std::int64_t gradient,
                            std::int64_t moments) {
  KernelPlace place = vector_place(k, kernels, real(k.dims[0]));
  const auto type = static_cast<Dtype>(gradient), kept = static_cast<Dtype>(moments);
  if (type != k.dtype) place.kernels += fmt::format(" gradient {}", name(type));
  if (kept != Dtype::fp32) place.kernels += fmt::format(" moments {}", name(kept));
  return place;
}

// Where x lies among the ascending values: the interval's first index and how far through it, in
// logarithms. Ends are clamped.
struct Cell {
  std::size_t index = 0;
  double fraction = 0;
  bool outside = false;
  double clamped = 0;
};
Cell cell_of(std::span<const double> values, double x) {
  if (x <= values.front()) return {0, 0, x < values.front(), values.front()};
  if (x >= values.back()) return {values.size() - 1, 0, x > values.back(), values.back()};
  const auto upper = std::upper_bound(values.begin(), values.end(), x);
  const auto index = static_cast<std::size_t>(upper - values.begin()) - 1;
  const double low = values[index], high = values[index + 1];
  return {index, x == low ? 0.0 : std::log(x / low) / std::log(high / low), false, x};
}

void check_ascending(const std::vector<double>& values, const SectionProblems& p, const char* key) {
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!(values[i] > (i == 0 ? 0.0 : values[i - 1])))
      return p.add(key, "the values must be positive and ascend");
}

void check_times(const std::vector<Seconds>& times, std::size_t wanted, const SectionProblems& p) {
  if (times.size() != wanted)
    return p.add("times", fmt::format("{} times for {} points", times.size(), wanted));
  for (const Seconds t : times)
    if (!(t > Seconds(0))) return p.add("times", "a time that is not positive");
}

}  // namespace

double MeasuredErrorSpec::band() const { return std::sqrt(p90 * p90 + spread * spread); }

void describe(Fields<MeasuredErrorSpec>& f) {
  f.field("points", &MeasuredErrorSpec::points).required().at_least(0);
  f.field("held_back", &MeasuredErrorSpec::held_back).required().at_least(0);
  f.field("mean_abs", &MeasuredErrorSpec::mean_abs).required().at_least(0);
  f.field("max_abs", &MeasuredErrorSpec::max_abs).required().at_least(0);
  f.field("p90", &MeasuredErrorSpec::p90).required().at_least(0);
  f.field("bias", &MeasuredErrorSpec::bias).required().at_least(-1);
  f.field("spread", &MeasuredErrorSpec::spread).required().at_least(0);
}

void describe(Fields<MeasuredAxisSpec>& f) {
  f.field("name", &MeasuredAxisSpec::name)
      .required()
      .one_of({"m", "n", "k", "sequence", "head", "rows", "cols", "elements"});
  f.list("at", &MeasuredAxisSpec::at).required().at_least_items(1);
  f.check(
      [](const MeasuredAxisSpec& s, const SectionProblems& p) { check_ascending(s.at, p, "at"); });
}

void describe(Fields<MeasuredTableSpec>& f) {
  f.field("kernels", &MeasuredTableSpec::kernels).required().doc("class, such as 'gemm nn fp32'");
  f.field("busy", &MeasuredTableSpec::busy).required().at_least(1);
  f.list("axes", &MeasuredTableSpec::axes).required().at_least_items(1);
  f.list("times", &MeasuredTableSpec::times).required();
  f.section("error", &MeasuredTableSpec::error);
  f.check([](const MeasuredTableSpec& s, const SectionProblems& p) {
    if (s.axes.size() > 3) return p.add("axes", "a table has at most three axes");
    std::size_t points = 1;
    for (const MeasuredAxisSpec& axis : s.axes) points *= axis.at.size();
    check_times(s.times, points, p);
  });
}

void describe(Fields<CollectiveTableSpec>& f) {
  f.field("operation", &CollectiveTableSpec::operation)
      .required()
      .one_of({"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send",
               "exchange"});
  f.field("members", &CollectiveTableSpec::members).required().at_least(2);
  f.list("sizes", &CollectiveTableSpec::sizes).required().at_least_items(1);
  f.list("times", &CollectiveTableSpec::times).required();
  f.section("error", &CollectiveTableSpec::error);
  f.check([](const CollectiveTableSpec& s, const SectionProblems& p) {
    for (std::size_t i = 1; i < s.sizes.size(); ++i)
      if (s.sizes[i] <= s.sizes[i - 1]) return p.add("sizes", "the sizes must ascend");
    if (s.sizes.back().value <= 0) return p.add("sizes", "the last size must be positive");
    check_times(s.times, s.sizes.size(), p);
  });
}

std::optional<KernelPlace> place_of(const Kernel& k) {
  const std::string op = name(k.op);
  const double rows = real(k.dims[0]), cols = real(k.dims[1]);
  switch (k.op) {
    case Op::gemm:
      return gemm_place(k);
    case Op::attention:
    case Op::attention_backward:
      return attention_place(k);
    case Op::bias_activation:
    case Op::bias_activation_backward:
    case Op::gated_activation:
    case Op::gated_activation_backward:
      return matrix_place(k, op + " " + activation_name(k.activation), rows, cols);
    case Op::norm:
    case Op::norm_backward:
      return matrix_place(
          k, op + (k.dims[2] == static_cast<std::int64_t>(Norm::rms) ? " rms" : " layer"), rows,
          cols);
    case Op::rotary:
      return matrix_place(k, op, rows * cols * real(k.dims[2]), real(k.dims[4]));
    case Op::column_sum:
    case Op::embedding:
    case Op::embedding_backward:
    case Op::cross_entropy:
    case Op::residual_add:
    case Op::add_positions:
    case Op::positions_backward:
    case Op::text_batch:
      return matrix_place(k, op, rows, cols);
    case Op::sgd:
      return optimizer_place(k, k.scalars[1] != 0 ? op + " momentum" : op, k.dims[2], k.dims[3]);
    case Op::adamw:
      return optimizer_place(k, op, k.dims[1], k.dims[2]);
    case Op::cast:
      return vector_place(k, op + " " + name(static_cast<Dtype>(k.dims[1])), rows);
    case Op::linear_combination:
    case Op::fill:
    case Op::sum_squares:
    case Op::clip_scale:
      return vector_place(k, op, rows);
    case Op::initialise:
      return vector_place(k, op, rows * cols);
    case Op::attention_merge:
    case Op::row_maximum:
    case Op::softmax_sums:
    case Op::softmax_gradient:
    case Op::permute:
    case Op::reorder:
    case Op::grouped_gemm:
    case Op::route:
    case Op::route_backward:
    case Op::dispatch:
    case Op::dispatch_backward:
    case Op::combine:
    case Op::combine_backward:
    case Op::convolution:
    case Op::convolution_input_gradient:
    case Op::convolution_weight_gradient:
    case Op::batch_norm:
    case Op::batch_norm_backward:
    case Op::residual_add_backward:
    case Op::max_pool:
    case Op::max_pool_backward:
    case Op::average_pool:
    case Op::average_pool_backward:
    case Op::picture_batch:
    case Op::implicit_gemm:
    case Op::fft:
    case Op::streaming:
    case Op::host_copy:
    case Op::custom:
    case Op::timed:
      break;
  }
  return std::nullopt;
}

double work_at(const std::vector<MeasuredAxisSpec>& axes, std::span<const double> at) {
  double work = 1;
  for (std::size_t i = 0; i < axes.size(); ++i)
    work *= axes[i].name == "sequence" ? at[i] * at[i] : at[i];
  return work;
}

TableAnswer read_table(const MeasuredTableSpec& table, std::span<const double> at, double work) {
  TableAnswer answer;
  const std::size_t axes = table.axes.size();
  std::array<Cell, 3> cells{};
  std::array<double, 3> clamped{};
  bool between = false;
  std::size_t first = 0;
  for (std::size_t i = 0; i < axes; ++i) {
    cells[i] = cell_of(table.axes[i].at, at[i]);
    clamped[i] = cells[i].clamped;
    between = between || cells[i].fraction > 0;
    first = first * table.axes[i].at.size() + cells[i].index;
    if (cells[i].outside && answer.outside == nullptr)
      answer.outside = &table.axes[i].name, answer.value = at[i];
  }
  Seconds time = table.times[first];
  if (between) {
    double logarithm = 0;
    for (std::size_t corner = 0; corner < (std::size_t{1} << axes); ++corner) {
      double weight = 1;
      std::size_t place = 0;
      for (std::size_t i = 0; i < axes; ++i) {
        const bool upper = ((corner >> i) & 1U) != 0;
        weight *= upper ? cells[i].fraction : 1 - cells[i].fraction;
        place = place * table.axes[i].at.size() + cells[i].index +
                (upper && cells[i].fraction > 0 ? 1 : 0);
      }
      if (weight > 0) logarithm += weight * std::log(table.times[place].value);
    }
    time = Seconds(std::exp(logarithm));
  }
  const double covered = work_at(table.axes, clamped);
  answer.time = work == covered ? time : time * (work / covered);
  return answer;
}

TableAnswer read_table(const CollectiveTableSpec& table, Bytes size) {
  TableAnswer answer;
  const auto upper = std::lower_bound(table.sizes.begin(), table.sizes.end(), size);
  const auto at = static_cast<std::size_t>(upper - table.sizes.begin());
  if (upper == table.sizes.end()) {
    answer.outside = &table.operation;
    answer.value = real(size.value);
    answer.time = table.times.back() * (answer.value / real(table.sizes.back().value));
  } else if (*upper == size || at == 0) {
    answer.time = table.times[at];  // below the first size, its time: latency is all there is
  } else {
    const double low = real(table.sizes[at - 1].value), high = real(upper->value),
                 x = real(size.value);
    const double from = table.times[at - 1].value, to = table.times[at].value;
    answer.time =
        low <= 0 ? Seconds(from + (to - from) * (x / high))
                 : Seconds(from * std::pow(to / from, std::log(x / low) / std::log(high / low)));
  }
  return answer;
}

std::vector<const MeasuredTableSpec*> tables_for(const std::vector<MeasuredTableSpec>& tables,
                                                 std::int64_t busy) {
  std::vector<const MeasuredTableSpec*> chosen;
  const auto better = [busy](std::int64_t a, std::int64_t b) {
    return a >= busy && b >= busy ? a < b : a > b;
  };
  for (const MeasuredTableSpec& table : tables) {
    const auto known = std::find_if(
        chosen.begin(), chosen.end(),
        [&](const MeasuredTableSpec* other) { return other->kernels == table.kernels; });
    if (known == chosen.end())
      chosen.push_back(&table);
    else if (better(table.busy, (*known)->busy))
      *known = &table;
  }
  return chosen;
}

}  // namespace orrery
