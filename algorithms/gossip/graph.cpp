#include "algorithms/gossip/graph.hpp"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numbers>
#include <queue>
#include <set>
#include <sstream>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"

namespace orrery {

namespace {

using Shifts = std::vector<std::pair<int, int>>;

Error no_graph(const std::string& why) { return Error(Category::config, why); }

// Of rows x columns workers, numbered row by row, without those that lead back or twice to one.
Shifts distinct(const Shifts& all, int rows, int columns) {
  std::set<std::pair<int, int>> there;
  for (const auto& [down, right] : all) {
    const std::pair shift{(down % rows + rows) % rows, (right % columns + columns) % columns};
    if (shift != std::pair{0, 0}) there.insert(shift);
  }
  return {there.begin(), there.end()};
}

int rows_of_torus(int workers) {
  int rows = static_cast<int>(std::sqrt(workers));
  while (workers % rows != 0) --rows;
  return rows;
}

Shifts shifts_of(const std::string& name, int rows, int columns) {
  Shifts shifts;
  if (name == "ring") shifts = {{0, 1}, {0, -1}};
  if (name == "torus") shifts = {{0, 1}, {0, -1}, {1, 0}, {-1, 0}};
  if (name == "complete")
    for (int right = 1; right < columns; ++right) shifts.emplace_back(0, right);
  if (name == "exponential")
    for (int right = 1; right < columns; right *= 2)
      shifts.insert(shifts.end(), {{0, right}, {0, -right}});
  return distinct(shifts, rows, columns);
}

}  // namespace

std::vector<std::pair<int, int>> read_edges(const std::string& path, int workers, bool directed) {
  std::istringstream lines(read_file(path));
  std::string line;
  std::vector<std::pair<int, int>> edges;
  std::set<std::pair<int, int>> seen;
  for (int number = 1; std::getline(lines, line); ++number) {
    std::istringstream words(line.substr(0, line.find('#')));
    int i = 0, j = 0;
    if ((words >> std::ws).eof()) continue;
    const auto bad = [&](const std::string& why) {
      return no_graph("graph: " + why).with("file", path).with("line", std::to_string(number));
    };
    if (!(words >> i >> j) || !(words >> std::ws).eof()) throw bad("expected an edge 'i j'");
    if (i == j || std::min(i, j) < 0 || std::max(i, j) >= workers)
      throw bad("expected two different workers of 0 to " + std::to_string(workers - 1));
    const std::pair edge = directed ? std::pair{i, j} : std::pair{std::min(i, j), std::max(i, j)};
    if (seen.insert(edge).second) edges.push_back(edge);
  }
  return edges;
}

const std::vector<std::string>& graph_names() {
  static const std::vector<std::string> all{"ring", "exponential", "torus", "complete"};
  return all;
}

void check_graph_name(const std::string& graph, const std::vector<std::string>& names,
                      const SectionProblems& problems) {
  if (std::ranges::find(names, graph) == names.end() && !std::filesystem::exists(graph))
    problems.add("graph", "'" + graph + "' is none of " + join(names, ", ") + ", and no file",
                 did_you_mean(graph, names));
}

Graph::Graph(const std::string& name, int workers)
    : neighbours_(static_cast<std::size_t>(workers)) {
  if (workers < 1) throw no_graph("a graph needs a worker");
  if (workers == 1) return;
  const std::vector<std::string>& names = graph_names();
  if (std::ranges::find(names, name) != names.end()) {
    const int rows = name == "torus" ? rows_of_torus(workers) : 1;
    add_shifts(rows, shifts_of(name, rows, workers / rows));
  } else if (std::filesystem::exists(name)) {
    read_file(name);
  } else {
    throw no_graph("graph '" + name + "' is none of " + join(names, ", ") +
                   ", and there is no such file");
  }
}

void Graph::add_edge(int i, int j) {
  neighbours_[static_cast<std::size_t>(i)].push_back(j);
  neighbours_[static_cast<std::size_t>(j)].push_back(i);
  edges_.emplace_back(std::min(i, j), std::max(i, j));
}

void Graph::add_shifts(int rows, const Shifts& shifts) {
  const int columns = workers() / rows;
  for (int i = 0; i < workers(); ++i)
    for (const auto& [down, right] : shifts) {
      const int j = (i / columns + down) % rows * columns + (i % columns + right) % columns;
      if (i < j) add_edge(i, j);
    }
  by_shifts(rows, shifts);
}

// The graph looks the same from every worker, so the eigenvectors of its Laplacian are waves:
//   lambda(a, b) = 1 / |shifts| sum over shifts (d, r) of 1 - cos 2 pi (a d / rows + b r / columns)
// and the resistance of shift s is 1/n sum over waves of 2 (1 - cos(phase of s)) / lambda. This
// takes n |shifts| steps where eigenvalues of a matrix would take n^3.
void Graph::by_shifts(int rows, const Shifts& shifts) {
  const int n = workers(), columns = n / rows;
  std::vector<double> versed(static_cast<std::size_t>(n));  // 1 - cos(2 pi k / n)
  for (int k = 0; k < n; ++k) {
    const double sine = std::sin(std::numbers::pi * k / n);
    versed[static_cast<std::size_t>(k)] = 2 * sine * sine;
  }
  const auto of = [&](int a, int b, const std::pair<int, int>& shift) {
    const std::int64_t turns =
        std::int64_t{a} * shift.first * columns + std::int64_t{b} * shift.second * rows;  // n-ths
    return versed[static_cast<std::size_t>(turns % n)];
  };
  double slowest = std::numeric_limits<double>::max();
  std::vector<double> resistance(shifts.size());
  for (int wave = 1; wave < n; ++wave) {
    const int a = wave / columns, b = wave % columns;
    double lambda = 0;
    for (const auto& shift : shifts) lambda += of(a, b, shift);
    lambda /= static_cast<double>(shifts.size());
    slowest = std::min(slowest, lambda);
    for (std::size_t s = 0; s < shifts.size(); ++s)
      resistance[s] += 2 * of(a, b, shifts[s]) / lambda / n;
  }
  connectivity_ = {1 / slowest, 0.5 * *std::max_element(resistance.begin(), resistance.end())};
}

std::vector<bool> Graph::reached_from(int worker, const std::vector<bool>& there) const {
  std::vector<bool> reached(neighbours_.size());
  std::queue<int> to_visit({worker});
  reached[static_cast<std::size_t>(worker)] = true;
  while (!to_visit.empty()) {
    for (const int next : neighbours(to_visit.front())) {
      const auto at = static_cast<std::size_t>(next);
      if (reached[at] || !there[at]) continue;
      reached[at] = true;
      to_visit.push(next);
    }
    to_visit.pop();
  }
  return reached;
}

void Graph::read_file(const std::string& path) {
  for (const auto& [i, j] : read_edges(path, workers(), false)) add_edge(i, j);
  const std::vector<bool> reached = reached_from(0, std::vector<bool>(neighbours_.size(), true));
  const auto missing = std::find(reached.begin(), reached.end(), false);
  if (missing != reached.end())
    throw no_graph("graph: no path leads from worker 0 to worker " +
                   std::to_string(missing - reached.begin()))
        .with("file", path);
  by_eigenvalues(path);
}

void Graph::by_eigenvalues(const std::string& path) {
  constexpr int most = 2048;  // n^3: half a minute
  const int n = workers();
  if (n > most)
    throw no_graph("graph: at most " + std::to_string(most) + " workers with a graph of a file")
        .with("file", path);
  Eigen::MatrixXd laplacian = Eigen::MatrixXd::Zero(n, n);
  const double lambda = n / (2.0 * static_cast<double>(edges_.size()));
  for (const auto& [i, j] : edges_) {
    laplacian(i, i) += lambda;
    laplacian(j, j) += lambda;
    laplacian(i, j) -= lambda;
    laplacian(j, i) -= lambda;
  }
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(laplacian);
  const auto& values = solver.eigenvalues();
  const auto& vectors = solver.eigenvectors();
  double largest = 0;
  for (const auto& [i, j] : edges_) {
    double resistance = 0;
    for (int k = 1; k < n; ++k) {
      const double difference = vectors(i, k) - vectors(j, k);
      resistance += difference * difference / values(k);
    }
    largest = std::max(largest, resistance);
  }
  connectivity_ = {1 / values(1), 0.5 * largest};
}

}  // namespace orrery
