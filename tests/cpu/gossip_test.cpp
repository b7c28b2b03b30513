#include <doctest/doctest.h>

#include "tests/cpu/cpu_world.hpp"
#include "tests/support/gossip_program.hpp"

using namespace orrery;

namespace {

void gossip_for_seeds(int first, int last) {
  constexpr gossip::Gossip config{4, true};
  for (int ranks = first; ranks <= last; ++ranks)
    for (std::uint64_t seed = 1; seed <= 200; ++seed) {
      CAPTURE(ranks);
      CAPTURE(seed);
      WorldOptions options = options_for(Axis::replicate, ranks);
      options.seed = seed;
      const auto world = make_cpu_world(options);
      world->add_service("matchmaker",
                         [ranks](Service& service) { gossip::matchmaker(service, ranks); });
      std::vector<RankNotes> notes(static_cast<std::size_t>(ranks));
      const SharedProgram program = gossip::program(config);
      world->run([&](Rank& rank) { program(rank, notes[static_cast<std::size_t>(rank.id())]); });
      gossip::check(notes, ranks, config);
    }
}

}  // namespace

TEST_CASE("gossip with racing operands ends on 1 to 5 ranks and leaves no message") {
  gossip_for_seeds(1, 5);
}
TEST_CASE("gossip with racing operands ends on 6 or 7 ranks and leaves no message") {
  gossip_for_seeds(6, 7);
}
TEST_CASE("gossip with racing operands ends on 8 or 9 ranks and leaves no message") {
  gossip_for_seeds(8, 9);
}
