// DualPipe and DualPipeV: one half of DualPipe's devices is DualPipeV.
#include "algorithms/pipeline/task_order.hpp"

namespace orrery {

namespace {

// Device `q` of the `half` devices on one side of the middle, 0 at the end. `near` is its chunk in
// the pipe that starts on its side, `far` the other; `m` micro-batches go through either. The steps
// are those of dualpipe/dualpipe.py.
TaskList one_side(int q, int half, int m, int near, int far, std::vector<int> first) {
  TaskOrder order(std::move(first));
  for (int i = 0; i < 2 * (half - q - 1); ++i) order.forward(near);
  for (int i = 0; i < q + 1; ++i) order.forward(near).forward(far);
  for (int i = 0; i < half - q - 1; ++i) order.backward_input(far).backward_weight().forward(far);
  for (int i = 0; i < m - 2 * half + q + 1; ++i) {
    if (i == 0 && q == half - 1)  // in the middle, overlapping the first would make them wait
      order.forward(near).backward(far);
    else
      order.pair(near, far);
    order.pair(far, near);
  }
  for (int i = 0; i < half - q - 1; ++i) order.backward(far).pair(far, near);
  const auto back = [&order](int chunk, bool split) {
    split ? order.backward_input(chunk) : order.backward(chunk);
  };
  for (int i = 0; i < q + 1; ++i) {  // the second half of these backwards is split
    const int middle = (q + 1) / 2;
    back(far, i > middle || (i == middle && q % 2 == 1));
    back(near, i >= middle);
  }
  for (int i = 0; i < half - q - 1; ++i) order.backward_weight().backward_input(near);
  while (order.due() > 0) order.backward_weight();
  return order.take();
}

}  // namespace

PipelineSchedule dualpipe(const PipelineShape& shape) {
  const int p = shape.devices, m = shape.micro_batches;
  PipelineSchedule s("dualpipe", shape, both_directions(p));
  for (int device = 0; device < p; ++device) {
    const bool second = device >= p / 2;
    s.tasks.push_back(one_side(second ? p - 1 - device : device, p / 2, m / 2, second ? 1 : 0,
                               second ? 0 : 1, {0, m / 2}));
  }
  return s;
}

PipelineSchedule dualpipev(const PipelineShape& shape) {
  const int p = shape.devices, m = shape.micro_batches;
  PipelineSchedule s("dualpipev", shape, v_shape(p));
  for (int device = 0; device < p; ++device)
    s.tasks.push_back(one_side(device, p, m, 0, 1, {0, 0}));
  return s;
}

}  // namespace orrery
