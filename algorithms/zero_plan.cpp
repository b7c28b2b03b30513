#include "algorithms/zero_plan.hpp"

#include <fmt/format.h>

#include "algorithms/zero.hpp"
#include "backend/core/text.hpp"

namespace orrery {

namespace {

enum class ReduceIn { each, last };
enum class Wire { fp32, bf16, fp16, e4m3, e5m2 };
enum class Gather { as_computed, fp8 };

// What both have.
struct ShardingKeys {
  OptimizerSpec optimizer;
  std::optional<double> clip_norm;
  std::optional<std::int64_t> shard;
  std::optional<ReduceIn> reduce;
  bool overlap_reduce = true;
  std::optional<Wire> communication;
};

struct ZeroKeys : ShardingKeys {
  std::int64_t stage = 1;
  std::optional<Bytes> bucket;
  bool overlap_gather = true;
};

struct FsdpKeys : ShardingKeys {
  std::int64_t prefetch = 1, limit = 2;
  Node reshard_after_forward;  // true, false or m; absent: see doc
  std::optional<bool> reshard_after_backward;
  bool per_parameter = false;
  Gather gather = Gather::as_computed;
};

template <class Keys>
void describe_shared(Fields<Keys>& f) {
  const auto own = [](auto ShardingKeys::*member) {
    return static_cast<std::remove_reference_t<decltype(std::declval<Keys&>().*member)> Keys::*>(
        member);
  };
  f.section("optimizer", own(&ShardingKeys::optimizer));
  f.field("clip_norm", own(&ShardingKeys::clip_norm))
      .positive()
      .doc("largest norm of the gradient; absent: not clipped");
  f.field("shard", own(&ShardingKeys::shard))
      .at_least(1)
      .doc(
          "data parallel ranks that divide one model copy; the rest repeat it (hybrid sharding); "
          "absent: all divide it");
  f.field("reduce", own(&ShardingKeys::reduce))
      .one_of({{"each", ReduceIn::each}, {"last", ReduceIn::last}})
      .doc(
          "gradients in each micro-batch, or in a step's last; absent: each in stages 2 and 3 "
          "without a pipeline, else last");
  f.field("overlap_reduce", own(&ShardingKeys::overlap_reduce))
      .doc("gradients are reduced beside the backward");
  f.field("communication", own(&ShardingKeys::communication))
      .one_of({{"fp32", Wire::fp32},
               {"bf16", Wire::bf16},
               {"fp16", Wire::fp16},
               {"fp8-e4m3", Wire::e4m3},
               {"fp8-e5m2", Wire::e5m2}})
      .doc(
          "type of gradients on the wire; fp8 with a scale per 256 numbers, added in fp32; absent: "
          "precision.reduction");
}

void describe(Fields<ZeroKeys>& f) {
  describe_shared(f);
  f.field("stage", &ZeroKeys::stage)
      .between(1, 3)
      .doc("what is divided: 1 optimizer state, 2 and gradients, 3 and parameters");
  f.field("bucket", &ZeroKeys::bucket)
      .doc(
          "gradients that are reduced at once, in whole blocks; absent: 160MB in stages 1 and 2, a "
          "block in stage 3");
  f.field("overlap_gather", &ZeroKeys::overlap_gather)
      .doc("stages 1 and 2: updated parameters are gathered beside the next forward");
  f.check([](const ZeroKeys& k, const SectionProblems& p) {
    if (k.stage == 1 && k.reduce == ReduceIn::each)
      p.add("reduce", "stage 1 has whole gradients, which add up to the last micro-batch",
            "use last");
  });
}

void describe(Fields<FsdpKeys>& f) {
  describe_shared(f);
  f.field("prefetch", &FsdpKeys::prefetch)
      .between(0, 1000)
      .doc("blocks gathered ahead of the one that computes");
  f.field("limit", &FsdpKeys::limit)
      .between(1, 1000)
      .doc("blocks whole at once, where parameters are freed after the forward");
  f.open("reshard_after_forward", &FsdpKeys::reshard_after_forward)
      .doc(
          "true: parameters are freed after the forward; false: kept for the backward; a number m: "
          "kept by groups of m ranks; absent: true, and false under a pipeline");
  f.field("reshard_after_backward", &FsdpKeys::reshard_after_backward)
      .doc(
          "false: parameters are kept until the step's last micro-batch; absent: true, and false "
          "under a pipeline");
  f.field("per_parameter", &FsdpKeys::per_parameter)
      .doc(
          "as PyTorch's FSDP2: gathers go into a buffer, from which parameters are copied to their "
          "own; the first block stays whole from its forward to its backward");
  f.field("gather", &FsdpKeys::gather)
      .one_of({{"as-computed", Gather::as_computed}, {"fp8", Gather::fp8}})
      .doc(
          "fp8: the matrices of a transformer's layers are gathered in E4M3 with a scale each, and "
          "decoded; for parameters in fp32");
}

void put_on_wire(Wire wire, ZeroOptions& o) {
  if (wire == Wire::fp32) o.communication = Dtype::fp32;
  if (wire == Wire::bf16) o.communication = Dtype::bf16;
  if (wire == Wire::fp16) o.communication = Dtype::fp16;
  if (wire == Wire::e4m3) o.codec = make_codec({.name = "fp8-e4m3"});
  if (wire == Wire::e5m2) o.codec = make_codec({.name = "fp8-e5m2"});
}

ZeroOptions shared_options(const ShardingKeys& k) {
  ZeroOptions o;
  o.overlap_reduce = k.overlap_reduce;
  if (k.communication) put_on_wire(*k.communication, o);
  o.clip_norm = k.clip_norm.value_or(0);
  if (k.reduce) o.reduce_each = *k.reduce == ReduceIn::each;
  return o;
}

// `apart`: how many ranks divide a model copy or, for groups of m, keep it whole together.
AlgorithmPlan plan_of(const ZeroOptions& options, const ShardingKeys& keys, Node node,
                      std::optional<std::int64_t> apart) {
  AlgorithmPlan plan;
  plan.options = std::move(node);
  plan.optimizer = keys.optimizer;
  plan.sharding = options.sharding();
  plan.divide = [apart](int n) {
    const auto m = static_cast<int>(apart.value_or(n));
    if (n % m != 0)
      throw Error(Category::config,
                  fmt::format("the parameters are divided over groups of {} replicas", m));
    return DataAxes{.shard = m, .replicate = n / m, .sharded = true};
  };
  const bool chosen = keys.reduce.has_value();
  plan.make = [options, chosen](Replica& replica) {
    ZeroOptions o = options;
    if (!chosen) o.reduce_each = o.stage > 1 && replica.rank().size(Axis::pipeline) == 1;
    return std::make_unique<Zero>(replica, o);
  };
  return plan;
}

// The number m of reshard_after_forward, if it is one.
std::optional<std::int64_t> group_size(const Node& node, Problems& problems) {
  if (node.is_null() || node.text == "true" || node.text == "false") return {};
  const bool digits = node.is_scalar() && !node.text.empty() && node.text.size() < 10 &&
                      node.text.find_first_not_of("0123456789") == std::string::npos;
  const std::int64_t m = digits ? std::stoll(node.text) : 0;
  if (m >= 1) return m;
  problems.add("algorithm.reshard_after_forward",
               fmt::format("reshard_after_forward: {} is not true, false or a number of ranks",
                           kind_text(node)));
  return {};
}

}  // namespace

AlgorithmPlan read_zero(const Node& node, Problems& problems) {
  const auto keys = read<ZeroKeys>(node, problems);
  ZeroOptions options = shared_options(keys);
  options.stage = static_cast<int>(keys.stage);
  options.group = keys.bucket.value_or(Bytes(keys.stage == 3 ? 0 : 160'000'000));
  options.overlap_gather = keys.overlap_gather;
  return plan_of(options, keys, to_node(keys), keys.shard);
}

AlgorithmPlan read_fsdp(const Node& node, Problems& problems) {
  const auto keys = read<FsdpKeys>(node, problems);
  ZeroOptions options = shared_options(keys);
  options.gather.prefetch = static_cast<int>(keys.prefetch);
  options.gather.limit = static_cast<int>(keys.limit);
  options.gather.after_backward = keys.reshard_after_backward;
  options.gather.per_parameter = keys.per_parameter;
  options.gather.narrow = keys.gather == Gather::fp8;
  const Node& reshard = keys.reshard_after_forward;
  const std::optional<std::int64_t> m = group_size(reshard, problems);
  if (m && keys.shard)
    problems.add("algorithm.shard", "not available yet: groups of ranks within hybrid sharding",
                 "leave it out, or use true or false for reshard_after_forward");
  if (m && options.gather.narrow)
    problems.add("algorithm.gather", "not available yet: fp8 parameters that are kept by groups",
                 "use true or false for reshard_after_forward");
  if (m) {
    options.over = {Axis::expert, Axis::shard, Axis::replicate, Axis::context};
    options.gather.group = {Axis::expert, Axis::shard};
    options.gather.after_forward = Reshard::to_group;
  } else if (!reshard.is_null()) {
    options.gather.after_forward = reshard.text == "true" ? Reshard::yes : Reshard::no;
  }
  return plan_of(options, keys, to_node(keys), m ? m : keys.shard);
}

}  // namespace orrery
