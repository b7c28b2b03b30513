// A value model under a timed one, and races on it.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "scenarios/cli/line_chart.hpp"
#include "tests/cli/process.hpp"
#include "tests/support/near.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

std::vector<std::string> race_scenario(const std::vector<std::string>& settings) {
  std::vector<std::string> command{"simulate", "scenarios/race.yaml", "--json", "--quiet",
                                   "--set",    "run.steps=12",        "--set",  "platform.gpus=4",
                                   "--set",    "data.global_batch=32"};
  for (const std::string& setting : settings) {
    command.push_back("--set");
    command.push_back(setting);
  }
  return command;
}

Json simulated(const std::vector<std::string>& settings) {
  const Finished run = orrery_with(race_scenario(settings));
  REQUIRE_MESSAGE(run.exit == 0, run.out << run.err);
  return run.json<Json>();
}

const std::string diloco =
    "algorithm={name: diloco, inner_steps: 4, inner: {optimizer: {lr: 3e-3}}}";

// Of one rank, over all its channels.
double sent_per_step(const Json& result) {
  double sent = 0;
  for (const Json& row : result["communication"]) sent += row["bytes_per_rank"].get<double>();
  return sent;
}

void check_clock(const std::string& algorithm, const std::string& value_model) {
  CAPTURE(algorithm);
  CAPTURE(value_model);
  // As many buckets as the timed model has cannot be had from few parameters: without an alpha they
  // cost nothing.
  const std::string no_alpha = "platform.throttle.latency=1us";
  const Json twin = simulated({algorithm, value_model, no_alpha}),
             timed = simulated({algorithm, "value_model=null", no_alpha});
  for (const char* figure : {"step_time_s", "tokens_per_s", "mfu", "hfu"})
    CHECK(twin[figure].get<double>() == near(timed[figure].get<double>(), 0.002));
  CHECK(twin["time"]["compute_s"].get<double>() ==
        near(timed["time"]["compute_s"].get<double>(), 0.002));
  CHECK(std::fabs(twin["time"]["exposed_communication_s"].get<double>() -
                  timed["time"]["exposed_communication_s"].get<double>()) <
        0.002 * timed["step_time_s"].get<double>());
  CHECK(twin["memory"] == timed["memory"]);
  REQUIRE(twin["communication"].size() == timed["communication"].size());
  CHECK(sent_per_step(twin) == near(sent_per_step(timed), 0.01));
  CHECK(timed["loss"].empty());
  CHECK(twin["loss"].size() == 12);
  CHECK(twin["loss"].back() < twin["loss"].front());
}

}  // namespace

TEST_CASE(
    "with a value model the clock, the bytes and the memory are those of the timed model, under "
    "every algorithm that keeps its parameters whole") {
  const std::string optimizer = "optimizer: {lr: 3e-3}}";
  for (const std::string& algorithm :
       {"algorithm={name: ddp, clip_norm: 1, " + optimizer,
        "algorithm={name: zero, stage: 1, " + optimizer,
        "algorithm={name: local-sgd, inner_steps: 4, inner: {" + optimizer + "}", diloco,
        "algorithm={name: slowmo, workers: 2, inner_steps: 4, inner: {" + optimizer + "}",
        "algorithm={name: streaming-diloco, inner_steps: 6, overlap: 2, inner: {" + optimizer + "}",
        "algorithm={name: acco, " + optimizer, "algorithm={name: dpu, " + optimizer,
        "algorithm={name: weight-prediction, " + optimizer, "algorithm={name: qsgd, " + optimizer,
        "algorithm={name: topk, " + optimizer, "algorithm={name: sgp, " + optimizer,
        "algorithm={name: overlap-sgp, " + optimizer,
        std::string("algorithm={name: dgc, optimizer: {lr: 0.1}}"),
        std::string("algorithm={name: onebit-adam, freeze_step: 8, optimizer: {epsilon: 0.01}}")})
    check_clock(algorithm, "value_model.micro_batch=8");
}

TEST_CASE("a transformer can be the value model too") {
  check_clock(diloco, "value_model={model: gpt-bytes, sequence: 32, micro_batch: 1, text: gpl-3}");
}

// Updates that a gradient's parameters lack, on average.
double mean_staleness(const Json& result) {
  double sum = 0;
  for (const Json& row : result["staleness"])
    sum += row["updates"].get<double>() * row["share"].get<double>();
  return sum;
}

TEST_CASE("a value model gossips when the timed model would, and its gradients are as stale") {
  // At ten gigabits a second an averaging takes as long as three gradients.
  const std::vector<std::string> usual{"run.steps=40", "platform.throttle.bandwidth=10Gbps"};
  auto narrow = usual;  // DADAO's vectors are fp32
  narrow.insert(narrow.end(), {"precision={parameters: fp32, activations: fp32}",
                               "data.micro_batch=1", "data.global_batch=8"});
  for (const char* algorithm : {"a2cid2, exact_rate: true, rate: 0.1", "ad-psgd, rate: 0.5",
                                "dadao, mu: 0.1, smoothness: 100"}) {
    CAPTURE(std::string(algorithm));
    auto settings = std::string(algorithm).starts_with("dadao") ? narrow : usual;
    settings.push_back(std::string("algorithm={name: ") + algorithm + "}");
    const Json twin = simulated(settings);
    settings.emplace_back("value_model=null");
    const Json timed = simulated(settings);
    for (const char* figure : {"step_time_s", "tokens_per_s", "mfu"})
      CHECK(twin[figure].get<double>() == near(timed[figure].get<double>(), 0.002));
    CHECK(twin["memory"] == timed["memory"]);
    CHECK(sent_per_step(twin) == near(sent_per_step(timed), 0.01));
    CHECK(mean_staleness(twin) == near(mean_staleness(timed), 0.02));
    CHECK(mean_staleness(timed) > 0);
    CHECK(twin["loss_at"]["loss"].size() == 40);
  }
}

TEST_CASE("a slow worker of four makes a quarter of the gradients of the others under gossip") {
  // Averagings are so few that hardly anybody waits for a partner.
  const Json r =
      simulated({"algorithm={name: ad-psgd, graph: complete, rate: 0.1, optimizer: {lr: 3e-3}}",
                 "cluster_conditions={gpu_speed: {slow: [{gpus: [3], speed: 0.25}]}}",
                 "platform.throttle=null", "run.steps=60"});
  REQUIRE(r["workers"].size() == 4);
  const auto share = [&](std::size_t worker) {
    return r["workers"][worker]["sample_share"].get<double>();
  };
  for (const std::size_t fast : {0, 1, 2})
    CHECK(share(fast) / share(3) == doctest::Approx(4).epsilon(0.15));
  const Json& at = r["loss_at"];
  CHECK(at["loss"].size() == 60);
  CHECK(at["samples"].back() == 60 * 32);
  CHECK(std::is_sorted(at["seconds"].begin(), at["seconds"].end()));
  // In steps of all, whose time goes on evenly: it was sorted before it was counted.
  const double half = at["seconds"][29], end = at["seconds"][59];
  CHECK(end / half == doctest::Approx(2).epsilon(0.1));
}

TEST_CASE(
    "one worker four times slower idles three under DDP, none under ACCO, which learns 4 : 1") {
  const std::string slow = "cluster_conditions={gpu_speed: {slow: [{gpus: [3], speed: 0.25}]}}",
                    fast_links = "platform.throttle=null";
  const Json ddp = simulated({slow, fast_links}),
             acco = simulated({"algorithm={name: acco, optimizer: {lr: 3e-3}}", slow, fast_links});
  REQUIRE(ddp["workers"].size() == 4);
  REQUIRE(acco["workers"].size() == 4);
  const auto of = [](const Json& result, std::size_t worker, const char* what) {
    return result["workers"][worker][what].get<double>();
  };
  double all = 0;
  for (std::size_t worker = 0; worker < 4; ++worker) {
    CHECK(of(ddp, worker, "sample_share") == 0.25);
    if (worker < 3) CHECK(of(ddp, worker, "idle_share") == near(0.75, 0.03));
    CHECK(of(acco, worker, "idle_share") < 0.05);
    all += of(acco, worker, "sample_share");
  }
  CHECK(all == doctest::Approx(1));
  CHECK(of(acco, 0, "sample_share") / of(acco, 3, "sample_share") ==
        doctest::Approx(4).epsilon(0.1));
}

TEST_CASE("what a value model learns does not depend on the clock, unless the algorithm asks it") {
  const std::vector<std::string> slow{diloco, "platform.throttle.bandwidth=10Mbps"};
  CHECK(simulated({diloco})["loss"] == simulated(slow)["loss"]);
  const std::string acco = "algorithm={name: acco, optimizer: {lr: 3e-3}}";
  CHECK(simulated({acco})["loss"] !=
        simulated({acco, "platform.throttle.bandwidth=2Gbps"})["loss"]);
}

TEST_CASE("a race tells time and bytes to a loss, and draws it") {
  const TemporaryFolder folder;
  const std::vector<std::string> command{"race",
                                         "ddp",
                                         "diloco:inner_steps=10",
                                         "--target-loss",
                                         "5.2",
                                         "--set",
                                         "run.steps=40",
                                         "--set",
                                         "platform.gpus=4",
                                         "--set",
                                         "data.global_batch=32",
                                         "--quiet"};
  auto as_json = command;
  as_json.insert(as_json.end(), {"--json", "--out", folder.path()});
  const Json race = orrery_with(as_json).json<Json>(), &curves = race["algorithms"];
  CHECK(race["schema"] == "orrery.race/1");
  CHECK(race["target_loss"] == 5.2);
  REQUIRE(curves.size() == 2);
  for (const Json& curve : curves) {
    const auto steps = curve["steps_to_target"].get<std::size_t>();
    for (const char* list : {"loss", "seconds", "samples", "bytes_per_rank"})
      CHECK(curve[list].size() == 40);
    for (const char* what : {"seconds", "samples", "bytes_per_rank"}) {
      CHECK(std::is_sorted(curve[what].begin(), curve[what].end()));
      CHECK(curve[std::string(what) + "_to_target"] == curve[what][steps - 1]);
    }
    CHECK(curve["samples"].back() == 40 * 32);
    CHECK(curve["workers"].size() == 4);
    CHECK(curve["staleness"] ==
          Json::parse(R"([{"updates": 0, "predicted": false, "share": 1.0}])"));
  }
  // 2 x 3/4 of 4 bytes for each of its parameters, once in ten steps.
  const auto sent = curves[1]["bytes_per_rank"].get<std::vector<double>>();
  CHECK(sent[8] == 0);
  CHECK(sent[9] == doctest::Approx(1.5 * 4 * 1'235'814'400.0).epsilon(1e-6));
  CHECK(sent[19] == 2 * sent[9]);
  CHECK(curves[1]["algorithm"] == "diloco");
  CHECK(curves[1]["seconds_to_target"] < curves[0]["seconds_to_target"]);
  CHECK(curves[1]["bytes_per_rank_to_target"] < curves[0]["bytes_per_rank_to_target"]);
  CHECK(Json::parse(text_of_file(folder.file("race.json"))) == race);
  const std::string svg = text_of_file(folder.file("race.svg"));
  CHECK(svg.starts_with("<svg"));
  CHECK(contains(svg, ">diloco:inner_steps=10</text>"));
  const Finished table = orrery_with(command);
  CHECK(contains(table.out, "diloco"));
}

TEST_CASE("a race counts the samples that an algorithm took, however many it was to take") {
  const std::vector<std::string> real{
      "--scenario", "scenarios/mlp-acco.yaml",
      "--json",     "--quiet",
      "--set",      "run.steps=30",
      "--set",      "platform.throttle={latency: 1ms, bandwidth: 1Gbps}"};
  std::vector<std::string> command{"race", "acco", "ddp", "--target-loss", "1"};
  command.insert(command.end(), real.begin(), real.end());
  const Json curves = orrery_with(command).json<Json>()["algorithms"];
  std::vector<std::string> alone{"simulate", "scenarios/mlp-acco.yaml"};
  alone.insert(alone.end(), real.begin() + 2, real.end());
  const Json acco = orrery_with(alone).json<Json>();
  const auto& c = curves[0];
  const double seconds = c["seconds"].back(), samples = c["samples"].back();
  CHECK(samples / seconds == doctest::Approx(acco["tokens_per_s"].get<double>()).epsilon(0.01));
  CHECK(samples > 2 * curves[1]["samples"].back().get<double>());
}

TEST_CASE("what the timed model computes again, keeps or casts is not asked of its value model") {
  const std::string h100 = "platform.cluster=dgx-h100-superpod";
  const Json plain = simulated({"run.steps=2", h100});
  for (const char* setting :
       {"memory.recompute=selective", "memory.recompute=[3,7]", "precision.products=fp8-tensor",
        "memory={attention: stored, dropout: true, recompute: full}"}) {
    CAPTURE(std::string(setting));
    const Json other = simulated({"run.steps=2", h100, setting});
    CHECK(other["loss"] == plain["loss"]);
    CHECK(other["time"]["compute_s"] != plain["time"]["compute_s"]);
  }
}

TEST_CASE("a race without losses, without a target or of unknown algorithms is refused") {
  CHECK(orrery_with({"race", "ddp"}).exit == 2);
  CHECK(orrery_with({"race", "ddp", "--target-loss", "3", "--scenario", quickstart}).exit == 3);
  CHECK(orrery_with({"race", "dpp", "--target-loss", "3"}).exit == 3);
}

TEST_CASE("a value model is refused where it would not tell what the timed model does") {
  for (const auto& [setting, reason] : {std::pair{"parallel.pipeline=2", "divided over GPUs"},
                                        {"run.fidelity=flow", "contended links"},
                                        {"run.folding=on", "cannot be folded"},
                                        {"algorithm={name: fsdp}", "divided over replicas"},
                                        {"algorithm={name: zero, stage: 2}", "divided over"},
                                        {"algorithm={name: powersgd}", "does not grow with"},
                                        {"algorithm={name: streaming-diloco, fragment_layers: 1}",
                                         "18 fragments, into which the 6 blocks"},
                                        {"run.values=real", "value_model"},
                                        {"value_model.model=llama-2-7b", "sequence"},
                                        {"value_model.text=gpl-2", "no text"}}) {
    const Finished run = orrery_with(race_scenario({setting, "platform.throttle=null"}));
    CAPTURE(std::string(setting));
    CHECK(run.exit == 3);
    CHECK(contains(run.out + run.err, reason));
  }
  const Finished real = orrery_with({"run", "scenarios/race.yaml"});
  CHECK(real.exit == 3);
  CHECK(contains(real.err, "beside value_model"));
}

TEST_CASE(
    "a chart has a logarithmic axis where one line ends long before another, and room for names") {
  const cli::Line slow{"slow", {1, 500, 1000}, {3, 2, 1}};
  const std::string name(60, 'x');
  const auto svg = [&](double soonest) {
    return cli::to_svg({"seconds", "loss", {slow, {name, {1, soonest}, {3, 1}}}, std::nullopt});
  };
  CHECK(contains(svg(20), "seconds, logarithmic</text>"));
  CHECK(!contains(svg(500), "logarithmic"));
  CHECK(contains(svg(20), "M70.0 20.0L555.8 225.0L610.0 430.0"));   // 540 log 500 / log 1000
  CHECK(contains(svg(500), "M70.5 20.0L340.0 225.0L610.0 430.0"));  // 540 / 2
  const std::size_t at = svg(20).find("viewBox=\"0 0 ") + 13;
  CHECK(std::stod(svg(20).substr(at)) > 610 + 60 * 6);
}
