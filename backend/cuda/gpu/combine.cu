#include "backend/cuda/gpu/combine.hpp"

#include <vector>

#include "backend/cuda/gpu/device.cuh"

namespace orrery::cuda {

namespace {

constexpr std::size_t ranks_max = 16;

struct Pointers {
  void* at[ranks_max];
};

__device__ float combine(float a, float b, Reduce reduce) {
  return reduce == Reduce::max ? fmaxf(a, b) : a + b;
}
__device__ double combine(double a, double b, Reduce reduce) {
  return reduce == Reduce::max ? fmax(a, b) : a + b;
}

// to[i] = the fold of element begin + i of all inputs. Number: what is added up. Whole numbers fold
// in double, which is exact below 2^53.
template <class Number>
__global__ void fold_kernel(const std::uint64_t* stop, Pointers inputs, int ranks, Dtype dtype,
                            std::int64_t begin, Any to, std::int64_t n, Reduce reduce) {
  if (*stop != 0) return;
  for (std::int64_t i = first_index(); i < n; i += all_threads()) {
    const auto get = [&](int rank) {
      Any input = to;
      input.data = inputs.at[rank];
      input.dtype = dtype;
      return static_cast<Number>(input.get(begin + i));
    };
    Number sum = get(0);
    for (int rank = 1; rank < ranks; ++rank) sum = combine(sum, get(rank), reduce);
    if (reduce == Reduce::mean) sum = sum / static_cast<Number>(ranks);
    const bool whole = dtype == Dtype::int32 || dtype == Dtype::int64;
    to.set(i, whole ? trunc(static_cast<double>(sum)) : static_cast<double>(sum));
  }
}

std::size_t size(const View& view) {
  return static_cast<std::size_t>(bytes_of(view.elements, view.dtype).value);
}

std::byte* at(const View& view, std::size_t byte) {
  return static_cast<std::byte*>(view.data) + byte;
}

template <class Unit>
__global__ void copy_kernel(const std::uint64_t* stop, Unit* to, const Unit* from, std::int64_t n) {
  if (stop != nullptr && *stop != 0) return;
  for (std::int64_t i = first_index(); i < n; i += all_threads()) to[i] = from[i];
}

// What carry_out enqueues on.
struct Turn {
  cudaStream_t stream;
  const std::uint64_t* stop = nullptr;

  void copy(void* to, const void* from, std::size_t bytes) const {
    if (to == from || bytes == 0) return;
    const auto addresses =
        reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from) | bytes;
    if (addresses % sizeof(uint4) == 0)
      start(static_cast<uint4*>(to), static_cast<const uint4*>(from), bytes / sizeof(uint4));
    else
      start(static_cast<std::uint8_t*>(to), static_cast<const std::uint8_t*>(from), bytes);
  }
  template <class Unit>
  void start(Unit* to, const Unit* from, std::size_t count) const {
    const auto n = static_cast<std::int64_t>(count);
    copy_kernel<Unit><<<blocks(n), threads, 0, stream>>>(stop, to, from, n);
    launched("copy");
  }
};

void fold(const Turn& turn, std::span<const View> inputs, std::int64_t begin, const View& to,
          Reduce reduce) {
  Pointers pointers{};
  for (std::size_t i = 0; i < inputs.size(); ++i) pointers.at[i] = inputs[i].data;
  const Dtype dtype = inputs[0].dtype;
  const auto ranks = static_cast<int>(inputs.size());
  if (dtype == Dtype::fp64 || dtype == Dtype::int32 || dtype == Dtype::int64)
    fold_kernel<double><<<blocks(to.elements), threads, 0, turn.stream>>>(
        turn.stop, pointers, ranks, dtype, begin, Any(to), to.elements, reduce);
  else
    fold_kernel<float><<<blocks(to.elements), threads, 0, turn.stream>>>(
        turn.stop, pointers, ranks, dtype, begin, Any(to), to.elements, reduce);
  launched("fold");
}

// Results are written to memory of their own, then to the members: an output may lie on an input.
void carry_out(cudaStream_t stream, const std::uint64_t* stop, const Communication& operation,
               std::span<const View> inputs, std::span<const View> outputs) {
  const Turn turn{stream, stop};
  if (inputs.size() > ranks_max)
    throw Error(Category::unavailable,
                "at most " + std::to_string(ranks_max) + " ranks on one GPU communicate together");
  const View& first = inputs[0].data != nullptr ? inputs[0] : outputs[0];
  std::size_t whole = static_cast<std::size_t>(operation.size().value);
  if (operation.kind == Collective::all_to_all) whole *= inputs.size();
  if (operation.kind == Collective::exchange) whole *= 2;
  const Scratch<std::byte> result(static_cast<std::int64_t>(whole), stream);
  std::vector<std::size_t> from(outputs.size());  // where each member's part of it begins
  const auto each = static_cast<std::size_t>(operation.elements) / inputs.size();
  switch (operation.kind) {
    case Collective::all_reduce:
      fold(turn, inputs, 0, {result.get(), operation.elements, first.dtype}, operation.reduce);
      break;
    case Collective::reduce_scatter:
      fold(turn, inputs, 0, {result.get(), operation.elements, first.dtype}, operation.reduce);
      for (std::size_t i = 0; i < from.size(); ++i)
        from[i] = i * each * static_cast<std::size_t>(size_of(first.dtype));
      break;
    case Collective::all_gather:
      for (std::size_t i = 0; i < inputs.size(); ++i)
        turn.copy(result.get() + i * size(inputs[i]), inputs[i].data, size(inputs[i]));
      break;
    case Collective::broadcast: {
      const View& root = inputs[static_cast<std::size_t>(operation.root)];
      turn.copy(result.get(), root.data, size(root));
      break;
    }
    case Collective::all_to_all: {
      const std::size_t part = size(inputs[0]) / inputs.size();
      for (std::size_t to = 0; to < outputs.size(); ++to) {
        from[to] = to * size(inputs[0]);
        for (std::size_t i = 0; i < inputs.size(); ++i)
          turn.copy(result.get() + from[to] + i * part, at(inputs[i], to * part), part);
      }
      break;
    }
    case Collective::send:
    case Collective::receive:
      return turn.copy(outputs[1].data, inputs[0].data, size(inputs[0]));
    case Collective::exchange:
      turn.copy(result.get(), inputs[1].data, size(inputs[1]));
      turn.copy(result.get() + size(inputs[1]), inputs[0].data, size(inputs[0]));
      from[1] = size(inputs[1]);
      break;
  }
  for (std::size_t i = 0; i < outputs.size(); ++i)
    turn.copy(outputs[i].data, result.get() + from[i], size(outputs[i]));
}

__global__ void delay_kernel(std::uint64_t nanoseconds) {
  std::uint64_t now = 0, start = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do {
    __nanosleep(1000);
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - start < nanoseconds);
}

}  // namespace

void copy_by_kernel(cudaStream_t stream, void* to, const void* from, std::size_t bytes) {
  Turn{stream}.copy(to, from, bytes);
}

LocalWork gpu_local_work() {
  LocalWork work;
  work.carry_out = carry_out;
  work.delay = [](cudaStream_t stream, Time time) {
    delay_kernel<<<1, 1, 0, stream>>>(time.picoseconds / 1000);
    launched("delay");
  };
  return work;
}

}  // namespace orrery::cuda
