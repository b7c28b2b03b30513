#include "algorithms/gossip/graph.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numbers>

#include "tests/support/errors.hpp"

using namespace orrery;

namespace {

// A file in a folder of its own, gone at the end.
class GraphFile {
 public:
  explicit GraphFile(const std::string& text) {
    std::string name = (std::filesystem::temp_directory_path() / "graph-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    std::ofstream(path()) << text;
  }
  ~GraphFile() { std::filesystem::remove_all(folder_); }
  std::string path() const { return (folder_ / "graph.txt").string(); }

 private:
  std::filesystem::path folder_;
};

std::string as_file(const Graph& graph) {
  std::string text = "# edges\n";
  for (const auto& [i, j] : graph.edges())
    text += std::to_string(j) + " " + std::to_string(i) + "\n";
  return text;
}

}  // namespace

TEST_CASE("a ring of n has chi1 = 1 / (1 - cos 2 pi / n) and chi2 = (n - 1) / n") {
  for (const int n : {3, 8, 16, 32, 64, 4096}) {
    const Graph ring("ring", n);
    CHECK(ring.edges().size() == static_cast<std::size_t>(n));
    const double sine = std::sin(std::numbers::pi / n);
    CHECK(ring.connectivity().chi1 == doctest::Approx(1 / (2 * sine * sine)).epsilon(1e-9));
    CHECK(ring.connectivity().chi2 == doctest::Approx((n - 1.0) / n).epsilon(1e-6));
  }
  CHECK(Graph("ring", 8).connectivity().chi1 == doctest::Approx(3.41).epsilon(0.002));
  CHECK(Graph("ring", 16).connectivity().chi1 == doctest::Approx(13.1).epsilon(0.005));
  CHECK(Graph("ring", 64).connectivity().chi1 == doctest::Approx(207.7).epsilon(0.001));
}

TEST_CASE("a complete graph of n has chi1 = chi2 = (n - 1) / n") {
  const Graph complete("complete", 16);
  CHECK(complete.edges().size() == 120);
  CHECK(complete.connectivity().chi1 == doctest::Approx(15.0 / 16).epsilon(1e-9));
  CHECK(complete.connectivity().chi2 == doctest::Approx(15.0 / 16).epsilon(1e-9));
}

TEST_CASE("graphs by their waves are graphs by their eigenvalues") {
  for (const char* const name : {"ring", "exponential", "torus", "complete"})
    for (const int n : {2, 3, 4, 7, 12, 16, 30}) {
      CAPTURE(name);
      CAPTURE(n);
      const Graph by_waves(name, n);
      const GraphFile file(as_file(by_waves));
      const Graph by_eigenvalues(file.path(), n);
      CHECK(by_eigenvalues.edges().size() == by_waves.edges().size());
      CHECK(by_waves.connectivity().chi1 ==
            doctest::Approx(by_eigenvalues.connectivity().chi1).epsilon(1e-9));
      CHECK(by_waves.connectivity().chi2 ==
            doctest::Approx(by_eigenvalues.connectivity().chi2).epsilon(1e-9));
      CHECK(by_waves.connectivity().chi2 <= by_waves.connectivity().chi1 * (1 + 1e-9));
    }
}

// The star's centre is in every averaging: lambda = n / (2 (n - 1)), eigenvalues lambda and n
// lambda, resistance 1 / lambda over each edge.
TEST_CASE("a star's constants are those of its Laplacian") {
  const GraphFile star("0 1\n0 2\n\n0 3 # the last\n0 4\n");
  const Graph graph(star.path(), 5);
  CHECK(graph.connectivity().chi1 == doctest::Approx(8.0 / 5).epsilon(1e-9));
  CHECK(graph.connectivity().chi2 == doctest::Approx(4.0 / 5).epsilon(1e-9));
  CHECK(graph.neighbours(0).size() == 4);
  CHECK(graph.neighbours(3) == std::vector<int>{0});
}

TEST_CASE("graphs have the neighbours of their names") {
  const auto degree = [](const char* name, int n) { return Graph(name, n).neighbours(0).size(); };
  CHECK(degree("ring", 1) == 0);
  CHECK(degree("ring", 2) == 1);
  CHECK(degree("ring", 5) == 2);
  CHECK(degree("exponential", 16) == 7);  // +-1, +-2, +-4, and 8 once
  CHECK(degree("torus", 16) == 4);
  CHECK(degree("torus", 7) == 2);
  CHECK(degree("torus", 6) == 3);
  CHECK(degree("complete", 9) == 8);
}

TEST_CASE("a graph that is none is an error that says where") {
  const auto line_of = [](const std::string& text) {
    const GraphFile file(text);
    return error_of([&] { Graph(file.path(), 4); }).context("line");
  };
  CHECK(line_of("0 1\n1 2\n0 x\n") == "3");
  CHECK(line_of("0 1\n1 2\n0 3 4\n") == "3");
  CHECK(line_of("0 4\n") == "1");
  CHECK(line_of("2 2\n") == "1");
  const GraphFile parts("0 1\n2 3\n");
  CHECK(mentions(error_of([&] { Graph(parts.path(), 4); }), "to worker 2"));
  CHECK(mentions(error_of([] { Graph("rng", 4); }), "'rng' is none of ring, "));
}
