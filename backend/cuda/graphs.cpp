#include "backend/cuda/graphs.hpp"

#include "backend/core/error.hpp"

namespace orrery::cuda {

namespace {

// Launches that are remembered, for each graph that there may be: where addresses never come again,
// their number has no bound.
constexpr std::size_t remembered = 8;

}  // namespace

Graphs::~Graphs() {
  for (const auto& [key, known] : known_)
    if (known.graph != nullptr) cudaGraphExecDestroy(known.graph);
}

std::size_t Graphs::Hash::operator()(const Key& key) const {
  std::uint64_t hash = key.size();
  for (const std::uint64_t word : key) hash = (hash ^ word) * 0x9e3779b97f4a7c15U ^ (hash >> 29);
  return hash;
}

void Graphs::launch(cudaStream_t stream, const Sequence& sequence, std::span<const View> slots,
                    const std::function<void()>& enqueue) {
  Key key{reinterpret_cast<std::uintptr_t>(stream), reinterpret_cast<std::uintptr_t>(&sequence)};
  for (const View& slot : slots)
    key.insert(key.end(),
               {reinterpret_cast<std::uintptr_t>(slot.data),
                static_cast<std::uint64_t>(slot.elements), static_cast<std::uint64_t>(slot.dtype)});
  const auto found = known_.find(key);
  if (found == known_.end()) {
    if (known_.size() < remembered * most_) known_.emplace(std::move(key), Known{});
    return enqueue();
  }
  Known& known = found->second;
  if (known.graph == nullptr && !known.refused && recorded_ < most_) record(stream, known, enqueue);
  if (known.graph == nullptr) return enqueue();
  check(cudaGraphLaunch(known.graph, stream), "cudaGraphLaunch");
}

// What goes wrong meanwhile need not go wrong otherwise; what does, is seen when it is enqueued.
void Graphs::record(cudaStream_t stream, Known& known, const std::function<void()>& enqueue) {
  known.refused = true;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  bool whole = true;
  try {
    enqueue();
  } catch (const Error&) {
    whole = false;
  }
  cudaGraph_t graph = nullptr;
  whole = cudaStreamEndCapture(stream, &graph) == cudaSuccess && whole;
  cudaGetLastError();  // which would be told of to whoever asks next
  if (whole && cudaGraphInstantiate(&known.graph, graph, 0) == cudaSuccess) {
    known.refused = false;
    ++recorded_;
  }
  if (graph != nullptr) cudaGraphDestroy(graph);
}

void refuse_recording(cudaStream_t stream) {
  cudaStreamCaptureStatus status{};
  check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  if (status != cudaStreamCaptureStatusNone)
    throw Error(Category::invalid_program, "what the host does on a stream cannot be recorded");
}

}  // namespace orrery::cuda
