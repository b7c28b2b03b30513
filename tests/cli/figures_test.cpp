// The figures of the README: what was simulated is what is drawn, is what a simulation gives, and
// says what the README says.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "scenarios/cli/line_chart.hpp"
#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

std::string figure(const std::string& name) {
  return text_of_file(std::string(ORRERY_SOURCE_DIR) + "/scenarios/figures/" + name);
}

Json race(const std::string& name) { return Json::parse(figure(name + ".json")); }

// Over three seeds; infinite where most never are at the target.
double median_to_target(const Json& race, const std::string& algorithm, const std::string& what) {
  std::vector<double> all;
  for (const Json& curve : race["algorithms"])
    if (curve["given"] == algorithm) {
      const Json& value = curve[what + "_to_target"];
      all.push_back(value.is_null() ? std::numeric_limits<double>::infinity()
                                    : value.get<double>());
    }
  REQUIRE(all.size() == 3);
  std::sort(all.begin(), all.end());
  return all[1];
}

}  // namespace

TEST_CASE("the figures draw what was simulated; `scripts/figures` renews them") {
  for (const std::string name : {"ring-skewed", "ring-alike", "ring-nvlink"}) {
    CAPTURE(name);
    const Json simulated = race(name);
    cli::LineChart chart{"simulated seconds", "loss", {}, simulated["target_loss"].get<double>()};
    for (const Json& curve : simulated["algorithms"]) {
      std::vector<double> loss;
      for (const Json& each : curve["loss"])
        loss.push_back(each.is_number() ? each.get<double>() : std::nan(""));
      chart.lines.push_back(
          {curve["given"].get<std::string>(), curve["seconds"].get<std::vector<double>>(), loss});
    }
    CHECK(cli::to_svg(chart) == figure(name + ".svg"));
  }
}

// The first steps of one of the nine races of A2CiD2; losses to what another CPU may round.
TEST_CASE("the first figure is what its command gives") {
  const Json again =
      orrery_with({"race", "a2cid2", "--scenario", "scenarios/ring-gossip.yaml", "--target-loss",
                   "3", "--seed", "2", "--quiet", "--json", "--set", "run.steps=40"})
          .json<Json>()["algorithms"][0];
  const Json simulated = race("ring-skewed");
  const auto kept = std::find_if(
      simulated["algorithms"].begin(), simulated["algorithms"].end(),
      [](const Json& curve) { return curve["given"] == "a2cid2" && curve["seed"] == 2; });
  REQUIRE(kept != simulated["algorithms"].end());
  REQUIRE(again["loss"].size() >= 2);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(again["steps"][i] == (*kept)["steps"][i]);
    CHECK(again["seconds"][i].get<double>() ==
          doctest::Approx((*kept)["seconds"][i].get<double>()).epsilon(1e-9));
    CHECK(again["loss"][i].get<double>() ==
          doctest::Approx((*kept)["loss"][i].get<double>()).epsilon(1e-3));
  }
}

TEST_CASE(
    "where data differ and links are slow, A2CiD2 is ahead of AD-PSGD, which is ahead of DDP, and "
    "learns from gradients as fast as between one and four averagings each") {
  const Json skewed = race("ring-skewed");
  const auto seconds = [&](const char* name) { return median_to_target(skewed, name, "seconds"); };
  const auto steps = [&](const char* name) { return median_to_target(skewed, name, "steps"); };
  CHECK(seconds("a2cid2") < seconds("ad-psgd"));
  CHECK(seconds("ad-psgd") < seconds("ddp"));
  CHECK(steps("ad-psgd:rate=4") < steps("a2cid2"));
  CHECK(steps("a2cid2") < steps("ad-psgd"));
}

TEST_CASE("where data are alike asynchrony costs few steps, and over NVLink DDP wins") {
  const Json alike = race("ring-alike"), nvlink = race("ring-nvlink");
  for (const char* algorithm : {"ad-psgd", "a2cid2", "ad-psgd:rate=4"}) {
    CHECK(median_to_target(alike, algorithm, "seconds") <
          median_to_target(alike, "ddp", "seconds"));
    CHECK(median_to_target(nvlink, algorithm, "seconds") >
          median_to_target(nvlink, "ddp", "seconds"));
  }
}
