#include "backend/work_times.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <tuple>

namespace orrery {

const char* name(WorkClass kind) {
  static constexpr std::array<const char*, work_class_count> names{
      "gemm",      "attention", "norm", "elementwise", "cross_entropy",
      "embedding", "optimizer", "copy", "other",       "undivided"};
  return names.at(static_cast<std::size_t>(kind));
}

WorkClass class_of(Op op) {
  switch (op) {
    case Op::gemm:
    case Op::grouped_gemm:
    case Op::implicit_gemm:
    case Op::convolution:
    case Op::convolution_input_gradient:
    case Op::convolution_weight_gradient:
      return WorkClass::gemm;
    case Op::attention:
    case Op::attention_backward:
    case Op::attention_merge:
      return WorkClass::attention;
    case Op::norm:
    case Op::norm_backward:
    case Op::batch_norm:
    case Op::batch_norm_backward:
      return WorkClass::norm;
    case Op::cross_entropy:
    case Op::row_maximum:
    case Op::softmax_sums:
    case Op::softmax_gradient:
      return WorkClass::cross_entropy;
    case Op::embedding:
    case Op::embedding_backward:
      return WorkClass::embedding;
    case Op::sum_squares:
    case Op::clip_scale:
    case Op::sgd:
    case Op::adamw:
      return WorkClass::optimizer;
    case Op::permute:
    case Op::reorder:
    case Op::dispatch:
      return WorkClass::copy;
    case Op::column_sum:
    case Op::linear_combination:
    case Op::fill:
    case Op::cast:
    case Op::combine:
    case Op::combine_backward:
    case Op::dispatch_backward:
      return WorkClass::elementwise;
    default:
      return is_elementwise(op) ? WorkClass::elementwise : WorkClass::other;
  }
}

WorkRow row_of(const WorkItem& item) {
  switch (item.kind) {
    case WorkItem::Kind::copy:
      return {"copy", "copy", WorkClass::copy, 0, Time{}};
    case WorkItem::Kind::upload:
      return {"upload", "upload", WorkClass::copy, 0, Time{}};
    case WorkItem::Kind::kernel: {
      const Kernel& kernel = static_cast<const PreparedKernel*>(item.what)->kernel;
      return {kernel.label, kernel.label, class_of(kernel.op), 0, Time{}};
    }
    case WorkItem::Kind::sequence:
      break;
  }
  const auto& sequence = *static_cast<const Sequence*>(item.what);
  if (item.step < 0) return {sequence.name(), "", WorkClass::undivided, 0, Time{}};
  const Kernel& kernel =
      sequence.steps()[static_cast<std::size_t>(item.step)].kernel.kernel->kernel;
  return {sequence.name(), kernel.label, class_of(kernel.op), 0, Time{}};
}

void WorkTimes::step_ended() {
  ++steps_;
  if (steps_ <= 2)
    counted_ = std::move(now_);  // that of the first step until there is a second
  else
    for (const auto& [item, sum] : now_) {
      Sum& all = counted_[item];
      all.calls += sum.calls;
      all.time += sum.time;
    }
  now_.clear();
}

namespace {

// Calls `part(step, time)` for each kernel of a sequence; the times sum to `time`.
template <class Part>
void divide(const Sequence& sequence, Time time, const Part& part) {
  const double price = static_cast<double>(sequence.duration().picoseconds);
  Time until, priced;
  for (std::size_t step = 0; step < sequence.steps().size(); ++step) {
    priced += sequence.steps()[step].kernel.kernel->duration;
    const bool last = step + 1 == sequence.steps().size();
    const double share = static_cast<double>(priced.picoseconds) / price;
    const Time end = last ? time
                          : std::min(time, Time(static_cast<std::uint64_t>(
                                               share * static_cast<double>(time.picoseconds))));
    part(step, end - until);
    until = end;
  }
}

}  // namespace

std::vector<WorkRow> WorkTimes::rows() const {
  using Name = std::tuple<std::string, std::string, WorkClass>;
  std::map<Name, Sum> named;
  const auto add = [&named](const WorkItem& item, std::uint64_t calls, Time time) {
    const WorkRow row = row_of(item);
    Sum& sum = named[{row.operation, row.kernel, row.kind}];
    sum.calls += calls;
    sum.time += time;
  };
  for (const auto& [item, sum] : counted_) {
    const bool whole = item.kind == WorkItem::Kind::sequence && item.step < 0;
    const auto* sequence = whole ? static_cast<const Sequence*>(item.what) : nullptr;
    if (whole && sequence->duration() > Time{}) {
      divide(*sequence, sum.time, [&, calls = sum.calls](std::size_t step, Time time) {
        add(WorkItem::of(*sequence, step), calls, time);
      });
    } else {
      add(item, sum.calls, sum.time);
    }
  }
  std::vector<WorkRow> rows;
  for (const auto& [name, sum] : named)
    rows.push_back({std::get<0>(name), std::get<1>(name), std::get<2>(name), sum.calls, sum.time});
  return rows;
}

}  // namespace orrery
