#include "tests/tidy/tidy.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <string>

using namespace orrery;

namespace {

std::string repeat(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

const std::string header = "// A header.\n#pragma once\n";

// A file that breaks one rule.
struct Planted {
  std::string rule;
  SourceFile file;
};

// Words that the tree itself must not hold are put together here.
std::vector<Planted> planted_offences() {
  const std::string length = "a source file has at most 500 lines";
  const std::string function = "a function has at most 80 lines";
  const std::string space =
      "text has no tabs, control characters or trailing space, and ends with a newline";
  const std::string readme = "every folder has a README of at most a page";
  const std::string top = "the top level holds only what the design allows";
  const std::string names = "sources have snake_case names";
  const std::string guards = "a header says what it is for and guards itself";
  const std::string unfinished = "nothing is left unfinished";
  const std::string code = "sources avoid what our compilers and callers cannot bear";
  const std::string places = "no file names a place on somebody's machine";
  const std::string scripts = "scripts are strict and parse";
  return {
      {length, {"sim/a.cpp", repeat("int x;\n", 501)}},
      {function, {"sim/a.cpp", "int f() {\n" + repeat("  g();\n", 79) + "}\n"}},
      {space, {"sim/a.cpp", "int x; \n"}},
      {space, {"scripts/cmake/a.cmake", "set(\tx)\n"}},
      {space, {"README.md", "a\x01\n"}},
      {space, {"README.md", "a\r\n"}},
      {space, {"platforms/a.yaml", "name: a"}},
      {readme, {"sim/a.cpp", "int x;\n"}},
      {readme, {"sim/README.md", repeat("words\n", 81)}},
      {top, {"docs/guide.md", "# A guide\n"}},
      {top, {"notes.md", "# Notes\n"}},
      {names, {"sim/MyWorld.cpp", "int x;\n"}},
      {names, {"sim/my-world.cpp", "int x;\n"}},
      {names, {"sim/MyWorld/a.cpp", "int x;\n"}},
      {guards, {"sim/a.hpp", "#pragma once\n// A header.\n"}},
      {guards, {"sim/a.hpp", "// A header.\nint x;\n"}},
      {guards, {"sim/a.hpp", "// A header.\n// #pragma once\n"}},
      {unfinished,
       {"sim/a.cpp",
        "// TO"
        "DO: later\n"}},
      {unfinished,
       {"sim/README.md",
        "FIX"
        "ME\n"}},
      {code, {"sim/a.cpp", "void f(std::source_location);\n"}},
      {code, {"sim/a.cpp", "auto v = std::views::iota(1);\n"}},
      {code, {"tests/sim/a_test.cpp", "auto v = std::ranges::views::iota(1);\n"}},
      {code, {"sim/a.cpp", "std::cout << 1;\n"}},
      {places,
       {"scripts/a.sh",
        "cd /ho"
        "me/someone\n"}},
      {places,
       {"tests/README.md",
        "It is in /wor"
        "k/main.\n"}},
      {places,
       {"scripts/a.sh",
        "curl https"
        "://host/file\n"}},
      {scripts, {"scripts/a", "#!/usr/bin/env bash\nset -euo pipefail\nif true; then\n"}},
      {scripts, {"scripts/a", "#!/usr/bin/env bash\necho a\n"}},
      {scripts, {"scripts/a", "#!/usr/bin/env python3\nif True\n"}},
  };
}

// A small tree that no rule objects to; among it what looks like an offence and is none.
SourceTree clean_tree() {
  return {
      {".ci/run", "#!/usr/bin/env bash\nset -uo pipefail\necho a\n"},
      {"LICENSE", "\tApache License\n"},
      {"README.md",
       "# Orrery\n\nSee https"
       "://example.org/ and scripts/work/a.\n"},
      {"scenarios/README.md", "# Scenarios\n"},
      {"scenarios/cli/README.md", "# The program\n"},
      {"scenarios/cli/main.cpp", "int main() { std::cout << 1; }\n"},
      {"scripts/README.md", "# Scripts\n"},
      {"scripts/a", "#!/usr/bin/env bash\nset -euo pipefail\necho a\n"},
      {"scripts/b", "#!/usr/bin/env python3\nif True:\n    print('a')\n"},
      {"sim/README.md", repeat("words\n", 80)},
      {"sim/a.cpp",
       "// std::cout is not for libraries\nauto s = \"std::cout\";\n" + repeat("int x;\n", 498)},
      {"sim/a.hpp", header},
      {"sim/b.cpp", "int f() {\n" + repeat("  g();\n", 78) + "}\n"},
      {"tests/README.md", "# Tests\n"},
      {"tests/fuzz/seeds/config/a.yaml", "a:\tb \r\n"},
      {"tests/sim/a_test.cpp", "TEST_CASE(\"a\") {\n" + repeat("  std::cout << 1;\n", 100) + "}\n"},
  };
}

int longest_function(const std::string& text) {
  int longest = 0;
  for (const LongFunction& function : long_functions(code_only(text), 0))
    longest = std::max(longest, function.lines);
  return longest;
}

}  // namespace

// One case per rule would hide new rules; the name of the broken one is in the message.
TEST_CASE("the project is tidy") {
  const SourceTree tree = read_tree(ORRERY_SOURCE_DIR);
  REQUIRE(tree.size() > 10);
  for (const Rule& rule : tidy_rules()) {
    const auto offences = rule.check(tree);
    CHECK_MESSAGE(offences.empty(), rule.name, describe(offences));
  }
}

TEST_CASE("each rule finds its planted offences") {
  std::set<std::string> shown;
  for (const Planted& planted : planted_offences()) {
    CAPTURE(planted.file.text);
    const auto offences = check_rule(planted.rule, {planted.file});
    REQUIRE_MESSAGE(!offences.empty(), planted.rule, ": ", planted.file.path);
    CHECK(offences[0].path ==
          (planted.rule.starts_with("every folder") && planted.file.path.ends_with(".cpp") ? "sim"
           : planted.rule.starts_with("the top")
               ? planted.file.path.substr(0, planted.file.path.find('/'))
               : planted.file.path));
    shown.insert(planted.rule);
  }
  for (const Rule& rule : tidy_rules())
    CHECK_MESSAGE(shown.contains(rule.name), "nothing planted for: ", rule.name);
}

TEST_CASE("no rule objects to a clean tree") {
  for (const Rule& rule : tidy_rules()) {
    const auto offences = rule.check(clean_tree());
    CHECK_MESSAGE(offences.empty(), rule.name, describe(offences));
  }
}

TEST_CASE("functions are told from scopes and initializers") {
  CHECK(longest_function("namespace a {\nstruct B {\n  int c = 1;\n};\n}\n") == 0);
  CHECK(longest_function("void f() {\n  if (a) {\n    b();\n  }\n}\n") == 5);
  CHECK(longest_function("struct A {\n  void f() {\n    g();\n  }\n};\n") == 3);
  CHECK(longest_function("A::A(int b)\n    : b_{b},\n      c_{1} {\n  g();\n  h();\n}\n") == 6);
  CHECK(longest_function("auto f = [](int a) {\n  return a;\n};\n") == 3);
  CHECK(longest_function("#define A(x) {\nvoid f() {\n}\n") == 2);
  CHECK(longest_function(
            "const char* s = \"{\"; // {\nchar c = '{';\nint n = 1'000;\nvoid f() {\n}\n") == 2);
}

TEST_CASE("comments and literals are blanked and lines stay where they are") {
  CHECK(code_only("a /* b\nc */ d") == "a     \n     d");
  CHECK(code_only("a(\"b\\\"c\", 'd'); // e") == "a(\"    \", ' ');     ");
  CHECK(code_only("R\"x(a\"b)x\" c") == "R\"x(   )x\" c");
  CHECK(code_only("1'000 + 2'000") == "1'000 + 2'000");
  CHECK(without_comments("#include \"a.hpp\"  // b") == "#include \"a.hpp\"      ");
}
