// What a measured case is compared with: its measured figure by hand, its scenario, its reason.
#include <doctest/doctest.h>

#include "platforms/kernel_time.hpp"
#include "tests/published/case_files.hpp"

using namespace orrery;

namespace {

// A step of a small GPT on 8 A100: 16 samples of 1,024 tokens.
const std::string step =
    "kind: train_step, layers: 12, hidden: 1024, heads: 16, vocab: 51200, seq_len: 1024, gpu: "
    "A100-80GB-SXM, gpus: 8, gpus_per_node: 8, tp: 1, pp: 1, dp: 8, micro_batch: 1, global_batch: "
    "16, precision: bf16, recompute: full, sharding: ddp";

bool assumes(const Prediction& p, const std::string& path, const std::string& value) {
  for (const Assumption& a : p.assumptions)
    if (a.path == path && a.value == value && !a.reason.empty()) return true;
  return false;
}

std::string skipped(const std::string& keys) { return prediction_of(keys).skipped; }

// `text` with `from` replaced.
std::string with(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("measured seconds come from the first figure that the case has") {
  const auto measured = [](const std::string& figures, const std::string& head = "") {
    const Prediction p = prediction_of(step + ", " + figures, head);
    CHECK_MESSAGE(p.skipped.empty(), p.skipped);
    CHECK(p.unit == "s");
    CHECK(p.scenario != nullptr);
    return p.measured;
  };
  const double tokens = 16.0 * 1024;
  CHECK(measured("iter_s: 0.5, iter_s_derived: 0.6, tokens_s: 1, mfu: 0.1") == 0.5);
  CHECK(measured("iter_s_derived: 0.6, tokens_s: 1") == 0.6);
  CHECK(measured("tokens_s: 16384, tokens_s_gpu: 1") == 1);
  CHECK(measured("tokens_s_gpu: 4096, samples_s_gpu: 9") == 0.5);
  CHECK(measured("samples_s_gpu: 4, tflops_gpu: 9") == 0.5);
  // Per token: 12 layers of 12 h^2 multiply-adds, the head, and attention.
  const double h = 1024, layers = 12 * (6 * 12 * h * h + 12 * h * 1024), head = 6 * h * 51200;
  const double model = tokens * (layers + head), hardware = tokens * (4.0 / 3 * layers + head);
  CHECK(measured("tflops_gpu: 100, tflops_def: model") == doctest::Approx(model / 8e14));
  CHECK(measured("tflops_gpu: 100, tflops_def: hardware") == doctest::Approx(hardware / 8e14));
  CHECK(measured("mfu: 0.5, peak_tflops: 312") == doctest::Approx(model / (0.5 * 8 * 312e12)));
  // A source that halves causal attention.
  const double halved = tokens * (12 * (6 * 12 * h * h + 6 * h * 1024) + head);
  CHECK(measured("tflops_gpu: 100, tflops_def: model",
                 "source: {repo: NVIDIA-NeMo/Megatron-Bridge}\n") ==
        doctest::Approx(halved / 8e14));
}

TEST_CASE("a step becomes the scenario that its keys tell") {
  const Prediction p = prediction_of(step + ", iter_s: 1");
  REQUIRE(p.scenario);
  const Scenario& s = *p.scenario;
  CHECK(s.gpus() == 8);
  CHECK(s.data_parallel() == 8);
  CHECK(s.micro_batches() == 2);
  CHECK(*s.data.sequence == 1024);
  CHECK(s.recompute);
  CHECK(s.machines.cluster.name == "one-dgx-a100");
  const TransformerSpec& t = s.model_spec.transformer;
  CHECK(t.ffn == 4096);
  CHECK(t.kv_heads == 16);
  CHECK(t.learned_positions);
  CHECK_FALSE(t.gated);
  CHECK(assumes(p, "stack", "generic"));
  CHECK(assumes(p, "model", "gpt"));
  CHECK_FALSE(assumes(p, "precision", "bf16"));
  CHECK(p.same == prediction_of(step + ", iter_s: 2").same);
  CHECK(p.same != prediction_of(with(step, "layers: 12", "layers: 6") + ", iter_s: 1").same);
}

TEST_CASE("what a case leaves out is assumed, and listed") {
  const Prediction p = prediction_of(
      "kind: train_step, model: Llama-x, layers: 4, hidden: 512, heads: 8, kv_heads: 2, seq_len: "
      "256, gpu: A100, tp: 1, pp: 2, dp: 2, num_microbatches: 4, global_batch: 16, precision: "
      "fp16, iter_s: 1");
  REQUIRE_MESSAGE(p.scenario, p.skipped);
  CHECK(p.scenario->data.micro_batch == 2);
  CHECK(p.scenario->gpus() == 4);
  CHECK(p.scenario->model_spec.transformer.gated);
  CHECK(p.scenario->model_spec.transformer.kv_heads == 2);
  CHECK(assumes(p, "gpu", "a100-sxm-80gb"));
  CHECK(assumes(p, "vocab", "50304"));
  CHECK(assumes(p, "precision", "bf16"));
  CHECK(assumes(p, "recompute", "none"));
  CHECK(assumes(p, "sharding", "ddp"));
  CHECK(assumes(p, "pp_schedule", "1f1b"));
  const Prediction no_batch = prediction_of(
      with(with(step, "micro_batch: 1, ", ""), "heads: 16", "heads: 16, local_batch: 2") +
      ", iter_s: 1");
  CHECK(assumes(no_batch, "micro_batch", "2"));
}

TEST_CASE("nodes follow from GPUs and interconnect") {
  const std::string two = with(with(step, "gpus: 8", "gpus: 16"), "dp: 8", "dp: 16");
  const Prediction usual = prediction_of(two + ", iter_s: 1");
  REQUIRE_MESSAGE(usual.scenario, usual.skipped);
  CHECK(usual.scenario->machines.cluster.name == "two-dgx-a100");
  CHECK(assumes(usual, "interconnect", "infiniband"));
  const Prediction efa =
      prediction_of(two + ", iter_s: 1, interconnect: NVLink3 + 4x100 Gb/s EFA per node");
  REQUIRE_MESSAGE(efa.scenario, efa.skipped);
  CHECK(efa.scenario->machines.cluster.name == "two-p4de");
  const Prediction rated =
      prediction_of(two + ", iter_s: 1, interconnect: NVLink3+1600 Gb/s RoCE per node");
  REQUIRE_MESSAGE(rated.scenario, rated.skipped);
  CHECK(rated.scenario->machines.parts[0].node.nics->bandwidth.value.value == 25e9);
  CHECK(assumes(rated, "nics.bandwidth", "8 x 25.0 GB/s"));
  const Prediction large = prediction_of(
      "kind: train_step, layers: 12, hidden: 1024, heads: 16, seq_len: 1024, gpu: A100-40GB-SXM, "
      "gpus: 32, gpus_per_node: 8, dp: 32, micro_batch: 1, global_batch: 32, iter_s: 1");
  REQUIRE_MESSAGE(large.scenario, large.skipped);
  CHECK(large.scenario->machines.gpus() == 32);
  CHECK(assumes(large, "cluster", "one-dgx-a100-40gb"));
}

TEST_CASE("selective recomputation and products in fp8 are what a case says") {
  const Prediction again = prediction_of(with(step, "full", "selective") + ", iter_s: 1");
  REQUIRE_MESSAGE(again.scenario, again.skipped);
  CHECK(again.scenario->recompute_attention);
  CHECK_FALSE(again.scenario->recompute);
  const auto of_repo = [](const std::string& repo) {
    return prediction_of(with(step, "full", "selective") + ", iter_s: 1",
                         "source: {title: t, repo: " + repo + "}\n");
  };
  const Prediction products = of_repo("pytorch/torchtitan");
  REQUIRE_MESSAGE(products.scenario, products.skipped);
  CHECK(products.scenario->recompute_every_second);
  CHECK(assumes(products, "recompute", "every-second-product"));
  CHECK(products.scenario->machines.stack.name == "torchtitan-2024");
  const Prediction gathered =
      prediction_of(with(step, "sharding: ddp", "sharding: zero3") +
                        ", iter_s: 1, fp8_all_gather: true, stack: torchtitan-2025-torchrun",
                    "source: {title: t, repo: pytorch/torchtitan}\n");
  REQUIRE_MESSAGE(gathered.scenario, gathered.skipped);
  CHECK(gathered.scenario->algorithm.plan.sharding.narrow);
  CHECK_FALSE(gathered.scenario->machines.stack.expandable_segments);
  CHECK(of_repo("foundation-model-stack/fms-fsdp").skipped ==
        "how many layers are recomputed is not stated");
  const std::string h100 = with(with(step, "A100-80GB-SXM", "H100-SXM"), "bf16", "fp8");
  const Prediction narrow = prediction_of(h100 + ", iter_s: 1");
  REQUIRE_MESSAGE(narrow.scenario, narrow.skipped);
  CHECK(narrow.scenario->precision.parameters == Dtype::bf16);
  CHECK(narrow.scenario->precision.products == Products::fp8_tensor);
  CHECK(narrow.scenario->product_dtype() == Dtype::fp8);
  CHECK(assumes(narrow, "precision.products", "fp8-tensor"));
  const Prediction blocks = prediction_of(with(h100, "fp8", "MXFP8") + ", iter_s: 1");
  REQUIRE_MESSAGE(blocks.scenario, blocks.skipped);
  CHECK(blocks.scenario->precision.products == Products::mxfp8);
  const Prediction four = prediction_of(
      with(with(with(step, "A100-80GB-SXM", "B200-SXM"), "bf16", "NVFP4"), "full", "none") +
      ", iter_s: 1");
  REQUIRE_MESSAGE(four.scenario, four.skipped);
  CHECK(four.scenario->precision.products == Products::nvfp4);
  CHECK(four.scenario->precision.activations == Dtype::bf16);
  CHECK(four.scenario->product_dtype() == Dtype::fp4);
  CHECK(assumes(four, "precision.products", "nvfp4"));
}

TEST_CASE("kernels are scored in their own unit by the models of the platform") {
  const PlatformFolder folder(ORRERY_SOURCE_DIR);
  const GpuSpec gpu = folder.gpu("a100-sxm-80gb");
  const StackSpec stack = folder.stack("generic");
  const Kernel gemm = Kernel::gemm(4096, 8192, 2048, Dtype::fp16);
  const double t = kernel_time(gemm, cost(gemm), gpu, stack).value,
               flops = 2.0 * 4096 * 8192 * 2048;
  const std::string shape = "kind: gemm, gpu: A100-SXM, precision: fp16, m: 4096, n: 8192, k: 2048";
  const Prediction time = prediction_of(shape + ", time_s: 0.001, tflops_gpu: 5");
  CHECK(time.unit == "s");
  CHECK(time.measured == 0.001);
  CHECK(*time.predicted == t);
  const Prediction rate = prediction_of(shape + ", tflops_gpu: 200");
  CHECK(rate.unit == "TFLOP/s");
  CHECK(rate.measured == 200);
  CHECK(*rate.predicted == doctest::Approx(flops / t * 1e-12));
  const Prediction share = prediction_of(shape + ", efficiency: 0.7, peak_tflops: 312");
  CHECK(share.unit == "share of peak");
  CHECK(*share.predicted == doctest::Approx(flops / t / 312e12));

  const Prediction attention = prediction_of(
      "kind: attention, gpu: A100-SXM, precision: bf16, stage: bwd, batch: 2, seq_len: 4096, "
      "heads: 16, kv_heads: 4, qk_head_dim: 128, v_head_dim: 128, efficiency: 0.9, peak_tflops: "
      "312");
  const Kernel causal = Kernel::attention_backward(2, 16, 4, 4096, 128, true, Dtype::bf16);
  const double whole = 2.5 * 4.0 * 2 * 16 * 4096 * 4096 * 128;
  CHECK(*attention.predicted ==
        doctest::Approx(whole / kernel_time(causal, cost(causal), gpu, stack).value / 312e12));
}

TEST_CASE("collectives are scored by time or bandwidth, on the GPUs of each node that they used") {
  const Cluster cluster(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), "one-dgx-a100"));
  const std::string eight =
      "kind: collective, op: all_reduce, gpu: A100-SXM, gpus: 8, nodes: 1, bytes: 1e9, ";
  const double t =
      cluster.plan(Collective::all_reduce, Bytes(1'000'000'000), {0, 1, 2, 3, 4, 5, 6, 7})
          .total.seconds()
          .value;
  CHECK(*prediction_of(eight + "time_s: 0.01").predicted == t);
  const Prediction bus = prediction_of(eight + "busbw_gb_s: 230");
  CHECK(bus.unit == "GB/s");
  CHECK(*bus.predicted == doctest::Approx(1.75 / t));
  CHECK(*prediction_of(eight + "algbw_gb_s: 130").predicted == doctest::Approx(1 / t));
  const Cluster two(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), "two-dgx-a100"));
  const Prediction pair = prediction_of(
      "kind: collective, op: send_recv, gpu: A100-SXM, gpus: 2, nodes: 2, gpus_per_node_used: 1, "
      "bytes: 1e6, time_s: 0.001, interconnect: NVLink3+8xHDR200");
  REQUIRE_MESSAGE(pair.predicted, pair.skipped);
  CHECK(*pair.predicted ==
        two.plan(Collective::send, Bytes(1'000'000), {0, 8}).total.seconds().value);
}

TEST_CASE("kinds of sharding are stages of ZeRO and FSDP") {
  const std::string timed = step + ", iter_s: 1";
  for (const auto& [sharding, name, stage] :
       {std::tuple{"zero1", "zero", 1}, {"zero2", "zero", 2}, {"fsdp", "fsdp", 3}}) {
    const Prediction p =
        prediction_of(with(timed, "sharding: ddp", std::string("sharding: ") + sharding));
    REQUIRE(p.scenario);
    CHECK(p.scenario->algorithm.name == name);
    CHECK(p.scenario->algorithm.plan.sharding.stage == stage);
  }
}

TEST_CASE("elementwise operations are scored as the kernel of their shape, divided over ranks") {
  const PlatformFolder folder(ORRERY_SOURCE_DIR);
  const auto time_of = [&](const Kernel& kernel) {
    return kernel_time(kernel, cost(kernel), folder.gpu("a100-sxm-80gb"), folder.stack("generic"))
        .value;
  };
  const std::string shape =
      "kind: elementwise, gpu: A100-SXM, precision: fp16, tokens: 4096, hidden: 8192, "
      "ffn_hidden: 28672, tp: 4, time_s: 0.001, op: ";
  CHECK(*prediction_of(shape + "input_layernorm").predicted ==
        time_of(Kernel::norm(4096, 8192, Norm::rms, 1e-5, Dtype::fp16)));
  CHECK(*prediction_of(shape + "add").predicted ==
        time_of(Kernel::residual_add(4096, 8192, Dtype::fp16)));
  CHECK(*prediction_of(shape + "mlp_act").predicted ==
        time_of(Kernel::gated_activation(4096, 7168, Activation::silu, Dtype::fp16)));
  CHECK(prediction_of(shape + "rope").skipped == "op 'rope' has no kernel");
}

TEST_CASE("every case that cannot be scored says why, in one sentence") {
  const std::string timed = step + ", iter_s: 1";
  const auto check = [](const std::string& keys, const std::string& reason) {
    const Prediction p = prediction_of(keys);
    CHECK(p.skipped == reason);
    CHECK_FALSE(p.predicted);
    CHECK_FALSE(p.scenario);
  };
  check("kind: ablation", "kind ablation is not predicted");
  check(step, "no time or rate of a step was printed");
  check(step + ", tflops_gpu: 9", "whether tflops_gpu counts recomputation is not stated");
  check(with(timed, "gpu: A100-80GB-SXM, ", ""), "the GPU is not stated");
  check(with(timed, "A100-80GB-SXM", "Abacus"), "no platform describes the GPU 'Abacus'");
  check(with(timed, "gpus_per_node: 8", "gpus_per_node: 6"),
        "no cluster has nodes of 6 a100-sxm-80gb");
  check(with(timed, "layers: 12, hidden: 1024, ", ""), "the model's layers, hidden are not stated");
  check(timed + ", experts: 8", "the experts of a case are not read yet");
  check(timed + ", attention: mla", "not available yet: attention 'mla'");
  check(with(timed, "precision: bf16", "precision: int1"), "precision 'int1' has no alias");
  check(with(timed, "precision: bf16", "precision: NVFP4"), "a100-sxm-80gb has no products in fp4");
  check(with(timed, "recompute: full", "recompute: some"), "recompute 'some' has no alias");
  check(with(timed, "precision: bf16", "precision: FP8-MX"),
        "a100-sxm-80gb has no products in fp8");
  check(with(timed, "tp: 1, pp: 1, dp: 8", "tp: 1, pp: 1, dp: 8, ep: 2"),
        "the experts of a case are not read yet");
  check(with(timed, "dp: 8", "dp: 4"), "tp x pp x cp x dp is not the number of GPUs");
  check(with(with(timed, "tp: 1, pp: 1, dp: 8, ", ""), ", sharding: ddp", ""),
        "how the GPUs share the work is not stated");
  check(with(timed, ", global_batch: 16", ""), "the batch of a step is not stated");
  check(with(with(timed, "gpus: 8", "gpus: 16"), "dp: 8", "dp: 16") + ", interconnect: string",
        "interconnect 'string' has no alias");
  check("kind: gemm, gpu: A100, precision: bf16, m: 1, n: 1",
        "the shape of the product is not stated");
  check("kind: gemm, gpu: A100, precision: bf16, m: 1, n: 1, k: 1, batch: 2, time_s: 1",
        "not available yet: a batched product");
  check("kind: gemm, gpu: A100, precision: bf16, m: 1, n: 1, k: 1",
        "no time or rate of the kernel was printed");
  check("kind: attention, gpu: A100, precision: bf16", "the shape of the attention is not stated");
  check("kind: collective, op: all_reduce, gpu: A100, gpus: 8, nodes: 1, time_s: 1",
        "the size of the message is not stated");
  check("kind: collective, op: all_reduce, gpu: A100, gpus: 16, nodes: 2, bytes: 8, time_s: 1",
        "the network between the nodes is not stated");
  check("kind: collective, op: gossip, gpu: A100, gpus: 8, nodes: 1, bytes: 8, time_s: 1",
        "op 'gossip' has no alias");
  CHECK(skipped(with(timed, "heads: 16", "heads: 7")).starts_with("heads: 7 heads do not divide"));
}
