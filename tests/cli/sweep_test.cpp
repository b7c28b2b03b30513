// `orrery sweep`: the points, their results, and that no moment of a kill loses more than what ran.
#include <doctest/doctest.h>

#include <csignal>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"
#include "scenarios/cli/sweep_points.hpp"
#include "scenarios/cli/sweep_store.hpp"
#include "tests/cli/killed.hpp"
#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

using Settings = std::vector<std::vector<std::string>>;

Settings points_of(const std::vector<std::string>& axes) {
  std::vector<cli::SweepAxis> parsed;
  for (const std::string& axis : axes) parsed.push_back(cli::parse_axis(axis));
  return cli::sweep_points(parsed);
}

// Twelve points that take some milliseconds each.
std::vector<std::string> sweep_of(const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments{
      "sweep",  "scenarios/mlp-ddp.yaml",  "--json", "--quiet",
      "--set",  "run.values=virtual",      "--set",  "data.global_batch=64",
      "--over", "platform.gpus=1,2,4",     "--over", "data.micro_batch=2,4",
      "--over", "algorithm.bucket=1MB,4kB"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// Without what may differ between two runs.
std::vector<Json> lines(const std::string& text) {
  std::vector<Json> all;
  for (const std::string& line : split(text, '\n')) {
    if (line.empty()) continue;
    all.push_back(Json::parse(line));
    all.back().erase("host");
  }
  return all;
}

std::vector<Json> sweep_lines(const std::vector<std::string>& more = {}) {
  const Finished done = orrery_with(sweep_of(more));
  REQUIRE_MESSAGE(done.exit == 0, done.err);
  return lines(done.out);
}

std::map<std::string, std::string> environment;
const char* variable(const char* name) {
  const auto found = environment.find(name);
  return found == environment.end() ? nullptr : found->second.c_str();
}
std::pair<std::size_t, std::size_t> part_under(std::map<std::string, std::string> job,
                                               const std::string& option = "") {
  environment = std::move(job);
  const cli::SweepPart part = cli::sweep_part(option, variable);
  return {part.index, part.of};
}

}  // namespace

TEST_CASE("a sweep's points are all combinations, the last axis fastest") {
  CHECK(points_of({"a=1,2", "b=x,y,z"}) == Settings{{"a=1", "b=x"},
                                                    {"a=1", "b=y"},
                                                    {"a=1", "b=z"},
                                                    {"a=2", "b=x"},
                                                    {"a=2", "b=y"},
                                                    {"a=2", "b=z"}});
}

TEST_CASE("fields of one axis vary together, and commas within brackets belong to a value") {
  CHECK(points_of({"a=1,2; b = {x: 1, y: 2},[3,4]"}) ==
        Settings{{"a=1", "b={x: 1, y: 2}"}, {"a=2", "b=[3,4]"}});
  CHECK(points_of({"a=\"1,2\",'3;4'"}) == Settings{{"a=\"1,2\""}, {"a='3;4'"}});
}

TEST_CASE("an axis that is none is refused with what is wrong about it") {
  CHECK_THROWS_WITH_AS(points_of({"a"}), doctest::Contains("not 'a'"), Error);
  CHECK_THROWS_WITH_AS(points_of({"=1"}), doctest::Contains("not '=1'"), Error);
  CHECK_THROWS_WITH_AS(points_of({"a=1,,2"}), doctest::Contains("a value is missing"), Error);
  CHECK_THROWS_WITH_AS(points_of({"a=1,2;b=1"}), doctest::Contains("vary together"), Error);
  CHECK_THROWS_WITH_AS(points_of({"a=1", "b=1", "a=2"}), doctest::Contains("sets a twice"), Error);
  CHECK_THROWS_WITH_AS(points_of({}), doctest::Contains("at least one --over"), Error);
  std::string thousand = "=0";
  for (int i = 1; i <= 1000; ++i) thousand += "," + std::to_string(i);
  CHECK_THROWS_WITH_AS(points_of({"a" + thousand, "b" + thousand}),
                       doctest::Contains("at most 1000000 points"), Error);
}

TEST_CASE("which part a process takes is told by --part, MPI, a Slurm step, an array, or both") {
  using Part = std::pair<std::size_t, std::size_t>;
  CHECK(part_under({}) == Part{0, 1});
  CHECK(part_under({{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "4"}}) == Part{3, 4});
  CHECK(part_under({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}) == Part{1, 2});
  CHECK(part_under({{"SLURM_PROCID", "5"}, {"SLURM_STEP_NUM_TASKS", "8"}}) == Part{5, 8});
  const std::map<std::string, std::string> array{{"SLURM_ARRAY_TASK_ID", "12"},
                                                 {"SLURM_ARRAY_TASK_COUNT", "3"},
                                                 {"SLURM_ARRAY_TASK_MIN", "10"}};
  CHECK(part_under(array) == Part{2, 3});
  auto both = array;
  both.insert({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}});
  CHECK(part_under(both) == Part{5, 6});
  CHECK(part_under(both, "2/7") == Part{1, 7});
  // The shell of an allocation is no step: nobody else would take the other parts.
  CHECK(part_under({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}}) == Part{0, 1});
  for (const char* wrong : {"0/2", "3/2", "1", "a/2", "1/", "/2", "1/2/3"})
    CHECK_THROWS_AS(part_under({}, wrong), Error);
}

TEST_CASE("every point of a sweep is the result that simulate gives with its settings") {
  const std::vector<Json> all = sweep_lines();
  REQUIRE(all.size() == 12);
  for (std::size_t i = 0; i < all.size(); ++i) {
    Json point = all[i];
    CHECK(point["point"] == i);
    if (i % 5 == 0) {  // some of them
      std::vector<std::string> arguments{
          "simulate", "scenarios/mlp-ddp.yaml", "--json", "--set", "run.values=virtual",
          "--set",    "data.global_batch=64"};
      for (const auto& [path, value] : point["settings"].items())
        arguments.insert(arguments.end(), {"--set", path + "=" + value.get<std::string>()});
      Json alone = orrery_with(arguments).json<Json>();
      alone.erase("host");
      point.erase("point");
      point.erase("settings");
      CHECK(point == alone);
    }
  }
}

TEST_CASE("a point that cannot be is a line with its error, and a table row with the reason") {
  const std::vector<std::string> some{"--over", "precision.parameters=fp32,int64"};
  const std::vector<Json> all = sweep_lines(some);
  REQUIRE(all.size() == 24);
  CHECK(all[0].contains("step_time_s"));
  CHECK(all[1]["error"]["exit_code"] == 3);
  CHECK(all[1]["settings"]["precision.parameters"] == "int64");
  std::vector<std::string> arguments = sweep_of(some);
  arguments.erase(arguments.begin() + 2);  // --json
  const Finished table = orrery_with(arguments);
  CHECK(table.exit == 0);
  CHECK(contains(table.out, "config: "));
}

TEST_CASE("a sweep whose every point is wrong is refused as the scenario is, at its place") {
  const Finished done =
      orrery_with({"sweep", "scenarios/mlp-ddp.yaml", "--over", "data.micro_bach=1,2", "--quiet"});
  CHECK(done.exit == 3);
  CHECK(contains(done.err, "--set:1:"));
  CHECK(contains(done.err, "did you mean 'micro_batch'?"));
  CHECK(done.out.empty());
}

TEST_CASE("a sweep that is asked for again takes its points from the folder") {
  const TemporaryFolder folder;
  const Finished first = orrery_with(sweep_of({"--out", folder.path()}));
  const Finished again = orrery_with(sweep_of({"--out", folder.path()}));
  REQUIRE(first.exit == 0);
  CHECK(again.out == first.out);  // with the times that the first one took
  CHECK(text_of_file(folder.file("results.jsonl")) == first.out);
  CHECK(folder.names() == std::vector<std::string>{"part-1-of-1.sqlite", "results.jsonl"});
  // Another seed, or another setting for all points, is another sweep in the same folder.
  CHECK(orrery_with(sweep_of({"--out", folder.path(), "--seed", "8"})).out != first.out);
  const std::vector<std::string> larger{"--set", "data.global_batch=128"};
  const Finished other =
      orrery_with(sweep_of({"--out", folder.path(), larger.front(), larger.back()}));
  CHECK(lines(other.out) == sweep_lines(larger));
  CHECK(orrery_with(sweep_of({"--out", folder.path()})).out == first.out);
}

TEST_CASE("the parts of a sweep, in any order, make the whole") {
  const TemporaryFolder folder;
  for (const char* part : {"3/3", "1/3"}) {
    const Finished done = orrery_with(sweep_of({"--out", folder.path(), "--part", part}));
    CHECK(done.exit == 0);
    CHECK(done.out.empty());
  }
  const std::vector<Json> all = sweep_lines({"--out", folder.path(), "--part", "2/3"});
  CHECK(all == sweep_lines());
  CHECK(lines(text_of_file(folder.file("results.jsonl"))) == all);
  CHECK(orrery_with(sweep_of({"--part", "1/2"})).exit == 2);  // where would they meet?
}

TEST_CASE("a file that holds no results of a sweep is refused and left alone") {
  const TemporaryFolder folder;
  write_file_atomically(folder.file("part-1-of-1.sqlite"), "not a database, but precious\n");
  const Finished done = orrery_with(sweep_of({"--out", folder.path()}));
  CHECK(done.exit == 3);
  CHECK(contains(done.out, "part-1-of-1.sqlite"));
  CHECK(text_of_file(folder.file("part-1-of-1.sqlite")) == "not a database, but precious\n");
}

// SQLite makes, writes and deletes a journal for each point.
TEST_CASE("a sweep killed at any moment loses at most its running points and goes on to the same") {
  const std::vector<Json> expected = sweep_lines();
  std::mt19937 random(20);
  int killed = 0, with_points = 0;
  for (int trial = 0; trial < 20; ++trial) {
    const TemporaryFolder folder;
    const auto events = static_cast<unsigned>(random() % 90);
    const auto spins = static_cast<unsigned>(random() % 1'000'000);
    ProcessOptions options;
    options.while_it_runs = kill_after(folder.path(), events, spins);
    const std::vector<std::string> arguments = sweep_of({"--out", folder.path()});
    killed += orrery_with(arguments, options).signal == SIGKILL ? 1 : 0;
    const auto stored = cli::SweepStore(folder.path(), {}).all();
    with_points += stored.empty() ? 0 : 1;
    for (const auto& [key, point] : stored) CHECK(Json::parse(point.json).contains("step_time_s"));
    CHECK_MESSAGE(sweep_lines({"--out", folder.path()}) == expected, events << " events");
    // What was there is there still, and was not computed again.
    const auto after = cli::SweepStore(folder.path(), {}).all();
    for (const auto& [key, point] : stored) CHECK(after.at(key).json == point.json);
  }
  CHECK(killed >= 10);
  CHECK(with_points >= 5);
}
