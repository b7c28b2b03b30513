// Sequences as CUDA graphs: one call enqueues all kernels of a sequence.
//
// A program issues whatever it likes; what it issues again on the same operands, as a training does
// from its second step on, is recorded then and replayed from there on. Of one rank, by its
// program's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "backend/cuda/runtime.hpp"
#include "backend/prepared.hpp"

namespace orrery::cuda {

class Graphs {
 public:
  // So many graphs at most, each of which keeps memory of the GPU's.
  explicit Graphs(std::size_t most = 1024) : most_(most) {}
  ~Graphs();  // after all that was launched is done
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  // Enqueues a sequence whose slots are bound to these views; `enqueue` does so kernel by kernel. A
  // sequence that cannot be recorded, as one with a kernel on the host, is never a graph.
  void launch(cudaStream_t stream, const Sequence& sequence, std::span<const View> slots,
              const std::function<void()>& enqueue);

 private:
  using Key = std::vector<std::uint64_t>;
  struct Hash {
    std::size_t operator()(const Key& key) const;
  };
  // The first launch is not recorded: products, plans and workspaces are made then.
  struct Known {
    cudaGraphExec_t graph = nullptr;
    bool refused = false;
  };
  void record(cudaStream_t stream, Known& known, const std::function<void()>& enqueue);

  const std::size_t most_;
  std::size_t recorded_ = 0;
  std::unordered_map<Key, Known, Hash> known_;
};

// For what must not be recorded, because it happens once. Error{invalid_program} while the stream
// records.
void refuse_recording(cudaStream_t stream);

}  // namespace orrery::cuda
