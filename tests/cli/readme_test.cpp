// README.md is true: its commands work and its outputs are what they print, and so are those of
// algorithms/README.md.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

#include "backend/core/text.hpp"
#include "tests/cli/process.hpp"

using namespace orrery;

namespace {

struct ReadmeBlock {
  std::string language;   // what follows the opening fence
  std::string output_of;  // the command of the comment right before it, or ""
  std::string text;
};

std::vector<ReadmeBlock> blocks_of(const std::string& markdown) {
  const std::string opening = "<!-- output of: ";
  std::vector<ReadmeBlock> blocks;
  std::string before;
  bool inside = false;
  for (const std::string& line : split(markdown, '\n')) {
    if (line.starts_with("```")) {
      inside = !inside;
      if (inside) {
        const bool output = before.starts_with(opening);
        blocks.push_back(
            {line.substr(3),
             output ? before.substr(opening.size(), before.size() - opening.size() - 4) : "", ""});
      }
    } else if (inside) {
      blocks.back().text += line + "\n";
    }
    before = line;
  }
  CHECK(!inside);
  return blocks;
}

std::vector<ReadmeBlock> readme_blocks(const std::string& folder = "") {
  return blocks_of(text_of_file(std::string(ORRERY_SOURCE_DIR) + "/" + folder + "README.md"));
}

// A folder that looks like the project to a command of the README, whose results stay in it.
class Checkout {
 public:
  Checkout() {
    namespace fs = std::filesystem;
    for (const char* name : {"scenarios", "platforms"})
      fs::create_directory_symlink(fs::path(ORRERY_SOURCE_DIR) / name, folder_.file(name));
    fs::create_directory(folder_.file("scripts"));
    fs::create_symlink(ORRERY_PROGRAM, folder_.file("scripts/orrery"));
    fs::create_symlink(fs::path(ORRERY_SOURCE_DIR) / "scripts/gpu-report",
                       folder_.file("scripts/gpu-report"));
  }
  Finished run(const std::string& script) const {
    ProcessOptions options;
    options.folder = folder_.path();
    return run_process({"bash", "-euo", "pipefail", "-c", script}, options);
  }

 private:
  TemporaryFolder folder_;
};

}  // namespace

TEST_CASE("blocks of Markdown are found with their language and their command") {
  const auto blocks = blocks_of("a\n```sh\nx\ny\n```\n<!-- output of: z 1 -->\n```text\n```\n");
  REQUIRE(blocks.size() == 2);
  CHECK(blocks[0].language == "sh");
  CHECK(blocks[0].text == "x\ny\n");
  CHECK(blocks[0].output_of.empty());
  CHECK(blocks[1].output_of == "z 1");
}

TEST_CASE("every command of the README works") {
  const Checkout checkout;
  int run_blocks = 0;
  for (const ReadmeBlock& block : readme_blocks()) {
    if (block.language != "sh") continue;  // `sh norun`: shown only
    ++run_blocks;
    const Finished done = checkout.run(block.text);
    CHECK_MESSAGE(done.exit == 0, block.text << done.err);
  }
  CHECK(run_blocks >= 4);
}

TEST_CASE("a command of the README that fails would be noticed") {
  const Checkout checkout;
  CHECK(checkout.run("scripts/orrery simulate none.yaml\nscripts/orrery --version\n").exit == 3);
}

TEST_CASE("the outputs in the READMEs are what commands print; `scripts/readme` renews them") {
  const Checkout checkout;
  int compared = 0;
  for (const char* folder : {"", "algorithms/"})
    for (const ReadmeBlock& block : readme_blocks(folder)) {
      if (block.output_of.empty()) continue;
      ++compared;
      const Finished done = checkout.run(block.output_of);
      CHECK(done.exit == 0);
      CHECK_MESSAGE(done.out == block.text, "run scripts/readme: " << block.output_of);
    }
  CHECK(compared == 7);
}

TEST_CASE("the README opens with what it is and the two commands, limits before accuracy") {
  const std::string readme = text_of_file(std::string(ORRERY_SOURCE_DIR) + "/README.md");
  const auto at = [&](const char* part) {
    const std::size_t place = readme.find(part);
    CHECK_MESSAGE(place != std::string::npos, part);
    return place;
  };
  CHECK(at("scripts/orrery simulate scenarios/quickstart.yaml") < at("scripts/test"));
  CHECK(at("scripts/test") < at("## What you can do today"));
  CHECK(at("## Limits") < at("## Accuracy so far"));
}
