// scripts/new-algorithm, and the tutorial of the README.
#include <doctest/doctest.h>

#include "tests/cli/process.hpp"

using namespace orrery;

namespace {

// What a new algorithm touches, in a folder of its own.
struct Copy {
  TemporaryFolder folder;
  Copy() {
    const Finished copied =
        run_process({"sh", "-c",
                     "cp -r algorithms backend scripts .clang-format CMakeLists.txt '" +
                         folder.path() + "' && mkdir -p '" + folder.path() +
                         "/tests/parity' && cp tests/parity/low_communication_test.cpp '" +
                         folder.path() + "/tests/parity'"});
    REQUIRE_MESSAGE(copied.exit == 0, copied.err);
  }
  Finished run(const std::vector<std::string>& command) {
    ProcessOptions options;
    options.folder = folder.path();
    return run_process(command, options);
  }
};

}  // namespace

TEST_CASE(
    "scripts/new-algorithm makes an algorithm that compiles and is in the table and the tests") {
  Copy copy;
  const Finished made = copy.run({"scripts/new-algorithm", "my-average"});
  REQUIRE_MESSAGE(made.exit == 0, made.err);
  CHECK(contains(text_of_file(copy.folder.file("algorithms/algorithm_table.cpp")),
                 "over_islands<MyAverage, MyAverageOptions>"));
  CHECK(contains(text_of_file(copy.folder.file("algorithms/algorithm_table.cpp")),
                 "#include \"algorithms/my_average.hpp\""));
  CHECK(contains(text_of_file(copy.folder.file("tests/parity/low_communication_test.cpp")),
                 "{\"my-average\""));
  // The README shows what it does.
  const std::string source = text_of_file(copy.folder.file("algorithms/my_average.cpp"));
  const std::size_t from = source.find("void MyAverage::inner_step_issued");
  REQUIRE(from != std::string::npos);
  const std::string shown = source.substr(from, source.find("\n}\n", from) + 3 - from);
  CHECK(contains(text_of_file(std::string(ORRERY_SOURCE_DIR) + "/README.md"), shown));
  const Finished compiled =
      copy.run({"c++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-I.",
                "algorithms/my_average.cpp", "algorithms/algorithm_table.cpp"});
  CHECK_MESSAGE(compiled.exit == 0, compiled.err);
}

TEST_CASE(
    "scripts/new-algorithm refuses names that are taken or are none, and then writes nothing") {
  Copy copy;
  for (const char* name : {"diloco", "Mine", "a b", "../x", ""}) {
    const Finished made = copy.run({"scripts/new-algorithm", name});
    CHECK(made.exit == 2);
  }
  CHECK(
      copy.run({"diff", "-r", "algorithms", std::string(ORRERY_SOURCE_DIR) + "/algorithms"}).exit ==
      0);
}
