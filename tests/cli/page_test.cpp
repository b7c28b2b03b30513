// The page of a comparison: well-formed, complete in itself, with the numbers of the JSON.
#include <doctest/doctest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <pugixml.hpp>

#include "backend/core/text.hpp"
#include "scenarios/cli/comparison.hpp"
#include "scenarios/cli/svg.hpp"
#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

Json kernel(const char* operation, const char* name, const char* kind, double time_s) {
  return {{"operation", operation}, {"kernel", name}, {"class", kind},
          {"phase", "forward"},     {"calls", 2.0},   {"time_s", time_s}};
}

// A result with what a page shows.
Json result(double step_s) {
  return {{"schema", "orrery.result/1"},
          {"scenario", "a <small> & \"odd\" one"},
          {"world", "sim"},
          {"algorithm", "ddp"},
          {"step_time_s", step_s},
          {"step_time_low_s", nullptr},
          {"step_time_high_s", nullptr},
          {"time",
           {{"compute_s", 0.75 * step_s},
            {"exposed_communication_s", 0.25 * step_s},
            {"bubble_s", 0.0},
            {"overhead_s", 0.0},
            {"idle_s", 0.0}}},
          {"work",
           {{"phases_s",
             {{"forward", 0.25 * step_s},
              {"backward", 0.5 * step_s},
              {"optimizer", 0.0},
              {"other", 0.0}}},
            {"classes_s", {{"gemm", 0.7 * step_s}, {"norm", 0.05 * step_s}}},
            {"kernels", Json::array({kernel("layer.forward", "gemm", "gemm", 0.7 * step_s)})}}},
          {"communication", Json::array()},
          {"memory", {{"peak_bytes", 1e9}, {"by_label", {{"parameters", 6e8}}}}},
          {"loss", {3.0, 2.0}},
          {"assumptions",
           Json::array({Json{{"path", "gpu.launch"}, {"value", "4us"}, {"reason", "guess"}}})}};
}

cli::Repeat repeat(double step_s) { return {result(step_s).dump(), step_s, 200, 250, 150}; }

pugi::xml_document parsed(const std::string& page) {
  pugi::xml_document document;
  const pugi::xml_parse_result outcome = document.load_buffer(page.data(), page.size());
  CHECK_MESSAGE(outcome, outcome.description());
  return document;
}

// Numbers behind the bars, by row and result.
std::map<std::pair<std::string, std::string>, std::string> bars_of(
    const pugi::xml_document& document) {
  std::map<std::pair<std::string, std::string>, std::string> bars;
  for (const pugi::xpath_node& node : document.select_nodes("//rect"))
    bars[{node.node().attribute("data-row").value(),
          node.node().attribute("data-result").value()}] =
        node.node().attribute("data-value").value();
  return bars;
}

}  // namespace

TEST_CASE("a page is XML that needs nothing from elsewhere, and escapes what it quotes") {
  cli::Comparison comparison(result(1.1).dump(), {repeat(1)}, {});
  comparison.add_provenance({"2026-01-31", "orrery validate 'a & b'", "GPU <1>", "CUDA 13.0"});
  cli::Subject subject;
  subject.scenario = "a <small> & \"odd\" one";
  const std::string page = comparison.to_page(subject);
  const pugi::xml_document document = parsed(page);
  CHECK(document.select_node("/html/body/h1").node().text().get() ==
        std::string("a <small> & \"odd\" one: measured and simulated"));
  CHECK(contains(page, "GPU &lt;1&gt;"));
  CHECK(contains(page, "CUDA 13.0"));
  CHECK(contains(page, "prefers-color-scheme: dark"));
  for (const char* elsewhere : {"<script", "<link", "<img", "src=", "@import", "url("})
    CHECK_FALSE(contains(page, elsewhere));
}

TEST_CASE("bars of a page have the numbers of the results, and the spread of repeats") {
  const cli::Comparison comparison(result(1.1).dump(), {repeat(1), repeat(0.5), repeat(9)}, {});
  const pugi::xml_document document = parsed(comparison.to_page({}));
  const auto bars = bars_of(document);
  CHECK(bars.at({"step_time_s", "measured"}) == "1");
  CHECK(bars.at({"step_time_s", "simulated"}) == "1.1");
  CHECK(bars.at({"work/phases_s/backward", "measured"}) == "0.5");
  CHECK(bars.at({"gemm", "measured"}) == "0.7");
  CHECK(std::stod(bars.at({"gemm", "simulated"})) == doctest::Approx(0.77));
  CHECK(bars.count({"time/bubble_s", "measured"}) == 0);  // there is none in either
  CHECK(document.select_nodes("//path[@class='spread']").size() > 0);
  CHECK(contains(comparison.to_page({}), "1.10 s (+10.0 %)"));
}

TEST_CASE(
    "a profile's own times of kernels stand for those measured, by CUPTI where it was there") {
  Json profile = result(1);
  profile["work"]["classes_s"]["gemm"] = 0.65;
  cli::Comparison comparison(result(1.1).dump(), {repeat(1)}, {});
  comparison.add_profile(profile.dump());
  CHECK(bars_of(parsed(comparison.to_page({}))).at({"gemm", "measured"}) == "0.65");
  profile["work"]["native"] = {
      {"classes_s", {{"gemm", 0.6}}},
      {"functions", Json::array({kernel("layer.forward", "gemm", "gemm", 0.6)})}};
  profile["work"]["native"]["functions"][0]["function"] = "void product<float>(int)";
  comparison.add_profile(profile.dump());
  const std::string page = comparison.to_page({});
  CHECK(bars_of(parsed(page)).at({"gemm", "measured"}) == "0.6");
  CHECK(contains(page, "void product&lt;float&gt;(int)"));
  const Json told = Json::parse(comparison.to_json());
  CHECK(told["work"]["classes"]["gemm"]["measured_s"] == 0.6);
  CHECK(told["work"]["phases"]["forward"]["measured_s"] == 0.25);
}

TEST_CASE("classes are unknown where a GPU was timed on sequences as a whole") {
  Json measured = result(1);
  measured["work"]["classes_s"] = {{"undivided", 0.6}, {"optimizer", 0.1}};
  const cli::Comparison comparison(result(1.1).dump(), {{measured.dump(), 1, 200, 250, 150}}, {});
  const Json told = Json::parse(comparison.to_json());
  CHECK(told["work"]["classes"]["gemm"]["measured_s"].is_null());
  CHECK(told["work"]["classes"]["gemm"]["difference"].is_null());
  CHECK(told["work"]["phases"]["forward"]["measured_s"] == 0.25);
  const auto bars = bars_of(parsed(comparison.to_page({})));
  CHECK(bars.at({"gemm", "measured"}).empty());
  CHECK(std::stod(bars.at({"gemm", "simulated"})) == doctest::Approx(0.77));
  CHECK(bars.count({"undivided", "measured"}) == 0);
}

TEST_CASE("a kind of kernels that a result leaves out took no time") {
  Json measured = result(1);
  measured["work"]["classes_s"].erase("norm");
  const cli::Comparison comparison(result(1.1).dump(), {{measured.dump(), 1, 200, 250, 150}}, {});
  const auto bars = bars_of(parsed(comparison.to_page({})));
  CHECK(bars.at({"norm", "measured"}) == "0");
  CHECK(std::stod(bars.at({"norm", "simulated"})) == doctest::Approx(0.055));
}

TEST_CASE("losses of a training that diverged are not known, and the page says nothing of them") {
  Json diverged = result(1);
  diverged["loss"] = {3.0, nullptr};
  for (const auto& [simulated, measured] :
       {std::pair{diverged, diverged}, {result(1), diverged}, {diverged, result(1)}}) {
    const cli::Comparison comparison(simulated.dump(), {{measured.dump(), 1, 200, 250, 150}}, {});
    CHECK(Json::parse(comparison.to_json())["difference"]["loss"].is_null());
    CHECK_FALSE(contains(comparison.to_table({}, false), "\nloss "));
    CHECK(contains(comparison.to_page({}), "in the first step") == (simulated != measured));
  }
}

TEST_CASE("characters that XML cannot hold are question marks in a page") {
  CHECK(cli::escape_xml("a\x01"
                        "b\x1f\r\tc\nd\x7f\xc3\xa4<") == "a?b??\tc\nd\x7f\xc3\xa4&lt;");
  Json odd = result(1);
  odd["scenario"] = "one\x02";
  parsed(cli::Comparison(odd.dump(), {{odd.dump(), 1, 200, 250, 150}}, {}).to_page({}));
}

TEST_CASE("saved results make a page, the later ones beside the first") {
  const TemporaryFolder folder;
  const std::string one = folder.file("one.json"), two = folder.file("two.json"),
                    page = folder.file("page.html");
  write_file_atomically(one, result(2).dump());
  write_file_atomically(two, result(3).dump());
  const Finished done = orrery_with({"compare", one, two, "--page", page});
  REQUIRE_MESSAGE(done.exit == 0, done.err);
  const auto bars = bars_of(parsed(text_of_file(page)));
  CHECK(bars.at({"step_time_s", one}) == "2");
  CHECK(bars.at({"step_time_s", two}) == "3");
}

TEST_CASE("a saved result of which no page can be made is named") {
  const TemporaryFolder folder;
  const std::string good = folder.file("good.json"), page = folder.file("page.html");
  write_file_atomically(good, result(2).dump());
  Json lacking = result(3);
  lacking["work"].erase("kernels");
  for (const std::string& text : {"# YAML\n" + result(3).dump(), lacking.dump()}) {
    const std::string bad = folder.file("bad.json");
    write_file_atomically(bad, text);
    CHECK(orrery_with({"compare", good, bad}).exit == 0);
    const Finished done = orrery_with({"compare", good, bad, "--page", page});
    CHECK(done.exit == 3);
    CHECK(contains(done.err, "error[config]: no page can be made of this result"));
    CHECK(contains(done.err, bad));
    CHECK_FALSE(std::filesystem::exists(page));
  }
}
