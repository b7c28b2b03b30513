#include "platforms/conditions.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/core/error.hpp"
#include "platforms/cluster.hpp"
#include "tests/platforms/own_folder.hpp"
#include "tests/support/near.hpp"

using namespace orrery;

namespace {

std::vector<int> range(int from, int to) {
  std::vector<int> out(static_cast<std::size_t>(to - from));
  std::iota(out.begin(), out.end(), from);
  return out;
}

struct FourNodes : Cluster {
  explicit FourNodes(const std::vector<LinkConditionSpec>& conditions = {})
      : Cluster(read_platform(folder, "four-dgx-a100")) {
    const auto factors = link_factors(conditions, links(), 1);
    if (!factors.empty()) scale_links(factors);
  }
};

}  // namespace

TEST_CASE("every distribution has mean 1 and the stated spread") {
  for (const Distribution d :
       {Distribution::normal, Distribution::uniform, Distribution::log_normal}) {
    double mean = 0, squares = 0;
    const int count = 20'000;
    for (int i = 0; i < count; ++i) {
      const double x = draw(d, 0.1, 5, 7, static_cast<std::uint64_t>(i));
      REQUIRE(x > 0);
      mean += x / count;
      squares += x * x / count;
    }
    CHECK(mean == doctest::Approx(1).epsilon(0.003));
    CHECK(std::sqrt(squares - mean * mean) == near(0.1, 0.03));
  }
}

TEST_CASE("a slow GPU is as slow as it is said to be, the others are as fast as the seed says") {
  CHECK(gpu_slowness({}, 4, 1).empty());
  const GpuSpeedSpec slow{Distribution::normal, 0, {{{2}, 0.25}}};
  CHECK(gpu_slowness(slow, 4, 1) == std::vector<double>{1, 1, 4, 1});
  const GpuSpeedSpec spread{Distribution::normal, 0.02, {}};
  CHECK(gpu_slowness(spread, 8, 1) == gpu_slowness(spread, 8, 1));
  CHECK(gpu_slowness(spread, 8, 1) != gpu_slowness(spread, 8, 2));
  // The first GPUs of a larger cluster are those of a smaller one.
  const auto large = gpu_slowness(spread, 16, 1);
  CHECK(gpu_slowness(spread, 8, 1) == std::vector<double>(large.begin(), large.begin() + 8));
  CHECK_THROWS_AS(gpu_slowness(slow, 2, 1), Error);
}

TEST_CASE("links are named by tier, whole, or by the first parts of their name") {
  const Cluster c(read_platform(folder, "two-dgx-a100"));
  const auto affected = [&](const std::string& name) {
    const auto factors = link_factors({{name, 0.5}}, c.links(), 1);
    return std::count(factors.begin(), factors.end(), 0.5);
  };
  CHECK(affected("nic") == 32);
  CHECK(affected("scale-up") == 32);
  CHECK(affected("node1") == 16);
  CHECK(affected("node1.nic3") == 2);
  CHECK(affected("node1.nic3.out") == 1);
  CHECK_THROWS_AS(affected("node9"), Error);
  CHECK_THROWS_AS(affected("node"), Error);
  const auto some = link_factors({{"nic", 0.5, 0.25}}, c.links(), 3);
  const auto hit = std::count(some.begin(), some.end(), 0.5);
  CHECK(hit > 0);
  CHECK(hit < 20);
  CHECK(some == link_factors({{"nic", 0.5, 0.25}}, c.links(), 3));
}

TEST_CASE("one port at half speed changes exactly the collectives that cross it") {
  const FourNodes fine, hurt({{"node1.nic3", 0.5}});
  const Bytes size(1LL << 30);
  const auto same = [&](Collective kind, const std::vector<int>& members) {
    return fine.plan(kind, size, members).total == hurt.plan(kind, size, members).total;
  };
  for (const Collective kind : {Collective::all_reduce, Collective::all_gather}) {
    CHECK(!same(kind, range(0, 32)));
    CHECK(!same(kind, {3, 11, 19, 27}));  // its rail
    CHECK(same(kind, {2, 10, 18, 26}));   // another rail
    CHECK(same(kind, range(8, 16)));      // inside its node
    CHECK(same(kind, {3, 19, 27}));       // its rail, without its node
  }
  CHECK(!same(Collective::send, {3, 11}));
  CHECK(same(Collective::send, {3, 12}));
  // A ring at half the rate of one port takes twice as long, for large messages.
  const Bytes large(64LL << 30);
  CHECK(hurt.plan(Collective::all_gather, large, {3, 11, 19, 27}).total.seconds() /
            fine.plan(Collective::all_gather, large, {3, 11, 19, 27}).total.seconds() ==
        doctest::Approx(2).epsilon(0.02));
}

TEST_CASE("a slow NVLink slows its node, also where a measured curve prices the node") {
  const FourNodes fine, hurt({{"gpu10.scale_up", 0.5}});
  const Bytes size(8LL << 30);
  const auto ratio = [&](const std::vector<int>& members) {
    return hurt.plan(Collective::all_reduce, size, members).total.seconds() /
           fine.plan(Collective::all_reduce, size, members).total.seconds();
  };
  CHECK(ratio(range(8, 16)) == doctest::Approx(2).epsilon(0.02));
  CHECK(ratio(range(0, 8)) == 1);
  CHECK(hurt.bandwidth(10, 11).value == doctest::Approx(fine.bandwidth(10, 11).value / 2));
  CHECK(hurt.bandwidth(11, 12) == fine.bandwidth(11, 12));
}
