// V-Half and V-Min: schedules whose peak is the life span of one micro-batch over the interval
// between two (Qi et al. 2024, NeurIPS, "Pipeline Parallelism with Controllable Memory", arXiv
// 2405.15362, sections 3 and 4), after sail-sg/zero-bubble-pipeline-parallelism,
// megatron/core/pipeline_parallel/zerobubble/scheduler/zbv_greedy.py.
//
//   a building block says in which slots of unit length one micro-batch's passes are on each device
//   repeat it every 6 slots, as a device has 6 passes per micro-batch; weight gradients take free
//     slots; squeeze:  begin each pass as soon as its input and its device are ready
//   reorder, before the steady state and behind it: move each pass to the earliest free slot behind
//     its input at which the device's peak does not grow; squeeze again
#include <algorithm>
#include <array>
#include <tuple>

#include "algorithms/pipeline/task_order.hpp"

namespace orrery {

namespace {

// A device's passes over one micro-batch in the order of their dependence; weight gradients of
// either chunk share a lane.
enum Lane : std::uint8_t { forward_down, forward_up, backward_down, backward_up, weight };
constexpr int steps = 4, lanes = 5, interval = 6;

using Slots = std::array<std::vector<int>, lanes>;  // of one device, by lane and micro-batch
using DeviceSlots = std::array<int, steps>;         // slots of one device's passes

// A pass and its slot.
struct SlottedPass {
  int slot, device, lane, micro_batch;
};

class SlotTable {
 public:
  SlotTable(const std::vector<DeviceSlots>& blocks, int micro_batches)
      : m_(micro_batches), devices_(blocks.size()) {
    for (std::size_t d = 0; d < blocks.size(); ++d)
      for (std::size_t lane = 0; lane < steps; ++lane)
        for (int i = 0; i < m_; ++i) devices_[d][lane].push_back(blocks[d][lane] + i * interval);
  }

  void optimise() {
    add_weights();
    reorder(true);
    squeeze();
    drop_weights();
    reorder(false);
    add_weights();
    squeeze();
    drop_weights();
    add_weights();
  }

  // In the order of the slots; weight gradients are taken of the second chunk as long as it has
  // any.
  TaskList tasks(std::size_t device) const {
    TaskOrder order({0, 0});
    for (const SlottedPass& e : events(device, device + 1)) {
      if (e.lane == forward_down || e.lane == forward_up)
        order.forward(e.lane == forward_up ? 1 : 0);
      else if (e.lane != weight)
        order.backward_input(e.lane == backward_down ? 1 : 0);
      else
        order.backward_weight(order.due(1) > 0 ? 1 : 0);
    }
    return order.take();
  }

 private:
  std::vector<SlottedPass> events(std::size_t first, std::size_t last) const {
    std::vector<SlottedPass> all;
    for (std::size_t d = first; d < last; ++d)
      for (int lane = 0; lane < lanes; ++lane) {
        const auto& slots = devices_[d][static_cast<std::size_t>(lane)];
        for (std::size_t i = 0; i < slots.size(); ++i)
          all.push_back({slots[i], static_cast<int>(d), lane, static_cast<int>(i)});
      }
    std::sort(all.begin(), all.end(), [](const SlottedPass& a, const SlottedPass& b) {
      return std::tie(a.slot, a.device, a.lane, a.micro_batch) <
             std::tie(b.slot, b.device, b.lane, b.micro_batch);
    });
    return all;
  }
  std::vector<int>& slots(int device, int lane) {
    return devices_[static_cast<std::size_t>(device)][static_cast<std::size_t>(lane)];
  }
  int& slot(int device, int lane, int micro_batch) {
    return slots(device, lane)[static_cast<std::size_t>(micro_batch)];
  }

  // Into free slots, as soon as they are due.
  void add_weights() {
    for (std::size_t d = 0; d < devices_.size(); ++d) {
      auto& own = devices_[d][weight];
      int due = 0, free = 0;
      for (const SlottedPass& e : events(d, d + 1)) {
        for (; free < e.slot; ++free)
          if (due > 0) own.push_back(free), --due;
        free = e.slot + 1;
        if (e.lane == backward_down || e.lane == backward_up) ++due;
      }
      for (; due > 0; --due) own.push_back(free++);
    }
  }
  void drop_weights() {
    for (Slots& device : devices_) device[weight].clear();
  }

  // A chunk's activations are held from its forward to its weight gradients, which take free slots
  // where they have none.
  int peak(int device) const {
    int held = 0, most = 0, due = 0, free = 0;
    const auto d = static_cast<std::size_t>(device);
    const bool placed = !devices_[d][weight].empty();
    for (const SlottedPass& e : events(d, d + 1)) {
      for (; !placed && free < e.slot; ++free)
        if (due > 0) --due, --held;
      free = e.slot + 1;
      if (e.lane == forward_down || e.lane == forward_up) ++held;
      if (e.lane == backward_down || e.lane == backward_up) ++due;
      if (e.lane == weight) --held;
      most = std::max(most, held);
    }
    return most;
  }

  // Of the passes that it takes the output of, in the table as it is.
  int last_input(const SlottedPass& e) {
    const int last = static_cast<int>(devices_.size()) - 1;
    int slot_before = -1;
    const auto behind = [&](int s) { slot_before = std::max(slot_before, s); };
    const bool downwards = e.lane == forward_down || e.lane == backward_down;
    if (e.lane == weight) {
      std::vector<int> done = slots(e.device, backward_down);
      done.insert(done.end(), slots(e.device, backward_up).begin(),
                  slots(e.device, backward_up).end());
      const auto nth = done.begin() + e.micro_batch;
      std::nth_element(done.begin(), nth, done.end());
      behind(*nth);
    } else {
      if (downwards && e.device > 0) behind(slot(e.device - 1, e.lane, e.micro_batch));
      if (!downwards && e.device < last) behind(slot(e.device + 1, e.lane, e.micro_batch));
      if (e.lane > 0) behind(slot(e.device, e.lane - 1, e.micro_batch));
    }
    if (e.micro_batch > 0) behind(slot(e.device, e.lane, e.micro_batch - 1));
    return slot_before;
  }

  // The steady state is from the first gradient back on the first device to the last forward there.
  void reorder(bool warm_up) {
    int limit = 0;
    for (std::size_t d = 0; d < devices_.size(); ++d)
      limit = std::max(limit, peak(static_cast<int>(d)));
    enum { before, steady, after } phase = before;
    std::vector<std::vector<bool>> taken(devices_.size());
    for (const SlottedPass& e : events(0, devices_.size())) {
      auto& own = taken[static_cast<std::size_t>(e.device)];
      own.resize(std::max(own.size(), static_cast<std::size_t>(e.slot + 1)));
      if (phase == before && e.lane == backward_up && e.device == 0) phase = steady;
      const bool stays = phase == steady || (phase == before && !warm_up);
      if (phase == steady && e.lane == forward_down && e.micro_batch == m_ - 1) phase = after;
      int& its = slot(e.device, e.lane, e.micro_batch);
      if (!stays)
        for (int s = last_input(e) + 1; s <= e.slot; ++s) {
          if (s < e.slot && own[static_cast<std::size_t>(s)]) continue;
          its = s;
          if (s == e.slot || peak(e.device) <= limit) break;
        }
      own[static_cast<std::size_t>(its)] = true;
    }
  }

  void squeeze() {
    std::vector<int> free(devices_.size(), 0);
    for (const SlottedPass& e : events(0, devices_.size())) {
      int& next = free[static_cast<std::size_t>(e.device)];
      const int ready = e.lane == weight ? next : last_input(e) + 1;
      slot(e.device, e.lane, e.micro_batch) = std::max(next, ready);
      next = std::max(next, ready) + 1;
    }
  }

  int m_;
  std::vector<Slots> devices_;
};

PipelineSchedule from_blocks(const char* name, const PipelineShape& shape,
                             const std::vector<DeviceSlots>& blocks) {
  PipelineSchedule s(name, shape, v_shape(shape.devices));
  SlotTable table(blocks, shape.micro_batches);
  table.optimise();
  for (std::size_t d = 0; d < blocks.size(); ++d) s.tasks.push_back(table.tasks(d));
  return s;
}

}  // namespace

PipelineSchedule v_half(const PipelineShape& shape) {
  const int p = shape.devices, gap = p % 2 == 0 ? 3 : 0;  // so that no two passes share a slot
  std::vector<DeviceSlots> blocks;
  for (int i = 0; i < p; ++i)
    blocks.push_back({2 * i, 3 * p - i - 2, 3 * p + gap + 2 * i - 1, 6 * p + gap - i - 2});
  return from_blocks("v-half", shape, blocks);
}

PipelineSchedule v_min(const PipelineShape& shape) {
  const int p = shape.devices, gap = p % 3 == 0 ? 2 : 0;
  std::vector<DeviceSlots> blocks;
  for (int i = 0; i < p; ++i)
    blocks.push_back({i, 2 * p - i - 1, 2 * p + gap + i, 4 * p + gap - i - 1});
  return from_blocks("v-min", shape, blocks);
}

}  // namespace orrery
