#include "tests/layering/layering.hpp"

#include <doctest/doctest.h>

#include <string>

using namespace orrery;

namespace {

SourceFile file(const std::string& path, const std::string& includes) {
  return {path, "// A file.\n" + includes};
}

// The only offence of the tree, or a text that says how many there are.
std::string only_offence(const SourceTree& tree) {
  const auto offences = check_layering(tree);
  if (offences.size() == 1) return offences[0].path + ": " + offences[0].what;
  return std::to_string(offences.size()) + " offences" + describe(offences);
}

bool is_clean(const SourceTree& tree) { return check_layering(tree).empty(); }

const SourceFile error_header = file("backend/core/error.hpp", "#include <string>\n");

}  // namespace

TEST_CASE("the project keeps to its layers") {
  const SourceTree tree = read_tree(ORRERY_SOURCE_DIR);
  REQUIRE(tree.size() > 10);
  const auto offences = check_layering(tree);
  CHECK_MESSAGE(offences.empty(), describe(offences));
}

TEST_CASE("a folder includes what stands below it and nothing else") {
  CHECK(
      is_clean({error_header, file("backend/rank.hpp", "#include \"backend/core/error.hpp\"\n")}));
  CHECK(is_clean({error_header, file("sim/world.cpp", "#include \"backend/core/error.hpp\"\n")}));
  CHECK(only_offence({file("backend/core/error.cpp", "#include \"backend/rank.hpp\"\n"),
                      file("backend/rank.hpp", "")}) ==
        "backend/core/error.cpp: backend/rank.hpp: backend/core may not include backend");
  CHECK(only_offence({file("algorithms/ddp.cpp", "#include \"sim/world.hpp\"\n"),
                      file("sim/world.hpp", "")}) ==
        "algorithms/ddp.cpp: sim/world.hpp: algorithms may not include sim");
  CHECK(only_offence({file("backend/cpu/world.cpp", "#include \"platforms/gpu.hpp\"\n"),
                      file("platforms/gpu.hpp", "")}) ==
        "backend/cpu/world.cpp: platforms/gpu.hpp: backend/cpu may not include platforms");
  CHECK(only_offence({file("calibration/fit.cpp", "#include \"scenarios/cli/x.hpp\"\n"),
                      file("scenarios/cli/x.hpp", "")}) ==
        "calibration/fit.cpp: scenarios/cli/x.hpp: calibration may not include scenarios/cli");
  CHECK(only_offence({file("sim/world.cpp", "#include \"tests/support/x.hpp\"\n"),
                      file("tests/support/x.hpp", "")}) ==
        "sim/world.cpp: tests/support/x.hpp: sim may not include tests");
}

TEST_CASE("the program and the tests may include everything") {
  const SourceTree below{file("sim/world.hpp", ""), file("backend/cpu/world.hpp", ""),
                         file("calibration/fit.hpp", "")};
  for (const std::string path : {"scenarios/cli/run.cpp", "tests/parity/ddp_test.cpp"}) {
    SourceTree tree = below;
    tree.push_back(file(path,
                        "#include \"sim/world.hpp\"\n#include \"backend/cpu/world.hpp\"\n"
                        "#include \"calibration/fit.hpp\"\n"));
    CHECK(is_clean(tree));
  }
}

TEST_CASE("a confined library stays in its folder") {
  CHECK(is_clean({file("sim/simgrid/engine.cpp", "#include <simgrid/s4u.hpp>\n")}));
  CHECK(is_clean({file("tests/bench/heap_bench.cpp", "#include <simgrid/s4u.hpp>\n")}));
  CHECK(is_clean(
      {file("backend/transport/nccl.cpp", "#include <nccl.h>\n#include <cuda_runtime.h>\n")}));
  CHECK(is_clean({file("backend/transport/mpi.cpp", "#include <mpi.h>\n")}));
  CHECK(is_clean({file("backend/cpu/kernels.cpp", "#include <Eigen/Core>\n")}));
  const auto offends = [](const std::string& path, const std::string& header) {
    return only_offence({file(path, "#include <" + header + ">\n")}).find(": includes ") !=
           std::string::npos;
  };
  CHECK(offends("sim/world.cpp", "simgrid/s4u.hpp"));
  CHECK(offends("sim/world.cpp", "xbt/log.h"));
  CHECK(offends("scenarios/cli/run.cpp", "simgrid/s4u.hpp"));
  CHECK(offends("backend/cpu/world.cpp", "cuda_runtime.h"));
  CHECK(offends("backend/transport/threads.cpp", "nccl.h"));
  CHECK(offends("backend/transport/nccl.cpp", "mpi.h"));
  CHECK(offends("algorithms/mlp.cpp", "Eigen/Core"));
  CHECK(offends("platforms/reader.cpp", "yaml-cpp/yaml.h"));
}

TEST_CASE("a header carries no confined library out of its folder") {
  const SourceTree tree{file("sim/simgrid/engine.hpp", "#include <simgrid/s4u.hpp>\n"),
                        file("sim/world.cpp", "#include \"sim/simgrid/engine.hpp\"\n")};
  CHECK(only_offence(tree) ==
        "sim/world.cpp: includes SimGrid: sim/world.cpp -> sim/simgrid/engine.hpp -> "
        "simgrid/s4u.hpp");
}

TEST_CASE("nlohmann is for source files only") {
  CHECK(is_clean({file("scenarios/model.cpp", "#include <nlohmann/json.hpp>\n")}));
  CHECK(only_offence({file("scenarios/model.hpp", "#include <nlohmann/json.hpp>\n")}) ==
        "scenarios/model.hpp: nlohmann/json.hpp: nlohmann is for source files only");
}

TEST_CASE("circles of files and of folders are found") {
  CHECK(only_offence({file("sim/a.hpp", "#include \"sim/b.hpp\"\n"),
                      file("sim/b.hpp", "#include \"sim/a.hpp\"\n")}) ==
        "sim/a.hpp: files include each other in a circle: sim/a.hpp -> sim/b.hpp -> sim/a.hpp");
  const SourceTree folders{file("sim/world.hpp", ""), file("sim/simgrid/engine.hpp", ""),
                           file("sim/world.cpp", "#include \"sim/simgrid/engine.hpp\"\n"),
                           file("sim/simgrid/engine.cpp", "#include \"sim/world.hpp\"\n")};
  CHECK(describe(check_layering(folders)) ==
        "\nsim/simgrid/engine.cpp:2: sim/world.hpp: sim/simgrid may not include sim"
        "\nsim: folders include each other in a circle: sim -> sim/simgrid -> sim");
}

TEST_CASE("our own files are included by their path from the root, in quotes, and only headers") {
  CHECK(only_offence({error_header, file("backend/core/a.cpp", "#include \"error.hpp\"\n")}) ==
        "backend/core/a.cpp: error.hpp: no such file of ours; paths start at the root");
  CHECK(only_offence(
            {error_header, file("backend/core/a.cpp", "#include <backend/core/error.hpp>\n")}) ==
        "backend/core/a.cpp: backend/core/error.hpp: our own files are included in quotes");
  CHECK(only_offence({file("sim/a.cpp", ""), file("sim/b.cpp", "#include \"sim/a.cpp\"\n")}) ==
        "sim/b.cpp: sim/a.cpp: only headers are included");
  CHECK(only_offence({file("scripts/tool.cpp", "")}) ==
        "scripts/tool.cpp: lies in no folder that holds C++");
  CHECK(is_clean({file("scenarios/a.cpp", "#include \"orrery_paths.hpp\"\n")}));
}

TEST_CASE("an include in a comment or a string is none") {
  CHECK(is_clean(
      {file("sim/a.cpp",
            "// #include <mpi.h>\n/*\n#include <mpi.h>\n*/\nauto s = \"#include <mpi.h>\";\n")}));
  CHECK_FALSE(is_clean({file("sim/a.cpp", "  #  include <mpi.h>  // why\n")}));
}
