// What platform files say: GPUs, nodes, clusters, software stacks and measured curves of
// collectives.
//
// Every number is `Sourced`: the reader refuses one without a source. Files live in
// platforms/<kind>s below the data root and are found by file name, by alias, or by path.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "backend/core/config.hpp"
#include "backend/dtype.hpp"
#include "platforms/fabric.hpp"
#include "platforms/measured.hpp"

namespace orrery {

// Dense peaks of one GPU by type of the operands; absent = the device cannot compute with it.
struct PeakSpec {
  std::optional<Sourced<FlopsPerSecond>> fp64, fp32, tf32, bf16, fp16, fp8, fp4;
  // Null for a type that nothing computes with; of fp16 that of bf16, where it has none of its own.
  const std::optional<Sourced<FlopsPerSecond>>* of(Dtype type) const;
  bool has(Dtype type) const { return of(type) != nullptr && *of(type); }
};
void describe(Fields<PeakSpec>& f);

// Asymptotic share of the peak by type; absent = the same as bf16, or 1 where that is absent too.
struct EfficiencySpec {
  std::optional<Sourced<double>> fp64, fp32, tf32, bf16, fp16, fp8, fp4;
};
void describe(Fields<EfficiencySpec>& f);

// Constants of gemm_time (kernel_time.hpp).
struct GemmSpec {
  EfficiencySpec efficiency;
  Sourced<double> edge;
  Sourced<Seconds> launch;
};
void describe(Fields<GemmSpec>& f);

// Share of the bf16 peak that an attention kernel reaches, on causal FLOPs.
struct AttentionSpec {
  std::string kernel;  // "flash-2"
  Sourced<std::int64_t> head;
  Sourced<double> forward, backward;
};
void describe(Fields<AttentionSpec>& f);

struct MemorySpec {
  Sourced<Bytes> capacity;
  Sourced<BytesPerSecond> bandwidth;
  Sourced<double> achieved;  // share of `bandwidth` that streaming kernels reach
};
void describe(Fields<MemorySpec>& f);

struct ComputeSpec {
  Sourced<std::int64_t> sm;
  PeakSpec peak;
  GemmSpec gemm;
  std::vector<AttentionSpec> attention;
};
void describe(Fields<ComputeSpec>& f);

// Links between GPUs of one node. achieved: share of the bandwidth that ring collectives reach with
// large messages; ramp: the message size S0 of collective_time.hpp; transfer_achieved: the same
// share for one point-to-point transfer; nvls: for an all-reduce that the switch carries out
// (NVLS), where it can.
struct ScaleUpLinkSpec {
  std::string kind;
  Sourced<BytesPerSecond> bandwidth_per_direction;
  Sourced<double> achieved, transfer_achieved;
  Sourced<Bytes> ramp;
  std::optional<Sourced<double>> nvls;
};
void describe(Fields<ScaleUpLinkSpec>& f);

struct HostLinkSpec {
  std::string kind;
  Sourced<BytesPerSecond> bandwidth_per_direction;
};
void describe(Fields<HostLinkSpec>& f);

struct GpuLinksSpec {
  std::optional<ScaleUpLinkSpec> scale_up;
  std::optional<HostLinkSpec> host;
};
void describe(Fields<GpuLinksSpec>& f);

struct PowerSpec {
  Sourced<Watts> idle, peak;
};
void describe(Fields<PowerSpec>& f);

struct GpuSpec {
  std::string name;
  std::vector<std::string> aliases;
  MemorySpec memory;
  ComputeSpec compute;
  GpuLinksSpec link;
  std::optional<PowerSpec> power;
  std::vector<MeasuredTableSpec> measured;  // answer in place of the formulas of kernel_time.hpp

  // Dense peak for operands of this type. Error{config} where the device has none.
  const Sourced<FlopsPerSecond>& peak(Dtype dtype) const;
};
void describe(Fields<GpuSpec>& f);

struct NodeGpusSpec {
  Sourced<std::string> model;
  Sourced<std::int64_t> count;
};
void describe(Fields<NodeGpusSpec>& f);

// numa: sockets, each with an equal part of the GPUs; transfers from one to another share
// numa_bandwidth, which a socket sends and receives at the same time.
struct NodeScaleUpSpec {
  std::string topology;
  Sourced<std::int64_t> domain;
  Sourced<std::int64_t> numa{1};
  std::optional<Sourced<BytesPerSecond>> numa_bandwidth;
};
void describe(Fields<NodeScaleUpSpec>& f);

// Network ports of a node. GPU i uses port i * count / gpus. Shares and ramp as for
// ScaleUpLinkSpec.
struct NicsSpec {
  std::string kind;
  Sourced<std::int64_t> count;
  Sourced<BytesPerSecond> bandwidth;
  bool rail_optimised = false;
  Sourced<double> achieved;
  Sourced<Bytes> ramp;
  Sourced<Seconds> latency;
};
void describe(Fields<NicsSpec>& f);

struct NodeSpec {
  std::string name;
  std::vector<std::string> aliases;
  NodeGpusSpec gpus;
  std::optional<NodeScaleUpSpec> scale_up;
  std::optional<NicsSpec> nics;
  // Set where the "GPUs" are threads: how many cores they share.
  std::optional<Sourced<std::int64_t>> cores;
};
void describe(Fields<NodeSpec>& f);

struct PartSpec {
  Sourced<std::string> node;
  Sourced<std::int64_t> count;
  std::optional<std::string> site;
};
void describe(Fields<PartSpec>& f);

struct CollectivesSpec {
  std::vector<Sourced<std::string>> curves;
  std::vector<CollectiveTableSpec> measured;  // answer for groups inside one node, before curves
};
void describe(Fields<CollectivesSpec>& f);

// What the host pays, on its own clock; see HostCosts (machine.hpp).
struct HostSpec {
  Sourced<Seconds> launch, communicate, wait, control_latency;
};
void describe(Fields<HostSpec>& f);

// Attention without a fused kernel: every product whole, also above the diagonal, and the scores
// through memory between the kernels; the backward does twice the FLOPs and moves as many bytes.
struct UnfusedAttentionSpec {
  Sourced<double> achieved;        // of the dense peak
  Sourced<Bytes> bytes_per_score;  // that softmax, mask, dropout and scaling move, in one pass
};
void describe(Fields<UnfusedAttentionSpec>& f);

// A constant of communications inside a scale-up domain, and of those that leave one.
struct InsideAndNetwork {
  Sourced<std::int64_t> inside, network;
};
void describe(Fields<InsideAndNetwork>& f);

// What communications take of the GPUs whose kernels they run beside. 0: copy engines do it.
struct InterferenceSpec {
  InsideAndNetwork collective, point_to_point;  // multiprocessors
  // Bytes through a member's memory per byte that it sends, where data is reduced or only copied.
  Sourced<double> memory_reduced, memory_copied;
};
void describe(Fields<InterferenceSpec>& f);

// What a loss leaves in memory: the gradient of the logits in their place; or both, as a compiled
// loss has them, which may not write to its input; or what every operation has for a result.
enum class LossKernels { in_place, compiled, eager };

// The software: constants that belong to no device.
struct StackSpec {
  std::string name;
  std::vector<std::string> aliases;
  std::string attention;                                  // which rows of a GPU's attention table
  std::optional<UnfusedAttentionSpec> unfused_attention;  // takes the place of such a row
  HostSpec host;
  Sourced<double> elementwise{
      1};  // memory traffic of norms, activations, residuals; 1 = perfectly fused
  Sourced<Bytes> loss_bytes_per_logit;  // memory traffic of the loss, forward and backward; 0 = the
                                        // kernel's own
  LossKernels loss = LossKernels::in_place;
  bool expandable_segments = true;  // of the allocator (scenarios/cli/caching_allocator.hpp)
  // Of a pipeline's stages, until the next step: what they receive and the gradients that they send
  // on, of every micro-batch; the activations that they send on (algorithms/pipeline/executor.hpp).
  bool keeps_received = false, keeps_sent = false;
  bool eager_layers = false;  // operation by operation: what a policy of recomputation keeps is
                              // kept even where no backward reads it
  std::optional<InterferenceSpec>
      interference;  // absent: kernels are as fast beside communications
};
void describe(Fields<StackSpec>& f);

// Measured collectives: t = alpha + f S / bandwidth (1 + sqrt(ramp / S)), see collective_time.hpp.
struct CurveSpec {
  std::string name;
  std::vector<std::string> aliases;
  Sourced<std::int64_t> nodes, gpus_per_node;  // of the groups that it holds for
  std::vector<std::string> operations;
  Sourced<Seconds> alpha;
  Sourced<BytesPerSecond> bandwidth;
  Sourced<Bytes> ramp;
};
void describe(Fields<CurveSpec>& f);

// A cluster may bring what it names: the definitions at its end are looked through before the
// folders are, so that one file can hold a whole platform.
struct ClusterSpec {
  std::string name;
  std::vector<std::string> aliases;
  std::vector<PartSpec> parts;
  FabricSpec fabric;
  std::optional<WanSpec> wan;  // between the sites of the parts
  CollectivesSpec collectives;
  std::optional<Sourced<std::string>> stack;  // where a scenario names none; absent = generic
  std::vector<NodeSpec> nodes;
  std::vector<GpuSpec> gpus;
  std::vector<StackSpec> stacks;
  std::vector<CurveSpec> curves;
};
void describe(Fields<ClusterSpec>& f);

enum class PlatformKind { gpu, node, cluster, stack, curve };
const char* name(PlatformKind);  // "cluster"

// The platform files below a data root.
class PlatformFolder {
 public:
  explicit PlatformFolder(std::string data_root) : root_(std::move(data_root)) {}

  // All names of a kind, sorted. Empty where the folder is missing.
  std::vector<std::string> names(PlatformKind kind) const;
  // The file that a name, an alias (case does not matter) or a path ending in .yaml stands for;
  // empty where there is none.
  std::string find(PlatformKind kind, const std::string& name) const;
  // What to tell about an unknown name: "did you mean 'two-dgx-a100'?", or the list of names.
  std::string suggestion(PlatformKind kind, const std::string& name) const;

  GpuSpec gpu(const std::string& name, const Mark& asked_at = {}) const;
  NodeSpec node(const std::string& name, const Mark& asked_at = {}) const;
  ClusterSpec cluster(const std::string& name, const Mark& asked_at = {}) const;
  StackSpec stack(const std::string& name, const Mark& asked_at = {}) const;
  CurveSpec curve(const std::string& name, const Mark& asked_at = {}) const;
  // All of these throw ConfigError: at `asked_at` for an unknown name, in the file for what is
  // wrong there.

 private:
  template <class Spec>
  Spec load(PlatformKind kind, const std::string& name, const Mark& asked_at) const;
  std::string root_;
};

// A cluster with all that it refers to.
struct Platform {
  struct Part {
    NodeSpec node;
    GpuSpec gpu;
    int count = 0;
  };
  ClusterSpec cluster;
  std::vector<Part> parts;
  StackSpec stack;
  std::vector<CurveSpec> curves;

  int gpus() const;
  // The sites of the parts, in order; one without a name where no part has one.
  std::vector<std::string> sites() const;
};

// `stack` empty: the cluster's own, else generic. Throws ConfigError with what is wrong; marks are
// where the names were asked for.
Platform read_platform(const PlatformFolder& folder, const std::string& cluster,
                       const std::string& stack = "", const Mark& cluster_at = {},
                       const Mark& stack_at = {});

// The band of a forecast Whether some measured table of the platform knows its
// error, and the platform with the times of all such tables moved to one end of theirs: multiplied
// by 1 + side * band(), at least by a tenth, and without an error any more; side is -1 or 1.
bool has_measured_error(const Platform& platform);
Platform at_band_end(Platform platform, int side);

}  // namespace orrery
