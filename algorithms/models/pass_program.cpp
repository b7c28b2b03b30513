#include "algorithms/models/pass_program.hpp"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace orrery {

int PassProgram::tensor(std::string name) {
  tensors_.push_back(std::move(name));
  communicated_.push_back(false);
  return static_cast<int>(tensors_.size()) - 1;
}

void PassProgram::add(const Prepared& kernel, std::vector<SlotView> operands) {
  if (steps_.empty() || steps_.back().kind != Kind::sequence) steps_.emplace_back();
  steps_.back().kernels.push_back({kernel, std::move(operands)});
}

void PassProgram::communicate(Collective kind, const Line& line, const SlotView& out,
                              const SlotView& in, Reduce reduce) {
  for (const SlotView& view : {out, in})
    if (view.slot >= 0) communicated_[static_cast<std::size_t>(view.slot)] = true;
  Step& step = steps_.emplace_back();
  step.kind = Kind::communicate;
  step.collective = kind;
  step.reduce = reduce;
  step.line = line;
  step.out = out;
  step.in = in;
}

void PassProgram::all_reduce(const Line& line, const SlotView& view, Reduce reduce) {
  communicate(Collective::all_reduce, line, view, view, reduce);
}
void PassProgram::all_gather(const Line& line, const SlotView& out, const SlotView& in) {
  communicate(Collective::all_gather, line, out, in);
}
void PassProgram::reduce_scatter(const Line& line, const SlotView& out, const SlotView& in) {
  communicate(Collective::reduce_scatter, line, out, in);
}
void PassProgram::all_to_all(const Line& line, const SlotView& out, const SlotView& in) {
  communicate(Collective::all_to_all, line, out, in);
}
void PassProgram::shift(const Line& send, const Line& receive, const SlotView& mine,
                        const SlotView& theirs) {
  communicate(Collective::send, send, {}, mine);
  communicate(Collective::receive, receive, theirs, {});
}
void PassProgram::wait() { wait(Line{}); }
void PassProgram::wait(const Line& line) {
  Step& step = steps_.emplace_back();
  step.kind = Kind::wait;
  step.line = line;
  for (Sequence::Step& late : std::exchange(behind_wait_, {}))
    add(late.kernel, std::move(late.operands));
}

namespace {

struct Interval {
  std::int64_t begin = 0, end = 0;
};

// Those that overlap become one.
std::vector<Interval> merged(std::vector<Interval> parts, bool hull) {
  std::sort(parts.begin(), parts.end(),
            [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  std::vector<Interval> out;
  for (const Interval& part : parts)
    if (!out.empty() && (hull || part.begin < out.back().end))
      out.back().end = std::max(out.back().end, part.end);
    else
      out.push_back(part);
  return out;
}

}  // namespace

// Per tensor what its kernels touch: apart where other streams may use what lies between.
std::vector<SlotView> PassProgram::slots_of(const Step& step) const {
  std::vector<std::vector<Interval>> touched(tensors_.size());
  for (const Sequence::Step& kernel : step.kernels)
    for (const SlotView& view : kernel.operands)
      if (view.slot >= 0)
        touched[static_cast<std::size_t>(view.slot)].push_back(
            {view.begin, view.begin + view.elements});
  std::vector<SlotView> slots;
  for (std::size_t t = 0; t < touched.size(); ++t)
    for (const Interval& part : merged(touched[t], !communicated_[t]))
      slots.push_back({static_cast<int>(t), part.begin, part.end - part.begin});
  return slots;
}

// A sequence has so many slots at most: a step that needs more becomes several.
void PassProgram::split_wide_steps() {
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    Step first = steps_[i], rest;
    while (first.kernels.size() > 1 && slots_of(first).size() > max_operands) {
      rest.kernels.insert(rest.kernels.begin(), std::move(first.kernels.back()));
      first.kernels.pop_back();
    }
    if (rest.kernels.empty()) continue;
    steps_[i] = std::move(first);
    steps_.insert(steps_.begin() + static_cast<std::ptrdiff_t>(i) + 1, std::move(rest));
  }
}

void PassProgram::build(Rank& rank, const std::string& key) {
  int sequences = 0;
  split_wide_steps();
  for (Step& step : steps_) {
    if (step.kind != Kind::sequence) continue;
    step.slots = slots_of(step);
    const std::string name = sequences == 0 ? key : key + "." + std::to_string(sequences);
    ++sequences;
    step.sequence = &rank.sequence(name, [&](Sequence& sequence) {
      for (const SlotView& slot : step.slots)
        sequence.slot(tensors_[static_cast<std::size_t>(slot.slot)]);
      for (const Sequence::Step& kernel : step.kernels) {
        std::vector<SlotView> operands = kernel.operands;
        for (SlotView& view : operands) {
          if (view.slot < 0) continue;
          const auto holder =
              std::find_if(step.slots.begin(), step.slots.end(), [&view](const SlotView& slot) {
                return slot.slot == view.slot && slot.begin <= view.begin &&
                       view.begin + view.elements <= slot.begin + slot.elements;
              });
          view.begin -= holder->begin;
          view.slot = static_cast<int>(holder - step.slots.begin());
        }
        sequence.add(kernel.kernel, std::move(operands));
      }
    });
    matrix_ += step.sequence->cost().matrix;
    step.kernels.clear();
    step.kernels.shrink_to_fit();
  }
  built_ = true;
}

namespace {

Operand operand_of(const Tensor& tensor, const SlotView& view) {
  if (!tensor) return {};
  Operand operand = tensor;
  operand.begin += view.begin;
  operand.end = operand.begin + view.elements;
  return operand;
}

}  // namespace

void PassProgram::issue(const Step& step, Stream& compute, std::initializer_list<Tensor> tensors) {
  const auto view = [&tensors](const SlotView& v) {
    return v.slot < 0 ? Tensor() : tensors.begin()[v.slot].slice(v.begin, v.begin + v.elements);
  };
  Stream& stream = *step.line.stream;
  Channel& channel = *step.line.channel;
  const Tensor out = view(step.out), in = view(step.in);
  stream.after(compute.record());
  switch (step.collective) {
    case Collective::all_reduce:
      stream.all_reduce(out, step.reduce, channel);
      return;
    case Collective::all_gather:
      stream.all_gather(out, in, channel);
      return;
    case Collective::reduce_scatter:
      stream.reduce_scatter(out, in, step.reduce, channel);
      return;
    case Collective::all_to_all:
      stream.all_to_all(out, in, channel);
      return;
    case Collective::send:
      stream.send(in, channel);
      return;
    case Collective::receive:
      stream.receive(out, channel);
      return;
    default:
      ORRERY_ASSERT(false, "a pass has no such communication");
  }
}

void PassProgram::run(Stream& compute, std::initializer_list<Tensor> tensors) const {
  std::array<Operand, max_operands> operands;
  for (const Step& step : steps_) {
    if (step.kind == Kind::sequence) {
      for (std::size_t i = 0; i < step.slots.size(); ++i)
        operands[i] = operand_of(tensors.begin()[step.slots[i].slot], step.slots[i]);
      compute.launch(*step.sequence, std::span<const Operand>(operands.data(), step.slots.size()));
    } else if (step.kind == Kind::communicate) {
      issue(step, compute, tensors);
    } else if (step.line.stream != nullptr) {
      compute.after(step.line.stream->record());
    } else {
      // Of every stream that has communicated: an event that is ordered before costs nothing.
      for (const Step& earlier : steps_) {
        if (&earlier == &step) break;
        if (earlier.kind == Kind::communicate) compute.after(earlier.line.stream->record());
      }
    }
  }
}

}  // namespace orrery
