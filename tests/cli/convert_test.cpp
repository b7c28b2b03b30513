// `orrery convert`, and clusters that it makes.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "backend/core/text.hpp"
#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

const char* const platform =
    "<?xml version='1.0'?>\n"
    "<!DOCTYPE platform SYSTEM \"https://simgrid.org/simgrid.dtd\">\n"
    "<platform version=\"4.1\">\n"
    "  <cluster id=\"lab\" prefix=\"n\" suffix=\".lab\" radical=\"0-1\" speed=\"1Gf\" bw=\"25GBps\""
    " lat=\"2us\"/>\n"
    "</platform>\n";

}  // namespace

TEST_CASE("convert writes a cluster for SimGrid, whole or its first GPUs") {
  const Finished whole = orrery_with({"convert", "two-dgx-a100", "--to", "simgrid"});
  REQUIRE_MESSAGE(whole.exit == 0, whole.err);
  CHECK(contains(whole.out, "<host id=\"gpu15\" speed=\"1Gf\"/>"));
  CHECK(contains(whole.out, "<route src=\"gpu0\" dst=\"gpu15\" symmetrical=\"NO\">"));
  const TemporaryFolder folder;
  const Finished part = orrery_with(
      {"convert", "two-dgx-a100", "--gpus", "9", "--out", folder.file("nine.xml"), "--json"});
  REQUIRE_MESSAGE(part.exit == 0, part.err);
  const std::string text = text_of_file(folder.file("nine.xml"));
  CHECK(part.json<Json>()["text"] == text);
  CHECK(contains(text, "gpu8"));
  CHECK_FALSE(contains(text, "gpu9"));
}

TEST_CASE("convert writes no cluster that could not be read") {
  const TemporaryFolder folder;
  const std::string file = folder.file("lab.xml"), cluster = folder.file("lab.yaml");
  std::string slow = platform;
  slow.replace(slow.find("lat=\"2us\""), 9, "lat=\"2us\" sharing_policy=\"FATPIPE\"");
  slow.replace(slow.find("25GBps"), 6, "1GBps");
  write_file_atomically(file, slow);
  const Finished made = orrery_with({"convert", file, "--node", "dgx-a100", "--out", cluster});
  CHECK(made.exit == 3);
  CHECK(contains(made.err, "a FATPIPE link slower than the nodes' NICs"));
  CHECK(folder.names() == std::vector<std::string>{"lab.xml"});
}

TEST_CASE("convert makes a cluster of a SimGrid platform, on which a scenario is simulated") {
  const TemporaryFolder folder;
  write_file_atomically(folder.file("lab.xml"), platform);
  const std::string cluster = folder.file("lab.yaml");
  const Finished made =
      orrery_with({"convert", folder.file("lab.xml"), "--node", "dgx-a100", "--out", cluster});
  REQUIRE_MESSAGE(made.exit == 0, made.err);
  const auto step = [](const std::string& of) {
    const Finished done = orrery_with({"simulate", "scenarios/quickstart.yaml", "--json", "--quiet",
                                       "--set", "platform.cluster=" + of, "--set", "run.steps=1",
                                       "--set", "run.explain_bottleneck=true"});
    REQUIRE_MESSAGE(done.exit == 0, done.err);
    return done.json<Json>();
  };
  const Json on_it = step(cluster), known = step("two-dgx-a100");
  CHECK(on_it["ranks"] == 16);
  CHECK(on_it["links"].back()["tier"] == "simgrid");
  CHECK(on_it["links"].back()["links"] == 4);
  // One port of 25 GB/s per node where DGX A100 have eight of 23.
  CHECK(on_it["step_time_s"].get<double>() > known["step_time_s"].get<double>());
}

TEST_CASE("what convert cannot convert is refused with what it needs") {
  const TemporaryFolder folder;
  const std::string file = folder.file("lab.xml");
  write_file_atomically(file, platform);
  const auto refused = [](std::vector<std::string> arguments, int exit, const std::string& what) {
    arguments.insert(arguments.begin(), "convert");
    const Finished done = orrery_with(arguments);
    CHECK(done.exit == exit);
    CHECK_MESSAGE(contains(done.err, what), done.err);
  };
  refused({file}, 2, "what are the hosts? --node says");
  refused({file, "--node", "dgx-a10"}, 3, "did you mean 'dgx-a100'?");
  refused({file, "--to", "simgrid"}, 2, "needs no conversion to simgrid");
  refused({"two-dgx-a100", "--to", "orrery"}, 2, "needs no conversion to orrery");
  refused({"two-dgx-a100", "--to", "dot"}, 2, "--to takes simgrid or orrery");
  refused({"two-dgx-a100", "--gpus", "17"}, 2, "--gpus 17, but two-dgx-a100 has 16");
  refused({"two-dgx-a10"}, 3, "did you mean 'two-dgx-a100'?");
  refused({"meta-24k-h100"}, 3, "ask for the first of them with --gpus");
  write_file_atomically(file, "<platform version=\"4\">\n<cluster id=\"a\"/>\n</platform>");
  refused({file, "--node", "dgx-a100"}, 3, "lab.xml:2:2");
}
