// The platform files themselves, and the reader's treatment of wrong ones.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "platforms/platform.hpp"
#include "tests/platforms/own_folder.hpp"

using namespace orrery;

namespace {

const std::string root = ORRERY_SOURCE_DIR;

// Numeric leaves without a source, as paths. Measured tables are plain numbers and keep none: the
// reader wants it around them, as the test below says.
void unsourced(const Node& node, const std::string& path, std::vector<std::string>& out) {
  if (node.key == "measured" && node.is_list()) return;
  if (node.is_map() && node.find("value") != nullptr && node.find("source") != nullptr) return;
  const bool number = node.is_scalar() && !node.quoted &&
                      node.text.find_first_of("0123456789") == (node.text[0] == '-' ? 1U : 0U);
  if (number) out.push_back(path);
  for (const Node& child : node.children) unsourced(child, path + "." + child.key, out);
}

template <class Spec>
void check_sources(const Spec& spec) {
  std::vector<std::string> bare;
  unsourced(to_node(spec), spec.name, bare);
  CHECK_MESSAGE(bare.empty(), spec.name << " has a number without a source: "
                                        << (bare.empty() ? "" : bare.front()));
}

std::string first_message(const std::string& yaml) {
  try {
    read<CurveSpec>(Document::parse_text(yaml, "c.yaml"), {Sources::required, UnknownKeys::error});
  } catch (const ConfigError& e) {
    return e.messages.front().text;
  }
  return "";
}

}  // namespace

TEST_CASE(
    "every file of platforms/ reads, is named after its file, and has a source for every number") {
  int files = 0;
  for (const PlatformKind kind : {PlatformKind::gpu, PlatformKind::node, PlatformKind::cluster,
                                  PlatformKind::stack, PlatformKind::curve}) {
    REQUIRE(!folder.names(kind).empty());
    for (const std::string& file : folder.names(kind)) {
      CAPTURE(file);
      ++files;
      const auto check = [&](const auto& spec) {
        CHECK(spec.name == file);
        check_sources(spec);
      };
      if (kind == PlatformKind::gpu) check(folder.gpu(file));
      if (kind == PlatformKind::node) check(folder.node(file));
      if (kind == PlatformKind::cluster) check(folder.cluster(file));
      if (kind == PlatformKind::stack) check(folder.stack(file));
      if (kind == PlatformKind::curve) check(folder.curve(file));
    }
  }
  int on_disk = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root + "/platforms"))
    on_disk += entry.path().extension() == ".yaml";
  CHECK(files == on_disk);
}

TEST_CASE("a number without a source is refused") {
  CHECK(first_message("{name: c, nodes: 1, gpus_per_node: 8, operations: [all_reduce], alpha: 1us, "
                      "bandwidth: 1GBps, ramp: 1MB}")
            .find("no source") != std::string::npos);
}

TEST_CASE("a measured table is refused where no source stands around it") {
  const std::string tables =
      "hop_latency: {value: 0s, source: {kind: assumed, note: n}}}\n"
      "collectives: {measured: [{operation: all_reduce, members: 2, sizes: [8B], times: [1us]}]}\n";
  const auto refusal = [&](const std::string& source) {
    try {
      read<ClusterSpec>(Document::parse_text("name: c\n" + source +
                                                 "parts: [{node: {value: n, source: {kind: "
                                                 "assumed, note: n}}, count: {value: 1, source: "
                                                 "{kind: assumed, note: n}}}]\nfabric: {" +
                                                 tables,
                                             "c.yaml"),
                        {Sources::required, UnknownKeys::error});
    } catch (const ConfigError& e) {
      return e.messages.front().text;
    }
    return std::string();
  };
  CHECK(refusal("source: {kind: assumed, note: n}\n") == "");
  CHECK(refusal("").find("no source") != std::string::npos);
}

TEST_CASE("a datasheet source needs document and table, a fitted one cases and residual") {
  const std::string rest =
      ", name: c, nodes: 1, gpus_per_node: 8, operations: [all_reduce], alpha: 1us, bandwidth: "
      "1GBps, ramp: 1MB}";
  CHECK(first_message("{source: {kind: datasheet, table: t}" + rest).find("document") !=
        std::string::npos);
  CHECK(first_message("{source: {kind: datasheet, document: d}" + rest).find("table") !=
        std::string::npos);
  CHECK(first_message("{source: {kind: fitted, residual: 0.1}" + rest).find("cases") !=
        std::string::npos);
  CHECK(first_message("{source: {kind: fitted, cases: [a]}" + rest).find("residual") !=
        std::string::npos);
  CHECK(first_message("{source: {kind: assumed}" + rest) == "");
}

TEST_CASE("platforms are found by name, by alias and by path") {
  CHECK(folder.gpu("a100-sxm-80gb").name == "a100-sxm-80gb");
  CHECK(folder.gpu("a100 80gb").name == "a100-sxm-80gb");
  CHECK(folder.node("DGX-A100").name == "dgx-a100");
  CHECK(folder.gpu("platforms/gpus/h100-sxm.yaml").name == "h100-sxm");
  CHECK(folder.gpu(root + "/platforms/gpus/h100-sxm.yaml").name == "h100-sxm");
}

TEST_CASE("an unknown name is reported where it was asked for, with a suggestion") {
  const Document d = Document::parse_text("cluster: two-dgx-a10", "s.yaml");
  try {
    read_platform(PlatformFolder(root), "two-dgx-a10", "generic", d.root().find("cluster")->mark);
    FAIL("no error");
  } catch (const ConfigError& e) {
    REQUIRE(e.messages.size() == 1);
    CHECK(e.messages[0].text == "unknown cluster 'two-dgx-a10'");
    CHECK(e.messages[0].suggestion == "did you mean 'two-dgx-a100'?");
    CHECK(e.messages[0].line == 1);
    CHECK(e.messages[0].column == 10);
  }
  CHECK_THROWS_AS(PlatformFolder(root).gpu("no/such.yaml"), ConfigError);
  CHECK_THROWS_AS(PlatformFolder("/nowhere").gpu("a100-sxm-80gb"), ConfigError);
}

TEST_CASE("what a cluster refers to is reported in the cluster's file") {
  const auto dir = std::filesystem::temp_directory_path() / "orrery_platform_test";
  std::filesystem::create_directories(dir);
  const std::string file = (dir / "c.yaml").string();
  std::ofstream(file) << "name: c\nsource: {kind: assumed}\nparts:\n  - {node: dgx-a10, count: 2}\n"
                         "fabric: {hop_latency: 1us}\n";
  try {
    read_platform(PlatformFolder(root), file);
    FAIL("no error");
  } catch (const ConfigError& e) {
    CHECK(e.messages[0].file == file);
    CHECK(e.messages[0].line == 4);
    CHECK(e.messages[0].suggestion == "did you mean 'dgx-a100'?");
  }
  std::filesystem::remove_all(dir);
}
