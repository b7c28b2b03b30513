#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"

using namespace orrery;

namespace {

// An empty folder that goes away with the test.
struct Folder {
  std::filesystem::path path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "orrery_text_XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path), {}));
  }
};

}  // namespace

TEST_CASE("the edit distance counts single changes and swaps") {
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("bandwith", "bandwidth") == 1);
  CHECK(edit_distance("tensro", "tensor") == 1);
  CHECK(edit_distance("kitten", "sitting") == 3);
}

TEST_CASE("the nearest name is near or there is none") {
  const std::vector<std::string> names{"tensor", "pipeline", "expert", "context"};
  CHECK(nearest_name("tensro", names) == "tensor");
  CHECK(nearest_name("PIPELINE", names) == "pipeline");
  CHECK(nearest_name("contxt", names) == "context");
  CHECK(nearest_name("zebra", names) == "");
  CHECK(nearest_name("", names) == "");
  CHECK(nearest_name("a", {"b"}) == "");
  CHECK(nearest_name(std::string(100'000, 'x'), names) == "");
  CHECK(did_you_mean("expret", names) == "did you mean 'expert'?");
}

TEST_CASE("text is split, joined and trimmed") {
  CHECK(split("a,,b", ',') == std::vector<std::string>{"a", "", "b"});
  CHECK(split("", ',') == std::vector<std::string>{""});
  CHECK(join({"a", "b"}, ", ") == "a, b");
  CHECK(trim(" \t a b\r\n") == "a b");
  CHECK(trim("  ") == "");
}

TEST_CASE("invalid UTF-8 is found") {
  CHECK(invalid_utf8("aé网😀") == std::string_view::npos);
  CHECK(invalid_utf8("ab\xff") == 2);
  CHECK(invalid_utf8("\xc0\xaf") == 0);          // overlong
  CHECK(invalid_utf8("a\xed\xa0\x80") == 1);     // surrogate
  CHECK(invalid_utf8("\xf4\x90\x80\x80") == 0);  // above U+10FFFF
  CHECK(invalid_utf8("\xe7\xbd") == 0);          // cut short
  CHECK(code_points("aé网😀\xff") == 5);
}

TEST_CASE("a file is replaced as a whole and nothing else is left") {
  const Folder folder;
  const std::string path = folder.path / "result.json";
  write_file_atomically(path, "old");
  struct stat before {
  }, after{};
  ::stat(path.c_str(), &before);
  write_file_atomically(path, std::string(1 << 20, 'n'));
  ::stat(path.c_str(), &after);
  CHECK(before.st_ino != after.st_ino);  // renamed over, not rewritten in place
  CHECK(read_file(path) == std::string(1 << 20, 'n'));
  CHECK(folder.files() == 1);
  const mode_t mask = ::umask(0);
  ::umask(mask);
  CHECK((after.st_mode & 0777) == (0666 & ~mask));
}

TEST_CASE("a failed write names the file and leaves nothing") {
  const Folder folder;
  const std::string missing = folder.path / "absent" / "x";
  try {
    write_file_atomically(missing, "x");
    FAIL("wrote into an absent folder");
  } catch (const Error& error) {
    CHECK(error.category() == Category::config);
    CHECK(error.context("file") == missing);
  }
  std::filesystem::create_directory(folder.path / "taken");
  CHECK_THROWS_AS(write_file_atomically(folder.path / "taken", "x"),
                  Error);  // a folder has the name
  CHECK(folder.files() == 1);
}

TEST_CASE("reading refuses folders, absent files and files above the limit") {
  const Folder folder;
  write_file_atomically(folder.path / "a", "12345");
  CHECK(read_file(folder.path / "a", 5) == "12345");
  CHECK_THROWS_AS(read_file(folder.path / "a", 4), Error);
  CHECK_THROWS_WITH_AS(read_file(folder.path), doctest::Contains("not a regular file"), Error);
  CHECK_THROWS_WITH_AS(read_file(folder.path / "b"), doctest::Contains("cannot read file"), Error);
}
