#include "scenarios/scenario.hpp"
#include "algorithms/ddp.hpp"

#include <doctest/doctest.h>

#include <filesystem>

#include "backend/core/error.hpp"
#include "tests/scenarios/root.hpp"

using namespace orrery;

namespace {

Document quickstart(const std::vector<std::string>& settings = {}) {
  Document d = Document::parse_file(root + "/scenarios/quickstart.yaml");
  for (const std::string& s : settings) d.set(s);
  return d;
}

std::vector<ConfigMessage> messages(const Document& d) {
  try {
    read_scenario(d, root);
  } catch (const ConfigError& e) {
    return e.messages;
  }
  return {};
}

// A small valid scenario, one key per line, with one line replaced or added.
std::vector<ConfigMessage> small(const std::string& key, const std::string& line) {
  std::vector<std::pair<std::string, std::string>> lines{
      {"model", "model: mlp-bytes"},
      {"data", "data: {global_batch: 16, micro_batch: 4}"},
      {"parallel", "parallel: {pipeline: 1}"},
      {"platform", "platform: {cluster: two-dgx-a100, gpus: 4}"}};
  bool replaced = false;
  for (auto& [name, text] : lines)
    if (name == key) {
      text = line;
      replaced = true;
    }
  if (!replaced) lines.emplace_back(key, line);
  std::string text;
  for (const auto& [name, content] : lines) text += content + "\n";
  return messages(Document::parse_text(text, "small.yaml"));
}

void expect(const std::vector<ConfigMessage>& all, int line, int column, const std::string& text,
            const std::string& suggestion) {
  REQUIRE(all.size() == 1);
  CHECK(all[0].text == text);
  CHECK(all[0].suggestion == suggestion);
  CHECK(all[0].line == line);
  CHECK(all[0].column == column);
}

}  // namespace

TEST_CASE("throttled links have a latency and a bandwidth, and are refused beside flows") {
  CHECK(!read_scenario(quickstart(), root).platform.throttle);
  const std::string throttle = "platform.throttle={latency: 1ms, bandwidth: 1Gbps}";
  const Scenario s = read_scenario(quickstart({throttle}), root);
  REQUIRE(s.platform.throttle);
  CHECK(s.platform.throttle->latency == Seconds(1e-3));
  CHECK(s.platform.throttle->bandwidth == BytesPerSecond(125e6));
  CHECK(read_scenario(quickstart({throttle, "run.fidelity=analytic"}), root).platform.throttle);
  for (const char* fidelity : {"flow", "messages"}) {
    const auto refused = messages(quickstart({throttle, std::string("run.fidelity=") + fidelity}));
    REQUIRE(refused.size() == 1);
    CHECK(refused[0].text == "throttled links are timed by a formula, not by flows");
    CHECK(refused[0].suggestion ==
          "set run.fidelity to auto or analytic, or leave platform.throttle out");
  }
  CHECK(messages(quickstart({"platform.throttle={bandwidth: 1Bps}"})).size() == 1);
}

// As resolved, read again.
DdpOptions ddp_of(const Scenario& s) {
  Problems problems;
  const auto options = read<DdpOptions>(s.algorithm.options, problems);
  CHECK(problems.empty());
  return options;
}

TEST_CASE("the quickstart reads and resolves") {
  const Scenario s = read_scenario(quickstart(), root);
  CHECK(s.model_spec.parameters() == 1'235'814'400);
  CHECK(s.gpus() == 16);
  CHECK(s.data_parallel() == 16);
  CHECK(s.micro_batches() == 4);
  CHECK(s.tokens_per_step() == 256 * 4096);
  CHECK(s.machines.gpus() == 16);
  const DdpOptions ddp = ddp_of(s);
  CHECK(ddp.bucket == Bytes(25'000'000));
  CHECK(ddp.optimizer.beta2 == 0.95);
  CHECK(*ddp.clip_norm == 1.0);
  CHECK(s.algorithm.plan.optimizer.options().beta2 == 0.95);
  CHECK(!s.recompute);
  CHECK(s.warnings.empty());
  CHECK(s.grid().size() == 16);
  CHECK(s.grid().size(Axis::replicate) == 16);
  // 18 bytes of state per parameter leave more than half of the memory to activations.
  CHECK(18.0 * static_cast<double>(s.model_spec.parameters()) < 0.3 * 80e9);
}

TEST_CASE("all committed scenarios read, and their resolved form reads back to the same") {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(root + "/scenarios")) {
    if (entry.path().extension() != ".yaml") continue;
    CAPTURE(entry.path().string());
    ++files;
    const Scenario s = read_scenario(Document::parse_file(entry.path().string()), root);
    const std::string resolved = resolved_yaml(s);
    CHECK(resolved_yaml(read_scenario(Document::parse_text(resolved, "resolved.yaml"), root)) ==
          resolved);
  }
  CHECK(files >= 3);
}

TEST_CASE("a pipeline leaves the rest of the GPUs to data parallelism") {
  const Scenario s = read_scenario(Document::parse_file(root + "/scenarios/mlp-1f1b.yaml"), root);
  CHECK(s.data_parallel() == 2);
  CHECK(s.micro_batches() == 4);
  CHECK(*s.data.sequence == 16);
  CHECK(s.run.values == RunValues::real);
  CHECK(std::filesystem::exists(*s.data.text));
  CHECK(s.grid().coordinate(0, Axis::pipeline) == 0);
  CHECK(s.grid().coordinate(1, Axis::replicate) == 1);  // dp before pp
  CHECK(s.grid().coordinate(2, Axis::pipeline) == 1);
}

TEST_CASE("what does not divide is reported at its place with advice") {
  expect(small("data", "data: {global_batch: 18, micro_batch: 4}"), 2, 8,
         "18 samples do not divide by data parallel 4 x micro_batch 4 = 16", "use 16 or 32");
  expect(messages(Document::parse_text(
             "model: mlp-bytes\ndata: {global_batch: 16}\nparallel: {pipeline: 3}\n"
             "platform: {cluster: two-dgx-a100, gpus: 3}\n",
             "s.yaml")),
         3, 12, "4 layers of mlp-bytes do not divide into 3 stages", "use 2 or 4");
  expect(small("platform", "platform: {cluster: two-dgx-a100, gpus: 17}"), 4, 35,
         "17 GPUs asked for, but cluster two-dgx-a100 has 16", "use at most 16");
  CHECK(small("parallel", "parallel: {pipeline: 2}").empty());
  CHECK(small("parallel", "parallel: {pipeline: 4}").empty());
  const auto three = small("platform", "platform: {cluster: two-dgx-a100, gpus: 3}");
  REQUIRE(!three.empty());
  CHECK(three[0].text == "16 samples do not divide by data parallel 3 x micro_batch 4 = 12");
}

TEST_CASE("all errors come at once, in the order of the file") {
  const auto all =
      messages(Document::parse_text("platform: {cluster: two-dgx-a10}\nparallel: {order: tp}\n"
                                    "model: mlp-byte\ndata: {global_batch: 4}\n",
                                    "s.yaml"));
  REQUIRE(all.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) CHECK(all[i].line == static_cast<int>(i) + 1);
  // A key that cannot be read does not hide a wrong name.
  const auto two = messages(Document::parse_text(
      "model: mlp-byte\ndata: {global_batch: many}\nplatform: {cluster: two-dgx-a100}\n",
      "s.yaml"));
  REQUIRE(two.size() == 2);
  CHECK(two[0].line == 1);
  CHECK(two[1].line == 2);
}

TEST_CASE("GPUs must divide by the stages") {
  Document d = Document::parse_text(
      "model: mlp-bytes\ndata: {global_batch: 16}\nparallel: {pipeline: 4}\nplatform: {cluster: "
      "two-dgx-a100, gpus: 6}\n",
      "s.yaml");
  expect(messages(d), 3, 12, "6 GPUs do not divide by tensor x context x pipeline = 4",
         "use 4 or 8 GPUs");
}

TEST_CASE("what is not available yet is said, not ignored") {
  const auto refused = [](const std::string& setting) {
    const auto all = messages(quickstart({setting}));
    bool said = false;
    for (const ConfigMessage& m : all)
      said = said || (m.file == "--set" && m.text.find("not available yet") != std::string::npos);
    CHECK_MESSAGE(said, setting);
  };
  for (const char* setting : {"precision.parameters=fp8", "precision.master=bf16",
                              "precision.activations=fp32", "algorithm={name: fsdp, gather: fp8}",
                              "algorithm={name: fsdp, gather: fp8, reshard_after_forward: 2}"})
    refused(setting);
}

TEST_CASE("recomputation is a policy or a list of layers, but for some micro-batches") {
  const auto with = [](const std::string& memory) { return quickstart({"memory=" + memory}); };
  CHECK(read_scenario(with("{recompute: [0, 15]}"), ORRERY_SOURCE_DIR).recompute_layers ==
        std::vector<int>{0, 15});
  const Scenario products =
      read_scenario(with("{recompute: every-second-product}"), ORRERY_SOURCE_DIR);
  CHECK(products.recompute);
  CHECK(products.recompute_every_second);
  CHECK(messages(with("{recompute: full, stored_micro_batches: 1}")).empty());
  CHECK(messages(with("{recompute: selective, attention: stored, dropout: true}")).empty());
  for (const auto& [memory, said] :
       {std::pair{"{recompute: some}", "is not one of none, selective, every-second-product, full"},
        {"{recompute: [16]}", "has layers 0 to 15, none with number 16"},
        {"{recompute: [attention]}", "attention"},
        {"{stored_micro_batches: 1}", "nothing is recomputed"},
        {"{recompute: every-second-product, attention: stored}",
         "every second product again, with stored scores"},
        {"{recompute: every-second-product, dropout: true}", "with dropout"}}) {
    const auto all = messages(with(memory));
    REQUIRE(all.size() == 1);
    CHECK(all[0].text.find(said) != std::string::npos);
  }
}

TEST_CASE("ZeRO and FSDP divide replicas, and say what does not go together") {
  const auto with = [](const std::string& algorithm, const std::string& more = "") {
    return quickstart({"algorithm=" + algorithm, more.empty() ? "run.seed=1" : more});
  };
  const auto grid = [&](const std::string& algorithm) {
    const Grid g = read_scenario(with(algorithm), ORRERY_SOURCE_DIR).grid();
    return std::pair{g.size(Axis::shard), g.size(Axis::replicate)};
  };
  CHECK(grid("{name: zero}") == std::pair{16, 1});
  CHECK(grid("{name: zero, stage: 3, shard: 8}") == std::pair{8, 2});
  CHECK(grid("{name: fsdp, reshard_after_forward: 8}") == std::pair{8, 2});
  CHECK(messages(with("{name: fsdp, reshard_after_forward: false, reduce: last}")).empty());
  CHECK(messages(with("{name: fsdp}", "precision={parameters: fp32, activations: bf16}")).empty());
  for (const auto& [algorithm, said] :
       {std::pair{"{name: zero, reduce: each}", "stage 1 has whole gradients"},
        {"{name: zero, stage: 4}", "stage"},
        {"{name: zero, shard: 5}", "divided over groups of 5 replicas"},
        {"{name: fsdp, reshard_after_forward: maybe}", "reshard_after_forward"},
        {"{name: fsdp, reshard_after_forward: 4, shard: 8}", "not available yet"}}) {
    const auto all = messages(with(algorithm));
    REQUIRE(all.size() == 1);
    CHECK(all[0].text.find(said) != std::string::npos);
  }
  CHECK(messages(with("{name: fsdp}", "parallel.pipeline=2")).size() == 1);  // its table is tied
}

TEST_CASE("a plan that does not divide the model over tensor ranks is refused with every reason") {
  const auto gpt = [](const char* tensor, const char* more) {
    return messages(Document::parse_text(
        std::string(
            "model: gpt2-xl\ndata: {sequence: 1022, global_batch: 12}\nparallel: {tensor: ") +
            tensor + more + "}\nplatform: {cluster: two-dgx-a100, gpus: 12}\n",
        "s.yaml"));
  };
  const auto all = gpt("4", ", sequence_parallel: true");
  REQUIRE(all.size() == 4);
  CHECK(all[0].line == 3);
  CHECK(all[0].text == "25 attention heads of gpt2-xl do not divide over 4 GPUs");
  CHECK(all[0].suggestion == "use 1 or 5");
  CHECK(all[1].text == "25 heads of keys and values of gpt2-xl do not divide over 4 GPUs");
  CHECK(all[2].text == "50257 tokens of the vocabulary of gpt2-xl do not divide over 4 GPUs");
  CHECK(all[2].suggestion == "pad the model's vocabulary, for instance to 50688");
  CHECK(all[3].text == "1022 tokens of a sequence do not divide over 4 GPUs");
  CHECK(gpt("1", ", sequence_parallel: true").size() == 1);
  CHECK(messages(quickstart({"parallel.tensor=8", "parallel.sequence_parallel=true"})).empty());
  expect(small("parallel", "parallel: {tensor: 2}"), 3, 12,
         "not available yet: tensor parallelism of mlp-bytes", "use 1");
}

TEST_CASE("a plan that does not divide sequences over context ranks is refused with every reason") {
  const auto divided = [](const char* algorithm, const char* sequence) {
    return messages(quickstart({"parallel.context=16", std::string("data.sequence=") + sequence,
                                std::string("parallel.context_algorithm=") + algorithm}));
  };
  const auto ring = divided("ring", "4080");
  REQUIRE(ring.size() == 1);
  CHECK(ring[0].text == "4080 tokens of a sequence do not divide into 32 parts");
  CHECK(divided("ring", "4096").empty());
  const auto ulysses = divided("ulysses", "4088");
  REQUIRE(ulysses.size() == 2);
  CHECK(ulysses[0].text == "4088 tokens of a sequence do not divide into 16 parts");
  CHECK(ulysses[1].text == "8 heads of keys and values of llama-3.2-1b do not divide over 16 GPUs");
  CHECK(ulysses[1].suggestion == "use 8");
  expect(small("parallel", "parallel: {context: 2}"), 3, 12,
         "not available yet: context parallelism of mlp-bytes", "use 1");
}

TEST_CASE("an impossible plan is refused with every reason at once") {
  const auto all = messages(
      quickstart({"parallel={tensor: 3, pipeline: 5, schedule: interleaved-1f1b, chunks: 1}",
                  "platform.gpus=15", "data.global_batch=7"}));
  std::string texts;
  for (const ConfigMessage& m : all) texts += m.text + "\n";
  CAPTURE(texts);
  for (const char* reason : {"32 attention heads of llama-3.2-1b do not divide over 3 GPUs",
                             "8 heads of keys and values of llama-3.2-1b do not divide over 3 GPUs",
                             "8192 columns of the MLP of llama-3.2-1b do not divide over 3 GPUs",
                             "16 layers of llama-3.2-1b do not divide into 5 stages",
                             "7 samples do not divide by data parallel 1 x micro_batch 4 = 4"})
    CHECK(texts.find(reason) != std::string::npos);
  CHECK(all.size() >= 6);  // and what the schedule says of its chunks
}

TEST_CASE("experts divide over GPUs that train their own samples, and other models have none") {
  const auto mixture = [](std::initializer_list<const char*> settings) {
    Document d = Document::parse_text(
        "model: mixtral-8x7b\ndata: {sequence: 4096, global_batch: 96}\nplatform: {cluster: "
        "eos-h100, gpus: 48}\n",
        "s.yaml");
    for (const char* setting : settings) d.set(setting);
    return messages(d);
  };
  CHECK(mixture({"parallel.expert=8"}).empty());
  CHECK(mixture({"parallel.expert=8", "parallel.tensor=2"}).empty());
  const auto odd = mixture({"parallel.expert=5"});
  REQUIRE(odd.size() == 2);
  CHECK(odd[0].text == "8 experts of mixtral-8x7b do not divide over 5 GPUs");
  CHECK(odd[1].text == "48 data-parallel GPUs do not divide into groups of 5");
  CHECK(mixture({"parallel.expert=8", "experts={capacity_factor: 1.25, imbalance: 1.5}"}).size() ==
        1);
  CHECK(mixture({"parallel.expert=8", "experts={imbalance: 1.5}"}).empty());
  const auto alone = mixture({"experts={imbalance: 1.5}"});
  REQUIRE(alone.size() == 1);
  CHECK(alone[0].text.find("a GPU that holds all experts") == 0);
  for (const auto& [algorithm, reason] :
       {std::pair{"{name: zero, stage: 2}", ""},
        {"{name: fsdp, shard: 16}", ""},
        {"{name: diloco, workers: 6}", ""},
        {"{name: fsdp, shard: 4}",
         "4 GPUs that divide a model copy do not divide into groups of 8"},
        {"{name: diloco}", "1 GPUs of a worker do not divide into groups of 8"},
        {"{name: dpu}", "dpu does not compose with expert"}}) {
    CAPTURE(algorithm);
    const auto all =
        mixture({"parallel.expert=8", (std::string("algorithm=") + algorithm).c_str()});
    CHECK((all.empty() ? "" : all[0].text).find(reason) == 0);
    CHECK(all.empty() == (reason[0] == 0));
  }
  CHECK(messages(quickstart({"parallel.expert=2"}))[0].text ==
        "llama-3.2-1b has no experts to divide");
}

TEST_CASE("workers that take micro-batches one by one share layers and samples, but no tokens") {
  for (const std::string name : {"acco", "dpu", "weight-prediction"}) {
    CAPTURE(name);
    const std::string algorithm = "algorithm={name: " + name + "}";
    const auto shared = [&](const char* setting, bool tokens) {
      Document d = Document::parse_text(
          "model: llama-3.2-1b\ndata: {sequence: 4096, global_batch: 64}\n"
          "parallel: {tensor: 2, context: 2}\nplatform: {cluster: two-dgx-a100}\n",
          "s.yaml");
      d.set(algorithm);
      d.set(setting);
      if (tokens) d.set("parallel.sequence_parallel=true");
      return messages(d);
    };
    CHECK(shared("run.steps=2", false).empty());
    const auto tokens = shared("run.steps=2", true), stages = shared("parallel.pipeline=2", false);
    REQUIRE(tokens.size() == 1);
    CHECK(tokens[0].text.find(name + " does not compose with sequence parallelism: ") == 0);
    REQUIRE(stages.size() == 1);
    CHECK(stages[0].text.find(name + " does not compose with pipeline: ") == 0);
  }
}

TEST_CASE("workers that push may be pipelines, and learned optimizers see layers in parts") {
  const std::string weights = ", weights: " + root + "/scenarios/learned/averaging.yaml";
  const auto fine = [](const std::string& algorithm, const char* parallel) {
    CAPTURE(algorithm);
    const auto all = messages(
        quickstart({std::string("parallel=") + parallel, "algorithm={name: " + algorithm + "}"}));
    CHECK_MESSAGE(all.empty(), (all.empty() ? "" : all.front().text));
  };
  const char* const stages = "{pipeline: 2, tensor: 2, sequence_parallel: true}";
  for (const char* push : {"sgp", "overlap-sgp"}) fine(push, stages);
  fine("lopt-a" + weights, stages);
  fine("lopt-a, workers: 2, inner: {name: fsdp}" + weights, "{tensor: 2}");
}

TEST_CASE("a tied embedding may lie on two stages, and a scenario of the CPU on a CPU") {
  CHECK(messages(quickstart({"parallel.pipeline=2"})).empty());
  CHECK(small("platform", "platform: {cluster: this-cpu, stack: cpu-world, gpus: 4}").empty());
}

TEST_CASE("a micro-batch or a plan whose sizes would overflow a count is refused") {
  expect(messages(quickstart({"data={sequence: 1000000, global_batch: 160000000, micro_batch: "
                              "10000000}"})),
         1, 51, "a micro-batch of 1e+13 tokens is more than any GPU computes at a time",
         "use fewer samples, or shorter ones");
  CHECK(small("parallel", "parallel: {pipeline: 1000001}")[0].suggestion ==
        "must be at least 1, at most 1000000");
}

TEST_CASE("relations between model, data and run are checked") {
  expect(small("data", "data: {global_batch: 16, micro_batch: 4, sequence: 8}"), 2, 42,
         "8 tokens per sample, but model mlp-bytes looks at 16", "leave it out");
  expect(small("run", "run: {values: real}"), 5, 7, "real values need a text to learn from",
         "set data.text, for instance to gpl-3");
  expect(small("data", "data: {global_batch: 16, held_out: 1}"), 2, 36,
         "data.held_out: 1 is out of range", "must be at least 0, at most 0.9");
  expect(small("model", "model: llama-3.2-1b"), 2, 1, "missing key 'sequence' in data",
         "a transformer needs the tokens per sample");
  expect(small("algorithm", "algorithm: {name: none}"), 5, 13,
         "none trains one replica, but 4 GPUs / (tensor 1 x context 1 x pipeline 1) makes 4",
         "use ddp, or fewer GPUs");
  expect(small("data", "data: {global_batch: 16, micro_batch: 4, text: gpl-2}"), 2, 42,
         "no text 'gpl-2'", "did you mean 'gpl-3'?");
  expect(small("run", "run: {record: a, replay: b}"), 5, 18,
         "run.replay: a run either records decisions or replays them", "drop one of the two");
  expect(small("parallel", "parallel: {order: tp-dp}"), 3, 12,
         "'tp-dp' is no order of tp, cp, ep, dp and pp", "write tp-cp-ep-dp-pp, in any order");
  const Scenario longer =
      read_scenario(quickstart({"data.sequence=262144", "data.micro_batch=1"}), root);
  REQUIRE(longer.warnings.size() == 1);
  CHECK(longer.warnings[0].find("131072 positions") != std::string::npos);
}

TEST_CASE("the keys of an algorithm and of an optimizer are its own") {
  expect(small("algorithm", "algorithm: {name: ddp, buket: 1MB}"), 5, 24,
         "unknown key 'buket' in algorithm", "did you mean 'bucket'?");
  expect(small("algorithm", "algorithm: {name: ddq}"), 5, 13, "unknown algorithm 'ddq'",
         "did you mean 'ddp'?");
  expect(small("algorithm", "algorithm: {optimizer: {name: sgd, momentum: 0.9}}"), 5, 36,
         "algorithm.optimizer.momentum: sgd has no momentum", "it belongs to momentum");
  const auto none =
      messages(quickstart({"platform.gpus=1", "data.global_batch=4", "algorithm.name=none"}));
  REQUIRE(none.size() == 1);
  CHECK(none[0].text == "unknown key 'bucket' in algorithm");
}

TEST_CASE("unknown keys and names have suggestions") {
  expect(small("pallel", "paralel: {pipeline: 2}"), 5, 1, "unknown key 'paralel'",
         "did you mean 'parallel'?");
  expect(small("platform", "platform: {cluster: two-dgx-a10}"), 4, 21,
         "unknown cluster 'two-dgx-a10'", "did you mean 'two-dgx-a100'?");
  expect(small("platform", "platform: {cluster: two-dgx-a100, gpus: 4, stack: genric}"), 4, 51,
         "unknown stack 'genric'", "did you mean 'generic'?");
  expect(small("model", "model: mlp-byte"), 1, 8, "unknown model 'mlp-byte'",
         "did you mean 'mlp-bytes'?");
}

TEST_CASE("--set reaches every field") {
  const Scenario s = read_scenario(quickstart({"model=mlp-bytes",
                                               "data.sequence=16",
                                               "data.global_batch=32",
                                               "data.micro_batch=2",
                                               "data.text=gpl-3",
                                               "parallel.pipeline=2",
                                               "parallel.schedule=gpipe",
                                               "parallel.order=tp-cp-ep-pp-dp",
                                               "algorithm.bucket=2MB",
                                               "algorithm.first_bucket=1MB",
                                               "algorithm.clip_norm=0.5",
                                               "algorithm.optimizer={name: momentum, lr: 0.1, "
                                               "momentum: 0.8, nesterov: true, weight_decay: 0.2}",
                                               "memory.recompute=full",
                                               "precision.parameters=fp32",
                                               "precision.activations=fp32",
                                               "precision.reduction=bf16",
                                               "platform.cluster=two-dgx-h100",
                                               "platform.gpus=8",
                                               "platform.stack=generic",
                                               "run.steps=7",
                                               "run.seed=9",
                                               "run.values=real",
                                               "run.fidelity=flow",
                                               "run.folding=off",
                                               "run.flop_rule=6n",
                                               "run.host_clock=false",
                                               "run.record=log.txt"}),
                                   root);
  CHECK(s.model == "mlp-bytes");
  CHECK(s.data.global_batch == 32);
  CHECK(s.data.micro_batch == 2);
  CHECK(s.parallel.pipeline == 2);
  CHECK(s.parallel.schedule == "gpipe");
  CHECK(s.grid().coordinate(1, Axis::pipeline) == 1);
  const DdpOptions ddp = ddp_of(s);
  CHECK(ddp.bucket == Bytes(2'000'000));
  CHECK(ddp.first_bucket == Bytes(1'000'000));
  CHECK(ddp.clip_norm == 0.5);
  CHECK(ddp.optimizer.name == "momentum");
  CHECK(ddp.optimizer.momentum == 0.8);
  CHECK(ddp.optimizer.nesterov == true);
  CHECK(s.recompute);
  CHECK(s.precision.parameters == Dtype::fp32);
  CHECK(s.precision.reduction == Dtype::bf16);
  CHECK(s.machines.cluster.name == "two-dgx-h100");
  CHECK(s.gpus() == 8);
  CHECK(s.run.steps == 7);
  CHECK(s.run.seed == 9);
  CHECK(s.run.values == RunValues::real);
  CHECK(s.run.fidelity == Fidelity::flow);
  CHECK(s.run.folding == Folding::off);
  CHECK(s.run.flop_rule == FlopRule::six_n);
  CHECK(!s.run.host_clock);
  CHECK(*s.run.record == "log.txt");
  CHECK(s.flops_per_step().value == 6.0 * static_cast<double>(s.model_spec.parameters()) * 32);
}

TEST_CASE("the schema knows every section") {
  const std::string schema = scenario_schema();
  for (const char* key :
       {"\"model\"", "\"data\"", "\"parallel\"", "\"algorithm\"", "\"memory\"", "\"precision\"",
        "\"platform\"", "\"cluster_conditions\"", "\"value_model\"", "\"run\"", "\"zb-h1\""})
    CHECK_MESSAGE(schema.find(key) != std::string::npos, key);
}
