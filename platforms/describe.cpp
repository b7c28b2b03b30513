// The keys of platform files.
#include <fmt/format.h>

#include <algorithm>

#include "backend/core/text.hpp"
#include "platforms/platform.hpp"

namespace orrery {

void describe(Fields<PeakSpec>& f) {
  f.field("fp64", &PeakSpec::fp64).positive();
  f.field("fp32", &PeakSpec::fp32).positive();
  f.field("tf32", &PeakSpec::tf32).positive();
  f.field("bf16", &PeakSpec::bf16).positive().doc("dense, without sparsity");
  f.field("fp16", &PeakSpec::fp16).positive();
  f.field("fp8", &PeakSpec::fp8).positive();
  f.field("fp4", &PeakSpec::fp4).positive();
}

void describe(Fields<EfficiencySpec>& f) {
  f.field("fp64", &EfficiencySpec::fp64).positive().at_most(1);
  f.field("fp32", &EfficiencySpec::fp32).positive().at_most(1);
  f.field("tf32", &EfficiencySpec::tf32).positive().at_most(1);
  f.field("bf16", &EfficiencySpec::bf16).positive().at_most(1);
  f.field("fp16", &EfficiencySpec::fp16).positive().at_most(1);
  f.field("fp8", &EfficiencySpec::fp8).positive().at_most(1);
  f.field("fp4", &EfficiencySpec::fp4).positive().at_most(1);
}

void describe(Fields<GemmSpec>& f) {
  f.section("efficiency", &GemmSpec::efficiency).doc("share of the peak that large GEMMs reach");
  f.field("edge", &GemmSpec::edge)
      .required()
      .at_least(0)
      .doc("elements lost at each edge of a GEMM");
  f.field("launch", &GemmSpec::launch).required().doc("of every kernel, on the device");
}

void describe(Fields<AttentionSpec>& f) {
  f.field("kernel", &AttentionSpec::kernel).required().doc("generation, such as flash-2");
  f.field("head", &AttentionSpec::head).required().at_least(1).doc("head size");
  f.field("forward", &AttentionSpec::forward).required().positive().at_most(1);
  f.field("backward", &AttentionSpec::backward).required().positive().at_most(1);
}

void describe(Fields<MemorySpec>& f) {
  f.field("capacity", &MemorySpec::capacity).required().positive();
  f.field("bandwidth", &MemorySpec::bandwidth).required().positive();
  f.field("achieved", &MemorySpec::achieved).required().positive().at_most(1);
}

void describe(Fields<ComputeSpec>& f) {
  f.field("sm", &ComputeSpec::sm)
      .required()
      .between(1, 1'000'000)
      .doc("multiprocessors, or compute units");
  f.section("peak", &ComputeSpec::peak).required().doc("dense peaks by type");
  f.section("gemm", &ComputeSpec::gemm).required();
  f.list("attention", &ComputeSpec::attention).doc("share of the peak by kernel and head size");
}

void describe(Fields<ScaleUpLinkSpec>& f) {
  f.field("kind", &ScaleUpLinkSpec::kind).required().doc("such as nvlink3");
  f.field("bandwidth_per_direction", &ScaleUpLinkSpec::bandwidth_per_direction)
      .required()
      .positive();
  f.field("achieved", &ScaleUpLinkSpec::achieved).required().positive().at_most(1);
  f.field("transfer_achieved", &ScaleUpLinkSpec::transfer_achieved)
      .required()
      .positive()
      .at_most(1);
  f.field("ramp", &ScaleUpLinkSpec::ramp).required();
  f.field("nvls", &ScaleUpLinkSpec::nvls)
      .positive()
      .at_most(1)
      .doc("share of the rate that all-reduces in the switch reach; absent: it cannot");
}

void describe(Fields<HostLinkSpec>& f) {
  f.field("kind", &HostLinkSpec::kind).required().doc("such as pcie4");
  f.field("bandwidth_per_direction", &HostLinkSpec::bandwidth_per_direction).required().positive();
}

void describe(Fields<GpuLinksSpec>& f) {
  f.section("scale_up", &GpuLinksSpec::scale_up).doc("between the GPUs of a node");
  f.section("host", &GpuLinksSpec::host).doc("between GPU and host");
}

void describe(Fields<PowerSpec>& f) {
  f.field("idle", &PowerSpec::idle).required();
  f.field("peak", &PowerSpec::peak).required();
}

void describe(Fields<GpuSpec>& f) {
  f.field("name", &GpuSpec::name).required();
  f.field("aliases", &GpuSpec::aliases);
  f.section("memory", &GpuSpec::memory).required();
  f.section("compute", &GpuSpec::compute).required();
  f.section("link", &GpuSpec::link);
  f.section("power", &GpuSpec::power);
  f.list("measured", &GpuSpec::measured).doc("times by class of kernels and size");
}

void describe(Fields<NodeGpusSpec>& f) {
  f.field("model", &NodeGpusSpec::model).required().doc("a file of platforms/gpus");
  f.field("count", &NodeGpusSpec::count).required().between(1, 1024);
}

void describe(Fields<NodeScaleUpSpec>& f) {
  f.field("topology", &NodeScaleUpSpec::topology).required().one_of({"nvswitch", "mesh", "pcie"});
  f.field("domain", &NodeScaleUpSpec::domain).required().at_least(1).doc("GPUs that it joins");
  f.field("numa", &NodeScaleUpSpec::numa).between(1, 64).doc("sockets, with equally many GPUs");
  f.field("numa_bandwidth", &NodeScaleUpSpec::numa_bandwidth)
      .positive()
      .doc("between a socket and the others, per direction");
  f.check([](const NodeScaleUpSpec& s, const SectionProblems& p) {
    if ((s.numa.value > 1) != s.numa_bandwidth.has_value())
      p.add(s.numa_bandwidth ? "numa_bandwidth" : "numa",
            "several sockets and the bandwidth between them belong together");
  });
}

void describe(Fields<NicsSpec>& f) {
  f.field("kind", &NicsSpec::kind).doc("such as infiniband-hdr");
  f.field("count", &NicsSpec::count).required().between(1, 1024);
  f.field("bandwidth", &NicsSpec::bandwidth)
      .required()
      .positive()
      .doc("of one port, per direction");
  f.field("rail_optimised", &NicsSpec::rail_optimised);
  f.field("achieved", &NicsSpec::achieved).required().positive().at_most(1);
  f.field("ramp", &NicsSpec::ramp).required();
  f.field("latency", &NicsSpec::latency).required();
}

void describe(Fields<NodeSpec>& f) {
  f.field("name", &NodeSpec::name).required();
  f.field("aliases", &NodeSpec::aliases);
  f.section("gpus", &NodeSpec::gpus).required();
  f.section("scale_up", &NodeSpec::scale_up);
  f.section("nics", &NodeSpec::nics);
  f.field("cores", &NodeSpec::cores)
      .at_least(1)
      .doc("of the processor whose threads the devices are: kernels take longer where more work");
  f.check([](const NodeSpec& n, const SectionProblems& p) {
    if (n.scale_up && n.scale_up->domain.value != n.gpus.count.value)
      p.add("scale_up", "not available yet: a domain that is not the whole node",
            "describe the GPUs of one domain as one node");
    if (n.gpus.count.value > 1 && !n.scale_up)
      p.add("gpus", "several GPUs, but no scale_up link between them",
            "add scale_up: {topology: …}");
  });
}

void describe(Fields<PartSpec>& f) {
  f.field("node", &PartSpec::node).required().doc("a file of platforms/nodes");
  f.field("count", &PartSpec::count).required().between(1, 1'000'000);
  f.field("site", &PartSpec::site).doc("where its nodes are; parts of a site stand side by side");
}

void describe(Fields<CollectivesSpec>& f) {
  f.list("curves", &CollectivesSpec::curves).doc("files of platforms/curves; first match wins");
  f.list("measured", &CollectivesSpec::measured).doc("times by operation, members and size");
}

namespace {

void check_sites(const ClusterSpec& c, const SectionProblems& p) {
  std::vector<std::string> sites;
  for (const PartSpec& part : c.parts)
    if (sites.empty() || sites.back() != part.site.value_or(""))
      sites.push_back(part.site.value_or(""));
  std::vector<std::string> sorted = sites;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
    p.add("parts", "the parts of a site do not stand side by side");
  const bool own_links = c.fabric.topology == "simgrid";
  if (c.wan && own_links)
    p.add("wan", "a SimGrid platform has the links between sites itself", "leave it out");
  if (sites.size() > 1 && !c.wan && !own_links)
    p.add("parts", "several sites, but no wan between them", "add wan: {latency: …, access: …}");
  if (c.wan)
    for (const WanPairSpec& pair : c.wan->pairs)
      for (const std::string& site : pair.sites)
        if (std::find(sites.begin(), sites.end(), site) == sites.end())
          p.add("wan", fmt::format("there is no site '{}'", site), did_you_mean(site, sites));
}

}  // namespace

void describe(Fields<ClusterSpec>& f) {
  f.field("name", &ClusterSpec::name).required();
  f.field("aliases", &ClusterSpec::aliases);
  f.list("parts", &ClusterSpec::parts).required().at_least_items(1);
  f.section("fabric", &ClusterSpec::fabric);
  f.section("wan", &ClusterSpec::wan).doc("between the sites of its parts");
  f.section("collectives", &ClusterSpec::collectives);
  f.field("stack", &ClusterSpec::stack).doc("the software, where a scenario names none");
  f.list("nodes", &ClusterSpec::nodes).doc("defined here: looked for before platforms/nodes");
  f.list("gpus", &ClusterSpec::gpus).doc("defined here: looked for before platforms/gpus");
  f.list("stacks", &ClusterSpec::stacks).doc("defined here: looked for before platforms/stacks");
  f.list("curves", &ClusterSpec::curves).doc("defined here: looked for before platforms/curves");
  f.check([](const ClusterSpec& c, const SectionProblems& p) { check_sites(c, p); });
}

void describe(Fields<HostSpec>& f) {
  f.field("launch", &HostSpec::launch).required().doc("of a kernel, a sequence or a fence");
  f.field("communicate", &HostSpec::communicate).required().doc("of a communication");
  f.field("wait", &HostSpec::wait).required().doc("return from a blocking wait");
  f.field("control_latency", &HostSpec::control_latency).required().doc("of a control message");
}

void describe(Fields<UnfusedAttentionSpec>& f) {
  f.field("achieved", &UnfusedAttentionSpec::achieved)
      .required()
      .positive()
      .at_most(1)
      .doc("share of the dense peak, for whole products");
  f.field("bytes_per_score", &UnfusedAttentionSpec::bytes_per_score)
      .required()
      .doc("memory traffic of a pass, forward or backward");
}

void describe(Fields<InsideAndNetwork>& f) {
  f.field("inside", &InsideAndNetwork::inside).required().between(0, 1000);
  f.field("network", &InsideAndNetwork::network).required().between(0, 1000);
}

void describe(Fields<InterferenceSpec>& f) {
  f.section("collective", &InterferenceSpec::collective)
      .required()
      .doc("multiprocessors that one keeps: inside a scale-up domain, and beyond");
  f.section("point_to_point", &InterferenceSpec::point_to_point)
      .required()
      .doc("likewise of a send or receive; 0: copy engines");
  f.field("memory_reduced", &InterferenceSpec::memory_reduced)
      .required()
      .between(0, 10)
      .doc("bytes through memory per byte sent, where data is reduced");
  f.field("memory_copied", &InterferenceSpec::memory_copied).required().between(0, 10);
}

void describe(Fields<StackSpec>& f) {
  f.field("name", &StackSpec::name).required();
  f.field("aliases", &StackSpec::aliases);
  f.field("attention", &StackSpec::attention).required().doc("kernel generation, such as flash-2");
  f.section("unfused_attention", &StackSpec::unfused_attention)
      .doc("products and softmax as kernels of their own");
  f.section("host", &StackSpec::host).required();
  f.field("elementwise", &StackSpec::elementwise).required().at_least(0.1).at_most(20);
  f.field("loss_bytes_per_logit", &StackSpec::loss_bytes_per_logit).required();
  f.field("loss", &StackSpec::loss)
      .one_of({{"in-place", LossKernels::in_place},
               {"compiled", LossKernels::compiled},
               {"eager", LossKernels::eager}})
      .doc("what it leaves in memory; in-place: the gradient of the logits is where they were");
  f.field("expandable_segments", &StackSpec::expandable_segments)
      .doc("the allocator's segments grow, as PyTorch's do where that is asked for");
  f.field("keeps_received", &StackSpec::keeps_received)
      .doc(
          "until the next step, stages of a pipeline keep what they receive, the gradients that "
          "they send and the logits, as torch.distributed.pipelining does");
  f.field("keeps_sent", &StackSpec::keeps_sent)
      .doc("and the activations that they send, as it did until May 2025");
  f.field("eager_layers", &StackSpec::eager_layers)
      .doc("no compiler fuses them: recomputation keeps also what no backward reads");
  f.section("interference", &StackSpec::interference)
      .doc("what communications take from kernels beside them; absent: nothing");
}

void describe(Fields<CurveSpec>& f) {
  f.field("name", &CurveSpec::name).required();
  f.field("aliases", &CurveSpec::aliases);
  f.field("nodes", &CurveSpec::nodes).required().at_least(1);
  f.field("gpus_per_node", &CurveSpec::gpus_per_node).required().at_least(1);
  f.list("operations", &CurveSpec::operations)
      .required()
      .at_least_items(1)
      .one_of({"all_reduce", "all_gather", "reduce_scatter"});
  f.field("alpha", &CurveSpec::alpha).required();
  f.field("bandwidth", &CurveSpec::bandwidth).required().positive();
  f.field("ramp", &CurveSpec::ramp).required();
}

}  // namespace orrery
