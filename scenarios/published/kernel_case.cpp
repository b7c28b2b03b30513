#include <fmt/format.h>

#include <cmath>

#include "platforms/kernel_time.hpp"
#include "scenarios/published/not_scored.hpp"
#include "scenarios/published/prediction.hpp"

namespace orrery {

namespace {

Dtype dtype_of(const MeasuredCase& c, const AliasTable& aliases, std::vector<Assumption>& notes) {
  const std::string text = meaning(aliases.precision, "precision", word(c.precision), notes);
  for (const Dtype type : {Dtype::fp32, Dtype::bf16, Dtype::fp16, Dtype::fp8, Dtype::fp4})
    if (text == name(type)) return type;
  throw NotScored(fmt::format("not available yet: {}", text));
}

Seconds time_on(const Kernel& kernel, const MeasuredFile& file, const MeasuredCase& c,
                const Machines& machines, Prediction& out) {
  const GpuSpec& gpu = machines.gpu(machines.gpu_name(c, out.assumptions));
  const std::string stack = machines.stack_name(file, c, out.assumptions);
  try {
    return kernel_time(kernel, cost(kernel), gpu, machines.stack(stack));
  } catch (const Error& error) {
    throw NotScored(one_sentence(error));
  }
}

bool there(const MeasuredCase::Figure& figure) { return figure.value_or(0) > 0; }

// The case's own figure of a kernel that does `flops` in `t`.
void score_kernel(const MeasuredCase& c, double flops, Seconds t, Prediction& out) {
  if (there(c.time_s)) {
    out.unit = "s";
    out.measured = *c.time_s;
    out.predicted = t.value;
  } else if (there(c.tflops_gpu)) {
    out.unit = "TFLOP/s";
    out.measured = *c.tflops_gpu;
    out.predicted = flops / t.value * 1e-12;
  } else if (there(c.efficiency) && there(c.peak_tflops)) {
    out.unit = "share of peak";
    out.measured = *c.efficiency;
    out.predicted = flops / t.value / (*c.peak_tflops * 1e12);
  } else {
    throw NotScored("no time or rate of the kernel was printed");
  }
}

Collective kind_of(const std::string& means) {
  for (const Collective kind :
       {Collective::all_reduce, Collective::all_gather, Collective::reduce_scatter,
        Collective::all_to_all, Collective::broadcast, Collective::send})
    if (means == name(kind)) return kind;
  throw NotScored(fmt::format("the aliases name no collective '{}'", means));
}

// GPUs of the group: the same number in each of its nodes.
std::vector<int> members_of(const Cluster& cluster, const MeasuredCase& c) {
  const int wanted = static_cast<int>(c.gpus.value_or(0));
  const int nodes = static_cast<int>(std::max<std::int64_t>(
      1, c.nodes.value_or(c.gpus_per_node_used ? wanted / *c.gpus_per_node_used : 1)));
  if (wanted % nodes != 0) throw NotScored("the GPUs do not divide among the nodes");
  std::vector<int> members;
  std::vector<int> used(static_cast<std::size_t>(nodes));
  for (int gpu = 0; gpu < cluster.gpus(); ++gpu) {
    const int node = cluster.node(gpu);
    if (node >= nodes || used[static_cast<std::size_t>(node)]++ >= wanted / nodes) continue;
    members.push_back(gpu);
  }
  if (static_cast<int>(members.size()) != wanted)
    throw NotScored(fmt::format("a node of cluster {} has no {} GPUs",
                                cluster.platform().cluster.name, wanted / nodes));
  return members;
}

// Bus bandwidth over algorithm bandwidth, as nccl-tests define it.
double bus_factor(Collective kind, int n) {
  const double members = n;
  if (kind == Collective::all_reduce) return 2 * (members - 1) / members;
  if (kind == Collective::broadcast || kind == Collective::send) return 1;
  return (members - 1) / members;
}

}  // namespace

void predict_gemm(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                  const Machines& machines, Prediction& out) {
  if (!c.m || !c.n || !c.k) throw NotScored("the shape of the product is not stated");
  if (c.batch.value_or(1) > 1) throw NotScored("not available yet: a batched product");
  const Dtype type = dtype_of(c, aliases, out.assumptions);
  const bool weight = word(c.stage) == "bwd_weight";
  const Kernel kernel = Kernel::gemm(*c.m, *c.n, *c.k, type, false, false, weight);
  score_kernel(c, cost(kernel).executed.value, time_on(kernel, file, c, machines, out), out);
}

void predict_attention(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                       const Machines& machines, Prediction& out) {
  if (!c.seq_len || !c.heads || !c.qk_head_dim)
    throw NotScored("the shape of the attention is not stated");
  const bool backward = word(c.stage).starts_with("bwd");
  const std::int64_t batch = c.batch.value_or(1), heads = *c.heads, head = *c.qk_head_dim;
  const std::int64_t kv_heads = size_of(c.kv_heads, c).value_or(heads);
  const Dtype type = dtype_of(c, aliases, out.assumptions);
  if (c.v_head_dim && *c.v_head_dim != head) {
    if (there(c.time_s)) throw NotScored("not available yet: values of another size than queries");
    note(out.assumptions, "v_head_dim", std::to_string(head),
         "compared by FLOP/s, with values as large as queries");
  }
  note(out.assumptions, "attention", "causal",
       "and its rate is on the whole s^2, the backward pass 2.5 times the forward (inferred)");
  const auto kernel = [&](bool causal) {
    return backward
               ? Kernel::attention_backward(batch, heads, kv_heads, *c.seq_len, head, causal, type)
               : Kernel::attention(batch, heads, kv_heads, *c.seq_len, head, causal, type);
  };
  score_kernel(c, cost(kernel(false)).executed.value, time_on(kernel(true), file, c, machines, out),
               out);
}

void predict_elementwise(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                         const Machines& machines, Prediction& out) {
  const auto tokens = size_of(c.tokens, c);
  if (!tokens || !c.hidden) throw NotScored("the shape of the operation is not stated");
  const Dtype type = dtype_of(c, aliases, out.assumptions);
  const std::string op = word(c.op);
  Kernel kernel;
  if (op == "input_layernorm") {
    kernel = Kernel::norm(*tokens, *c.hidden, Norm::rms, 1e-5, type);
  } else if (op == "add") {
    kernel = Kernel::residual_add(*tokens, *c.hidden, type);
  } else if (op == "mlp_act") {
    const auto ffn = size_of(c.ffn_hidden, c);
    if (!ffn) throw NotScored("the shape of the operation is not stated");
    kernel = Kernel::gated_activation(*tokens, *ffn / c.tp.value_or(1), Activation::silu, type);
  } else {
    throw NotScored(fmt::format("op '{}' has no kernel", op));
  }
  score_kernel(c, 0, time_on(kernel, file, c, machines, out), out);
}

void predict_collective(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                        const Machines& machines, Prediction& out) {
  if (!there(c.bytes)) throw NotScored("the size of the message is not stated");
  if (c.gpus.value_or(0) < 2) throw NotScored("the number of GPUs is not stated");
  const Collective kind = kind_of(meaning(aliases.collective, "op", word(c.op), out.assumptions));
  const auto platform = machines.platform(file, c, true, out.assumptions);
  double seconds = 0;
  try {
    const Cluster cluster(*platform);
    const std::vector<int> members = members_of(cluster, c);
    seconds = cluster.plan(kind, Bytes(std::llround(*c.bytes)), members).total.seconds().value;
  } catch (const Error& error) {
    throw NotScored(one_sentence(error));
  }
  if (there(c.time_s)) {
    out.unit = "s";
    out.measured = *c.time_s;
    out.predicted = seconds;
    return;
  }
  const double algorithm = *c.bytes / seconds * 1e-9;
  out.unit = "GB/s";
  if (there(c.busbw_gb_s)) {
    out.measured = *c.busbw_gb_s;
    out.predicted = algorithm * bus_factor(kind, static_cast<int>(*c.gpus));
  } else if (there(c.algbw_gb_s)) {
    out.measured = *c.algbw_gb_s;
    out.predicted = algorithm;
  } else {
    throw NotScored("no time or rate of the collective was printed");
  }
}

}  // namespace orrery
