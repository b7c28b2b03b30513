// Which uses of a storage are kept, and in which pieces.
//
// Seen to fail: `to < end` left out of add_in_pieces (what lies behind a use is forgotten), pieces
// joined that are kept beside others, `alike` without its second half.
#include "backend/accesses.hpp"

#include <doctest/doctest.h>

#include <array>

using namespace orrery;

namespace {

using Kept = std::array<std::int64_t, 4>;  // begin, end, stream, ordinal

Access access(std::uint8_t stream, std::uint32_t ordinal, std::int64_t begin, std::int64_t end,
              bool write) {
  return {begin, end, "file.cpp", ordinal, 1, stream, write, false};
}

// Accesses of streams that all know each other's operations up to `known`.
struct History {
  Accesses accesses;
  Clock clock;

  explicit History(std::uint32_t known) {
    for (std::size_t i = 0; i < 4; ++i) clock.raise(i, known);
  }
  History& add(const Access& access) {
    CHECK(accesses.add(access, clock) == nullptr);
    return *this;
  }
  std::vector<Kept> kept() const {
    std::vector<Kept> all;
    for (const Access& x : accesses.all()) all.push_back({x.begin, x.end, x.stream, x.ordinal});
    return all;
  }
};

}  // namespace

TEST_CASE("a write stands for all that it is ordered behind, and is kept once") {
  History history(9);
  for (std::int64_t i = 0; i < 8; ++i) history.add(access(0, 1, 10 * i, 10 * i + 10, true));
  CHECK(history.kept().size() == 8);
  history.add(access(1, 2, 0, 80, true));
  CHECK(history.kept() == std::vector<Kept>{{0, 80, 1, 2}});
}

TEST_CASE("a use of some of the elements leaves the others with what they had") {
  History history(9);
  history.add(access(0, 1, 0, 100, true)).add(access(1, 2, 40, 60, true));
  CHECK(history.kept() == std::vector<Kept>{{0, 40, 0, 1}, {40, 60, 1, 2}, {60, 100, 0, 1}});
  SUBCASE("from one to the next") {
    history.add(access(2, 3, 50, 70, true));
    CHECK(history.kept() ==
          std::vector<Kept>{{0, 40, 0, 1}, {40, 50, 1, 2}, {50, 70, 2, 3}, {70, 100, 0, 1}});
  }
  SUBCASE("over the end of all that was used") {
    history.add(access(2, 3, 60, 120, true));
    CHECK(history.kept() == std::vector<Kept>{{0, 40, 0, 1}, {40, 60, 1, 2}, {60, 120, 2, 3}});
  }
}

TEST_CASE("reads by one stream replace each other, and none replaces a write") {
  History history(9);
  history.add(access(0, 1, 0, 10, true)).add(access(1, 2, 0, 10, false));
  history.add(access(1, 3, 0, 10, false)).add(access(2, 4, 0, 10, false));
  CHECK(history.kept() == std::vector<Kept>{{0, 10, 0, 1}, {0, 10, 1, 3}, {0, 10, 2, 4}});
  SUBCASE("a wider read is kept in the pieces of what it is kept beside") {
    history.add(access(1, 5, 0, 30, false));
    CHECK(history.kept() ==
          std::vector<Kept>{{0, 10, 0, 1}, {0, 10, 2, 4}, {0, 10, 1, 5}, {10, 30, 1, 5}});
  }
  SUBCASE("elements that nobody has used between them join no piece") {
    history.add(access(0, 6, 20, 30, true)).add(access(3, 7, 0, 30, false));
    CHECK(history.kept() == std::vector<Kept>{{0, 10, 0, 1},
                                              {0, 10, 1, 3},
                                              {0, 10, 2, 4},
                                              {0, 10, 3, 7},
                                              {10, 20, 3, 7},
                                              {20, 30, 0, 6},
                                              {20, 30, 3, 7}});
  }
}

TEST_CASE("what nothing orders is told, whatever else its elements were used for") {
  History history(1);  // of the others' operations
  history.add(access(0, 1, 0, 100, true)).add(access(1, 2, 40, 60, true));
  const Access* const clash = history.accesses.add(access(2, 3, 55, 80, false), history.clock);
  REQUIRE(clash != nullptr);
  CHECK(clash->stream == 1);
  CHECK(clash->ordinal == 2);
  CHECK(history.accesses.add(access(2, 3, 60, 80, false), history.clock) == nullptr);
  CHECK(history.accesses.add(access(2, 4, 50, 50, true), history.clock) == nullptr);  // none
}
