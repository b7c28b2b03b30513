// `orrery compare`: figures side by side, and what is no result.
#include <nlohmann/json.hpp>

#include "backend/core/text.hpp"
#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

std::string saved(const TemporaryFolder& folder, const std::string& name, double step_s,
                  const std::string& extra = "") {
  const std::string text =
      "{\"schema\": \"orrery.result/1\", \"scenario\": \"s\", \"world\": \"sim\", \"algorithm\": "
      "\"ddp\", \"step_time_s\": " +
      std::to_string(step_s) +
      ", \"mfu\": null, \"tokens_per_s\": 1000, \"time\": {\"compute_s\": 0.5, "
      "\"exposed_communication_s\": 0.25, \"bubble_s\": 0}, \"memory\": {\"rank\": 0, "
      "\"peak_bytes\": 2048, \"by_label\": {\"parameters\": 1024, \"workspace\": 0}}, \"loss\": "
      "[2.0, 1.0]" +
      extra + "}\n";
  write_file_atomically(folder.file(name), text);
  return folder.file(name);
}

const Json* figure(const Json& j, const std::string& name) {
  for (const Json& f : j["figures"])
    if (f["name"] == name) return &f;
  return nullptr;
}

}  // namespace

TEST_CASE("compare shows each result's figures and how the later ones differ from the first") {
  const TemporaryFolder folder;
  const std::string a = saved(folder, "a.json", 2), b = saved(folder, "b.json", 3),
                    c = saved(folder, "c.json", 1);
  const Finished done = orrery_with({"compare", a, b, c});
  REQUIRE_MESSAGE(done.exit == 0, done.err);
  CHECK(contains(done.out, "[1]  " + a + ": s, ddp, world sim\n"));
  CHECK(contains(done.out, "step time"));
  CHECK(contains(done.out, "3.00 s  +50.0 %"));
  CHECK(contains(done.out, "1.00 s  -50.0 %"));
  CHECK(contains(done.out, "loss at the end"));
  CHECK(contains(done.out, "  parameters"));
  CHECK_FALSE(contains(done.out, "workspace"));  // nobody has any
  CHECK_FALSE(contains(done.out, "MFU"));        // nobody knows it

  const Json j = orrery_with({"compare", a, b, c, "--json"}).json<Json>();
  CHECK(j["schema"] == "orrery.compare/1");
  CHECK(j["results"].size() == 3);
  CHECK(j["results"][1]["file"] == b);
  REQUIRE(figure(j, "step_time_s") != nullptr);
  CHECK((*figure(j, "step_time_s"))["values"] == Json::array({2.0, 3.0, 1.0}));
  CHECK((*figure(j, "step_time_s"))["difference"] == Json::array({nullptr, 0.5, -0.5}));
  CHECK((*figure(j, "time.bubble_s"))["difference"] == Json::array({nullptr, nullptr, nullptr}));
  CHECK((*figure(j, "memory.by_label.parameters"))["values"][0] == 1024);
  CHECK(figure(j, "mfu") == nullptr);
}

TEST_CASE("what simulate wrote can be compared, and equals itself") {
  const TemporaryFolder folder;
  const Finished one = orrery_with({"simulate", quickstart, "--json"});
  write_file_atomically(folder.file("one.json"), one.out);
  CHECK(orrery_with({"simulate", quickstart, "--quiet", "--out", folder.file("two")}).exit == 0);
  const Finished done =
      orrery_with({"compare", folder.file("one.json"), folder.file("two/result.json"), "--json"});
  REQUIRE_MESSAGE(done.exit == 0, done.err);
  for (const Json& f : done.json<Json>()["figures"]) {
    CHECK(f["values"][0] == f["values"][1]);
    CHECK((f["difference"][1].is_null() || f["difference"][1] == 0));
  }
}

TEST_CASE("compare tells what is wrong with every file that is no result") {
  const TemporaryFolder folder;
  const auto file = [&](const char* name, const std::string& text) {
    write_file_atomically(folder.file(name), text);
    return folder.file(name);
  };
  const Finished done =
      orrery_with({"compare", saved(folder, "good.json", 1), file("text.json", "{\"a\": 1}"),
                   file("other.json", "{\"schema\": \"orrery.scoreboard/1\"}"),
                   file("failed.json",
                        "{\"schema\": \"orrery.result/1\", \"error\": {\"category\": "
                        "\"out_of_memory\"}}"),
                   file("cut.json", "{\"schema\": "),
                   file("few.json",
                        "{\"schema\": "
                        "\"orrery.result/1\"}"),
                   file("wrong.json", text_of_file(saved(folder, "x.json", 1, ", \"mfu2\": 1"))
                                          .replace(1, 27, "\"schema\": \"orrery.result/2\""))});
  CHECK(done.exit == 3);
  CHECK(done.out.empty());
  CHECK(contains(done.err, "no result of orrery: it names no schema"));
  CHECK(contains(done.err, "'orrery.scoreboard/1', not orrery.result/1"));
  CHECK(contains(done.err, "the command failed (out_of_memory)"));
  CHECK(contains(done.err, "cut.json:1:"));
  CHECK(contains(done.err, "missing key 'step_time_s'"));
  CHECK(contains(done.err, "'orrery.result/2', not orrery.result/1"));
  CHECK(orrery_with({"compare", folder.file("none.json"), folder.file("good.json")}).exit == 3);
}

TEST_CASE("one result alone cannot be compared, and a closed pipe is no error message") {
  const TemporaryFolder folder;
  const std::string a = saved(folder, "a.json", 2);
  CHECK(orrery_with({"compare", a}).exit == 2);
  CHECK(orrery_with({"compare"}).exit == 2);
  ProcessOptions options;
  options.stdout_is_closed_pipe = true;
  const Finished done = orrery_with({"compare", a, a}, options);
  CHECK(done.exit != 0);
  CHECK(done.err.empty());
}
