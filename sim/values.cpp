#include "sim/values.hpp"

#include <cstring>
#include <limits>
#include <utility>

#include "backend/core/error.hpp"
#include "backend/fp8.hpp"
#include "backend/reference_collectives.hpp"

namespace orrery::sim {

namespace {

std::size_t size_in_bytes(const View& view) {
  return static_cast<std::size_t>(bytes_of(view.elements, view.dtype).value);
}

std::vector<std::byte> copy_of(const View& view) {
  const auto* begin = static_cast<const std::byte*>(view.data);
  return {begin, begin + size_in_bytes(view)};
}

void store(const View& to, std::int64_t i, double value) {
  switch (to.dtype) {
    case Dtype::fp32:
      static_cast<float*>(to.data)[i] = static_cast<float>(value);
      return;
    case Dtype::fp64:
      static_cast<double*>(to.data)[i] = value;
      return;
    case Dtype::bf16:
      static_cast<std::uint16_t*>(to.data)[i] = to_bf16(static_cast<float>(value));
      return;
    case Dtype::fp16:
      static_cast<std::uint16_t*>(to.data)[i] = to_fp16(static_cast<float>(value));
      return;
    case Dtype::int32:
      static_cast<std::int32_t*>(to.data)[i] = static_cast<std::int32_t>(value);
      return;
    case Dtype::int64:
      static_cast<std::int64_t*>(to.data)[i] = static_cast<std::int64_t>(value);
      return;
    case Dtype::fp8:
      static_cast<std::uint8_t*>(to.data)[i] = to_fp8(static_cast<float>(value));
      return;
    case Dtype::uint8:
    case Dtype::fp4:
      static_cast<std::uint8_t*>(to.data)[i] = static_cast<std::uint8_t>(value);
      return;
  }
}

// What a value that this run cannot know reads as.
void make_unknown(const View& view) {
  if (view.data == nullptr) return;
  double unknown = std::numeric_limits<double>::quiet_NaN();
  if (view.dtype == Dtype::int32) unknown = std::numeric_limits<std::int32_t>::min();
  if (view.dtype == Dtype::int64)
    unknown = static_cast<double>(std::numeric_limits<std::int64_t>::min());
  if (view.dtype == Dtype::uint8) unknown = 0;
  for (std::int64_t i = 0; i < view.elements; ++i) store(view, i, unknown);
}

void write_bytes(const View& to, std::span<const std::byte> bytes) {
  ORRERY_ASSERT(bytes.size() == size_in_bytes(to), "a result fills its operand");
  if (!bytes.empty()) std::memcpy(to.data, bytes.data(), bytes.size());
}

}  // namespace

View view_of(const Operand& operand) {
  View view;
  if (operand.storage == nullptr) return view;
  view.elements = operand.elements();
  view.dtype = operand.storage->dtype;
  if (operand.storage->data != nullptr)
    view.data =
        static_cast<std::byte*>(operand.storage->data) + bytes_of(operand.begin, view.dtype).value;
  return view;
}

void ValueOperation::set_operands(std::span<const Operand> operands, std::uint32_t operand_roles) {
  roles = operand_roles;
  views.reserve(operands.size());
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const View& view = views.emplace_back(view_of(operands[i]));
    const auto bit = static_cast<std::uint16_t>(1U << i);
    if (operands[i].storage == nullptr) continue;
    if (view.data == nullptr)
      missing = static_cast<std::uint16_t>(missing | bit);
    else if (operands[i].racy)
      racy = static_cast<std::uint16_t>(racy | bit);
  }
}

void ValueOperation::set_upload(const Operand& to, std::span<const double> values) {
  const Operand operands[1] = {to};
  set_operands(operands, pack_roles({Role::write}));
  View view = view_of(to);
  std::vector<std::byte>& data = staged.emplace_back(size_in_bytes(view));
  view.data = data.data();
  for (std::size_t i = 0; i < values.size(); ++i)
    store(view, static_cast<std::int64_t>(i), values[i]);
  racy = 0;  // its data are staged already
}

void ValueOperation::take_copies() {
  staged.resize(views.size());
  for (std::size_t i = 0; i < views.size(); ++i)
    if (((racy >> i) & 1U) != 0) staged[i] = copy_of(views[i]);
}

void ValueOperation::run_kernel(const Kernel& body, std::uint32_t kernel_roles,
                                std::vector<View>& operands, bool lacks_values,
                                const KernelBodies* bodies) const {
  if (lacks_values) {
    for (std::size_t i = 0; i < operands.size(); ++i) {
      const Role role = role_of(kernel_roles, i);
      if (role == Role::write || role == Role::update) make_unknown(operands[i]);
    }
    return;
  }
  if (body.op == Op::timed) return;
  if (body.op == Op::custom && body.body != nullptr) {
    if (*body.body) (*body.body)(operands);
    return;
  }
  if (bodies == nullptr)
    throw Error(Category::invalid_program,
                std::string("kernel ") + body.label +
                    " computes values, and the world was given no bodies of kernels");
  bodies->run(body, operands);
}

void ValueOperation::carry_out(const KernelBodies* bodies) {
  if (kernel == nullptr && sequence == nullptr) {
    if (views.size() == 1) {
      write_bytes(views[0], staged[0]);  // an upload
    } else if (missing != 0) {
      make_unknown(views[1]);
    } else {
      write_bytes(views[1], staged.empty() || (racy & 1U) == 0 ? copy_of(views[0]) : staged[0]);
    }
    return;
  }
  std::vector<View> bound = views;
  for (std::size_t i = 0; i < bound.size(); ++i)
    if (((racy >> i) & 1U) != 0) bound[i].data = staged[i].data();
  if (kernel != nullptr) {
    run_kernel(kernel->kernel, roles, bound, missing != 0, bodies);
  } else {
    std::vector<View> operands;
    for (const Sequence::Step& step : sequence->steps()) {
      operands.clear();
      bool lacks_values = false;
      for (const SlotView& part : step.operands) {
        View view;
        if (part.slot >= 0) {
          const auto slot = static_cast<std::size_t>(part.slot);
          view = bound[slot];
          lacks_values = lacks_values || ((missing >> slot) & 1U) != 0;
          if (view.data != nullptr)
            view.data = static_cast<std::byte*>(view.data) + bytes_of(part.begin, view.dtype).value;
          view.elements = part.elements;
        }
        operands.push_back(view);
      }
      run_kernel(step.kernel.kernel->kernel, step.kernel.roles, operands, lacks_values, bodies);
    }
  }
  for (std::size_t i = 0; i < bound.size(); ++i)
    if (((racy >> i) & 1U) != 0 && role_of(roles, i) != Role::read)
      write_bytes(views[i], staged[i]);
}

void TransferValues::join(int part, const Operand& in, const Operand& out) {
  Part& mine = parts_[static_cast<std::size_t>(part)];
  mine.joined = true;
  mine.in = view_of(in);
  mine.out = view_of(out);
  mine.racy_in = in.racy && mine.in.data != nullptr;
  mine.racy_out = out.racy && mine.out.data != nullptr;
  reads_race_ = reads_race_ || mine.racy_in;
  writes_race_ = writes_race_ || mine.racy_out;
}

void TransferValues::take_copies() {
  for (Part& part : parts_) {
    if (!part.racy_in) continue;
    part.copy = copy_of(part.in);
    part.in.data = part.copy.data();
  }
}

bool TransferValues::lacks_inputs(const Communication& operation) const {
  const auto lacks = [](const Part& part) {
    return !part.joined || (part.in.data == nullptr && part.in.elements > 0);
  };
  switch (operation.kind) {
    case Collective::send:
    case Collective::receive:
      return lacks(parts_[0]);
    case Collective::broadcast:
      return lacks(parts_[static_cast<std::size_t>(operation.root)]);
    default:
      for (const Part& part : parts_)
        if (lacks(part)) return true;
      return false;
  }
}

void TransferValues::carry_out(const Communication& operation) {
  if (lacks_inputs(operation)) {
    for (Part& part : parts_) make_unknown(part.out);
    writes_race_ = false;
    return;
  }
  std::vector<View> inputs;
  inputs.reserve(parts_.size());
  for (const Part& part : parts_) inputs.push_back(part.in);
  const auto results = collective_result(operation, inputs);
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    Part& part = parts_[i];
    if (part.out.data == nullptr) continue;
    const std::span<const std::byte> result = result_for(operation, results, static_cast<int>(i));
    if (part.racy_out)
      part.result.assign(result.begin(), result.end());
    else
      write_bytes(part.out, result);
  }
}

void TransferValues::write_racy(int part) {
  const Part& mine = parts_[static_cast<std::size_t>(part)];
  if (mine.racy_out) write_bytes(mine.out, mine.result);
}

}  // namespace orrery::sim
