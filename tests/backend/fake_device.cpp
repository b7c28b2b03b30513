#include "tests/backend/fake_device.hpp"

#include <algorithm>

namespace orrery {

View FakeDevice::view(const Operand& operand) {
  if (operand.storage == nullptr || operand.storage->data == nullptr)
    return {nullptr, operand.elements(), Dtype::fp32};
  const Dtype dtype = operand.storage->dtype;
  auto* data =
      static_cast<std::byte*>(operand.storage->data) + bytes_of(operand.begin, dtype).value;
  return {data, operand.elements(), dtype};
}

void FakeDevice::push(std::uint32_t stream, Operation operation) {
  queues_.at(stream).push_back(std::move(operation));
  if (!world_.hold) world_.settle();
}

bool FakeDevice::advance() {
  bool any = false;
  for (std::size_t stream = 0; stream < queues_.size(); ++stream) {
    auto& queue = queues_[stream];
    while (!queue.empty() && queue.front()()) {
      queue.pop_front();
      ++host_.passed[stream];
      any = true;
    }
  }
  return any;
}

void* FakeDevice::map(const Storage& storage) {
  if (!world_.state.options.real_values && storage.values != Values::always) return nullptr;
  return ::operator new(static_cast<std::size_t>(std::max<std::int64_t>(1, storage.bytes().value)));
}

void FakeDevice::unmap(void* data, const Storage&, Event after) {
  unmapped.push_back(after);
  ::operator delete(data);
}

void FakeDevice::launch(std::uint32_t stream, const PreparedKernel& kernel,
                        std::span<const Operand> operands, std::uint32_t) {
  std::vector<Operand> given(operands.begin(), operands.end());
  push(stream, [&kernel, given] {
    if (kernel.kernel.body == nullptr) return true;
    std::vector<View> views;
    for (const Operand& operand : given) views.push_back(view(operand));
    (*kernel.kernel.body)(views);
    return true;
  });
}

void FakeDevice::launch(std::uint32_t stream, const Sequence&, std::span<const Operand>) {
  push(stream, [] { return true; });
}

void FakeDevice::copy(std::uint32_t stream, const Operand& from, const Operand& to) {
  push(stream, [from, to] {
    const View in = view(from), out = view(to);
    if (in.data != nullptr && out.data != nullptr)
      std::memmove(out.data, in.data, static_cast<std::size_t>(from.bytes().value));
    return true;
  });
}

void FakeDevice::upload(std::uint32_t stream, const Operand& to, std::span<const double> values) {
  std::vector<double> given(values.begin(), values.end());
  push(stream, [to, given] {
    const View out = view(to);
    for (std::size_t i = 0; i < given.size(); ++i) {
      if (out.dtype == Dtype::int64)
        static_cast<std::int64_t*>(out.data)[i] = static_cast<std::int64_t>(given[i]);
      else
        static_cast<float*>(out.data)[i] = static_cast<float>(given[i]);
    }
    return true;
  });
}

void FakeDevice::fence(std::uint32_t stream, Event event) {
  fences.push_back(event);
  push(stream, [this, event] { return host_.done(event); });
}

void FakeDevice::communicate(
    std::uint32_t stream, Channel&, const Communication& c,
    const std::vector<std::pair<const Communicator*, std::uint64_t>>& others) {
  Rendezvous& r = c.communicator->issue(c, others, true);
  auto& part = r.parts[static_cast<std::size_t>(r.part_index(c.member))];
  part.in = view(c.in);
  part.out = view(c.out);
  push(stream, [this, &r, &part, c] {
    if (!part.arrived) {
      part.arrived = true;
      ++r.arrived;
    }
    if (r.arrived < r.expected) return false;
    // Values are read when the last member arrives, before any is written.
    if (r.finished == 0 && (r.parts[0].in.data != nullptr || r.parts[0].out.data != nullptr)) {
      std::vector<View> inputs;
      for (const auto& p : r.parts) inputs.push_back(p.in);
      world_.results[&r] = collective_result(r.first, inputs);
    }
    if (part.out.data != nullptr && world_.results.contains(&r)) {
      const auto bytes = result_for(r.first, world_.results[&r], r.part_index(c.member));
      if (!bytes.empty()) std::memcpy(part.out.data, bytes.data(), bytes.size());
    }
    if (++r.finished == r.expected) {
      world_.results.erase(&r);
      c.communicator->retire(r);
    }
    return true;
  });
}

bool FakeDevice::block(const Wait& wait) {
  if (host_.satisfied(wait)) return true;
  waits.push_back(wait.describe());
  if (waited) waited(wait);
  if (host_.satisfied(wait)) return true;
  if (wait.deadline == time_never) {
    world_.settle();
    if (host_.satisfied(wait)) return true;
    throw Error(Category::deadlock, "nothing can satisfy the wait for " + wait.describe());
  }
  clock = std::max(clock, wait.deadline);
  return false;
}

std::exception_ptr FakeDevice::failure(Event event) {
  const auto found = failures_.find(event.stream);
  return found == failures_.end() || event.ordinal < found->second.first ? nullptr
                                                                         : found->second.second;
}

void FakeDevice::fork(std::uint32_t flow, const std::string&, std::function<void()> body) {
  host_.flow_ended.resize(flow + 1, false);
  const std::uint32_t before = flow_;
  flow_ = flow;
  body();
  flow_ = before;
  host_.flow_ended[flow] = true;
}

void FakeDevice::send(int to, ControlMessage message) {
  message.from = id_;
  if (to < world_.size()) world_.device(to).host().mailbox.push_back(std::move(message));
}

ControlMessage FakeDevice::take_message(Tag tag, int from) {
  const int at = host_.find(tag, from);
  ControlMessage message = host_.mailbox.at(static_cast<std::size_t>(at));
  host_.mailbox.erase(host_.mailbox.begin() + at);
  return message;
}

}  // namespace orrery
