// Shards of data that are skewed by label.
#include "scenarios/label_skew.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>

#include "backend/core/error.hpp"
#include "backend/cpu/bodies.hpp"
#include "backend/cpu/world.hpp"
#include "scenarios/training.hpp"
#include "tests/scenarios/root.hpp"
#include "tests/support/near.hpp"

namespace orrery {
namespace {

std::int64_t sum(const std::vector<std::int64_t>& all) {
  return std::accumulate(all.begin(), all.end(), std::int64_t{0});
}

// The chance that two records of a shard have one label, averaged over shards.
double same_label(const std::vector<std::vector<std::int64_t>>& shards) {
  double mean = 0;
  for (const auto& shard : shards) {
    double pairs = 0;
    for (const std::int64_t n : shard) pairs += static_cast<double>(n * (n - 1));
    const auto all = static_cast<double>(sum(shard));
    mean += pairs / (all * (all - 1)) / static_cast<double>(shards.size());
  }
  return mean;
}

Scenario scenario_with(const std::string& data, const std::string& model = "mlp-bytes",
                       int gpus = 4) {
  return read_scenario(Document::parse_text("model: " + model + "\ndata: {" + data +
                                            "}\nplatform: {cluster: two-dgx-a100, gpus: " +
                                            std::to_string(gpus) + "}\nrun: {values: real}\n"),
                       root);
}

std::string text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// What is wrong with it.
std::string refusal(const std::string& data, const std::string& run = "values: real",
                    const std::string& model = "mlp-bytes") {
  try {
    read_scenario(
        Document::parse_text("model: " + model + "\ndata: {" + data +
                             "}\nplatform: {cluster: two-dgx-a100, gpus: 4}\nrun: {" + run + "}\n"),
        root);
  } catch (const ConfigError& e) {
    return e.messages.front().text + "; " + e.messages.front().suggestion;
  }
  return "";
}

}  // namespace

TEST_CASE("shards are of equal size, every record is in one, and the seed decides which") {
  const std::vector<std::int64_t> labels{700, 50, 1, 0, 330};
  for (const double concentration : {1e-6, 0.1, 1.0, 1e6}) {
    const auto shards = deal_labels(labels, 7, concentration, 3);
    REQUIRE(shards.size() == 7);
    std::vector<std::int64_t> all(labels.size());
    for (const auto& shard : shards) {
      CHECK(std::abs(sum(shard) - 1081 / 7) <= 1);
      for (std::size_t label = 0; label < all.size(); ++label) all[label] += shard[label];
    }
    CHECK(all == labels);
    CHECK(shards == deal_labels(labels, 7, concentration, 3));
    CHECK(shards != deal_labels(labels, 7, concentration, 4));
  }
}

// Of q ~ Dir(alpha p), the mean of the sum of q^2 is (1 + alpha sum of p^2) / (1 + alpha).
TEST_CASE("the labels of a shard are as concentrated as the Dirichlet distribution says") {
  const std::vector<std::int64_t> ten(10, 4000), uneven{16000, 8000, 8000, 4000, 4000};
  for (const double alpha : {0.1, 1.0, 10.0}) {
    CAPTURE(alpha);
    // Labels run out before a shard has all that it wants of them, the more so the more it wants:
    // of ten labels by 19, 12 and 1 %.
    const double off = alpha < 1 ? 0.25 : alpha < 10 ? 0.15 : 0.03;
    CHECK(same_label(deal_labels(ten, 400, alpha, 1)) ==
          near((1 + alpha * 0.1) / (1 + alpha), off));
    CHECK(same_label(deal_labels(uneven, 400, alpha, 1)) ==
          near((1 + alpha * 0.26) / (1 + alpha), off));
  }
  CHECK(same_label(deal_labels(ten, 400, 1e5, 1)) == near(0.1, 0.02));
  // As many shards as labels, each wanting one: those that want the same have to share it.
  CHECK(same_label(deal_labels(ten, 10, 1e-6, 1)) > 0.35);
}

TEST_CASE("the shards of a text are its records, of few ranges each, without what is held out") {
  const Scenario s = scenario_with(
      "global_batch: 16, micro_batch: 4, text: gpl-3, held_out: 0.1, label_skew: {concentration: "
      "0.01}");
  const std::string text = text_of(*s.data.text).substr(0, 30'000);
  const auto shards = skewed_shards(s, text);
  REQUIRE(shards.size() == 4);
  std::multiset<std::string> records, dealt;
  for (std::size_t at = 0; at + 17 <= text.size(); at += 17) records.insert(text.substr(at, 17));
  std::size_t seams = 0;
  for (const auto& shard : shards) {
    REQUIRE(shard->size() % 17 == 0);
    for (std::size_t at = 0; at < shard->size(); at += 17) {
      dealt.insert(shard->substr(at, 17));
      if (at > 0 && text.find(shard->substr(at - 17, 34)) == std::string::npos) ++seams;
    }
  }
  CHECK(dealt == records);
  CHECK(seams <= 4 * 3);
}

TEST_CASE("the shards of pictures are skewed by their classes") {
  const std::int64_t record = 3 * 32 * 32 + 1;
  std::string pictures;
  for (int i = 0; i < 400; ++i) {
    pictures += static_cast<char>(i % 10);
    pictures += std::string(static_cast<std::size_t>(record - 1), static_cast<char>(i % 251));
  }
  const std::string file =
      (std::filesystem::temp_directory_path() / "orrery_skewed_pictures.bin").string();
  std::ofstream(file, std::ios::binary) << pictures;
  const Scenario s = scenario_with(
      "global_batch: 16, micro_batch: 4, text: " + file + ", label_skew: {concentration: 0.1}",
      "revnet-18-cifar");
  const auto shards = skewed_shards(s, pictures);
  const auto expected = deal_labels(std::vector<std::int64_t>(10, 40), 4, 0.1, s.run.seed);
  for (std::size_t shard = 0; shard < 4; ++shard) {
    std::vector<std::int64_t> labels(10);
    for (std::size_t at = 0; at < shards[shard]->size(); at += static_cast<std::size_t>(record))
      ++labels[static_cast<std::size_t>((*shards[shard])[at])];
    CHECK(labels == expected[shard]);
  }
  std::filesystem::remove(file);
}

// A text of four ranges of one byte each: as all start from the same parameters, the first loss of
// a replica tells which byte its shard has.
TEST_CASE("each replica draws from its own shard") {
  const std::vector<std::int64_t> ranges(4, 100);
  const auto pure = [](const std::vector<std::int64_t>& shard) {
    return std::count(shard.begin(), shard.end(), 0) == 3;
  };
  std::uint64_t seed = 1;
  auto dealt = deal_labels(ranges, 4, 1e-6, seed);
  while (!std::all_of(dealt.begin(), dealt.end(), pure))
    dealt = deal_labels(ranges, 4, 1e-6, ++seed);
  const std::string file =
      (std::filesystem::temp_directory_path() / "orrery_skewed_text.txt").string();
  std::string text;
  for (const char byte : {'a', 'b', 'c', 'd'}) text += std::string(17 * 100, byte);
  std::ofstream(file, std::ios::binary) << text;
  const Scenario s = read_scenario(
      Document::parse_text("model: mlp-bytes\ndata: {global_batch: 8, micro_batch: 1, text: " +
                           file + ", label_skew: {concentration: 1e-6}}\n" +
                           "precision: {parameters: fp32, activations: fp32}\n"
                           "platform: {cluster: two-dgx-a100, gpus: 4}\n"
                           "run: {values: real, steps: 1, seed: " +
                           std::to_string(seed) + "}\n"),
      root);
  WorldOptions options = world_options(s);
  options.bodies = &cpu_bodies();
  const RunReport report = make_cpu_world(std::move(options))->run(training_program(s));
  std::set<double> losses;
  for (const RankReport& rank : report.ranks) losses.insert(rank.losses.at(0));
  CHECK(losses.size() == 4);
  std::filesystem::remove(file);
}

TEST_CASE("data without labels, or with too few records, is not divided by them") {
  const std::string data = "global_batch: 16, micro_batch: 4, text: gpl-3, label_skew: ";
  CHECK(refusal(data + "{concentration: 0.1}").empty());
  CHECK(refusal(data + "{concentration: 0.1}", "values: virtual") ==
        "virtual values have no labels by which to divide them; set run.values to real, or "
        "value_model.label_skew");
  CHECK(refusal(data + "{concentration: 0.1, labels: 3000}") ==
        "2067 records of 17 bytes do not divide into 3000 parts; use more data, or fewer GPUs or "
        "labels");
  // Fewer records than replicas, whatever the number of labels.
  const std::string file =
      (std::filesystem::temp_directory_path() / "orrery_few_records.bin").string();
  const std::string of_file =
      "global_batch: 16, micro_batch: 4, text: " + file + ", label_skew: {concentration: 0.1, ";
  std::ofstream(file, std::ios::binary) << std::string(3 * 17, 'a');
  CHECK(refusal(of_file + "labels: 2}") ==  // however few labels, a record for each replica
        "3 records of 17 bytes do not divide into 4 parts; use more data, or fewer GPUs or labels");
  std::ofstream(file, std::ios::binary) << std::string(16 * (3 * 32 * 32 + 1), '\0');
  CHECK(refusal(of_file + "labels: 4}", "values: real", "revnet-18-cifar") ==
        "pictures have labels of their own; leave it out");
  std::filesystem::remove(file);
  CHECK(refusal(data + "{concentration: 0.1, labels: 0}")
            .starts_with("data.label_skew.labels: 0 is out of range"));
  CHECK(refusal(data + "{concentration: 0}")
            .starts_with("data.label_skew.concentration: 0 is out of range"));
  CHECK(refusal(data + "{}").starts_with("missing key 'concentration'"));
}

}  // namespace orrery
