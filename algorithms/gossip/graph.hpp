// Who may average with whom, and how fast averages spread over it.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/core/config.hpp"

namespace orrery {

// The edges "i j" of a file, one a line, '#' before remarks, each once; `directed`: j i is another
// than i j. Error{config} with file and line for one that is none between two of the workers.
std::vector<std::pair<int, int>> read_edges(const std::string& path, int workers, bool directed);

// The names that Graph knows.
const std::vector<std::string>& graph_names();

// Adds a problem of `graph` where it is none of `names` and no file, with the nearest name.
void check_graph_name(const std::string& graph, const std::vector<std::string>& names,
                      const SectionProblems& problems);

// An undirected graph over workers 0 … n-1, connected; without edges for one worker.
class Graph {
 public:
  // ring; exponential (i and i +- 2^k mod n); complete; torus (rows x columns of wrapped
  // neighbours, as near to a square as n allows); or the path of a file with one edge "i j" a line,
  // '#' before remarks. Error{config} for a file that cannot be read (file and line), or a graph
  // that is not connected.
  Graph(const std::string& name, int workers);

  int workers() const { return static_cast<int>(neighbours_.size()); }
  const std::vector<int>& neighbours(int worker) const {
    return neighbours_[static_cast<std::size_t>(worker)];
  }
  const std::vector<std::pair<int, int>>& edges() const { return edges_; }  // (i, j), i < j
  // The workers that paths lead to from this one, over those only that are there.
  std::vector<bool> reached_from(int worker, const std::vector<bool>& there) const;

  // Of the Laplacian Lambda = sum over edges of lambda (e_i - e_j)(e_i - e_j)^T, all edges being
  // used equally often and a worker once per unit of time on average: lambda = n / (2 |E|).
  //   chi1 = 1 / lambda_2(Lambda)                                inverse algebraic connectivity
  //   chi2 = 1/2 max over edges of (e_i - e_j)^T Lambda^+ (e_i - e_j)     effective resistance
  // Both are 0 for one worker; at k averagings per unit of time they are k times smaller.
  // (Nabli, Belilovsky and Oyallon 2023, arXiv 2306.08289, section 3.)
  struct Connectivity {
    double chi1 = 0, chi2 = 0;
  };
  const Connectivity& connectivity() const { return connectivity_; }

 private:
  void add_shifts(int rows, const std::vector<std::pair<int, int>>& shifts);
  void read_file(const std::string& path);
  void add_edge(int i, int j);
  void by_shifts(int rows, const std::vector<std::pair<int, int>>& shifts);
  void by_eigenvalues(const std::string& path);

  std::vector<std::vector<int>> neighbours_;
  std::vector<std::pair<int, int>> edges_;
  Connectivity connectivity_;
};

}  // namespace orrery
