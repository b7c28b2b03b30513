#include "tests/layering/layering.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>

namespace orrery {

namespace {

// An area is a folder with rules of its own; the longest prefix of a path decides.
struct Area {
  std::string_view folder;
  bool everything = false;
  std::vector<std::string_view> may_include = {};  // besides itself
};

const std::vector<Area> areas{
    {"backend/core"},
    {"backend", false, {"backend/core"}},
    {"backend/host", false, {"backend", "backend/core"}},
    {"backend/cpu", false, {"backend/host", "backend", "backend/core"}},
    {"backend/cuda", false, {"backend/transport", "backend/host", "backend", "backend/core"}},
    {"backend/transport", false, {"backend", "backend/core"}},
    {"platforms", false, {"backend", "backend/core"}},
    {"sim/simgrid", false, {"backend/core"}},
    {"sim", false, {"sim/simgrid", "platforms", "backend", "backend/core"}},
    {"algorithms", false, {"backend", "backend/core"}},
    {"scenarios", false, {"algorithms", "platforms", "backend", "backend/core"}},
    {"scenarios/cli", true},
    {"calibration",
     false,
     {"scenarios", "algorithms", "platforms", "backend", "backend/core", "backend/cpu",
      "backend/cuda", "backend/transport"}},
    {"tests", true},
};

// A library that only some places may include: `places` are prefixes of paths. The tests of a
// folder may use its library.
struct Confined {
  std::string_view name;
  std::vector<std::string_view> headers;  // prefixes of include paths
  std::vector<std::string_view> places;
};

const std::vector<Confined> confined_libraries{
    {"SimGrid",
     {"simgrid/", "xbt/", "xbt.h", "smpi/"},
     {"sim/simgrid/", "tests/simgrid/", "tests/bench/"}},
    {"CUDA",
     {"cuda", "cublas", "cudnn", "cupti", "curand", "cusparse", "cusolver", "nvml", "nvtx",
      "thrust/", "cub/"},
     {"backend/cuda/", "backend/transport/nccl", "tests/cuda/", "tests/gpu/fp8_test",
      "tests/bench/gpu_bench"}},
    {"NCCL", {"nccl"}, {"backend/cuda/", "backend/transport/nccl", "tests/cuda/"}},
    {"MPI", {"mpi.h", "mpi-ext.h"}, {"backend/transport/mpi"}},
    {"Eigen",
     {"Eigen/", "unsupported/Eigen/"},
     {"backend/cpu/", "calibration/", "algorithms/gossip/graph", "tests/cpu/", "tests/bench/"}},
    {"pugixml", {"pugi"}, {"platforms/simgrid_xml", "tests/cli/page_test"}},
    {"yaml-cpp", {"yaml-cpp/"}, {"backend/core/", "tests/core/"}},
};

constexpr std::string_view generated_header = "orrery_paths.hpp";

bool starts_with_any(std::string_view text, const std::vector<std::string_view>& prefixes) {
  return std::ranges::any_of(prefixes,
                             [&](std::string_view prefix) { return text.starts_with(prefix); });
}

const Area* area_of(std::string_view path) {
  const Area* best = nullptr;
  for (const Area& area : areas)
    if (is_below(path, area.folder) &&
        (best == nullptr || area.folder.size() > best->folder.size()))
      best = &area;
  return best;
}

struct Include {
  std::string target;
  bool quoted = false;
  int line = 0;
};

std::optional<Include> parse_include(std::string_view line, int number) {
  const auto skip_blanks = [&] {
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  };
  for (std::string_view word : {"#", "include"}) {
    skip_blanks();
    if (!line.starts_with(word)) return std::nullopt;
    line.remove_prefix(word.size());
  }
  skip_blanks();
  if (line.empty() || (line.front() != '"' && line.front() != '<')) return std::nullopt;
  const bool quoted = line.front() == '"';
  const std::size_t end = line.find(quoted ? '"' : '>', 1);
  if (end == std::string_view::npos) return std::nullopt;
  return Include{std::string(line.substr(1, end - 1)), quoted, number};
}

std::vector<Include> includes_of(const SourceFile& file) {
  std::vector<Include> includes;
  const std::string text = without_comments(file.text);
  int number = 0;
  for (std::string_view line : lines_of(text))
    if (auto include = parse_include(line, ++number)) includes.push_back(*include);
  return includes;
}

class Layering {
 public:
  explicit Layering(const SourceTree& tree) {
    for (const SourceFile& file : tree)
      if (is_cpp(file.path)) includes_[file.path] = includes_of(file);
  }

  std::vector<Offence> check() {
    for (const auto& [path, includes] : includes_) {
      check_areas(path, includes);
      check_libraries(path);
    }
    check_circles();
    return std::move(offences_);
  }

 private:
  using Graph = std::map<std::string, std::set<std::string>>;

  bool is_ours(const std::string& target) const { return includes_.contains(target); }

  void check_areas(const std::string& path, const std::vector<Include>& includes) {
    const Area* from = area_of(path);
    if (from == nullptr) return report(path, 0, "lies in no folder that holds C++");
    for (const Include& include : includes) {
      const auto complain = [&](const std::string& what) {
        report(path, include.line, include.target + ": " + what);
      };
      if (include.target.starts_with("nlohmann/") && is_header(path))
        complain("nlohmann is for source files only");
      if (!is_ours(include.target)) {
        if (include.quoted && include.target != generated_header)
          complain("no such file of ours; paths start at the root");
        continue;
      }
      const Area* to = area_of(include.target);
      if (!include.quoted) complain("our own files are included in quotes");
      if (!is_header(include.target)) complain("only headers are included");
      if (to == nullptr || to == from || from->everything) continue;
      if (std::ranges::find(from->may_include, to->folder) == from->may_include.end())
        complain(std::string(from->folder) + " may not include " + std::string(to->folder));
    }
  }

  // Searches through the headers that `path` includes, so that a header cannot carry a library out
  // of its folder.
  void check_libraries(const std::string& path) {
    for (const Confined& library : confined_libraries) {
      if (starts_with_any(path, library.places)) continue;
      std::set<std::string> seen;
      const std::string through = route_to(library, path, seen);
      if (!through.empty())
        report(path, 0, "includes " + std::string(library.name) + ": " + through);
    }
  }

  // "a.hpp -> b.hpp -> library/header.h", or "" when the library is not reached.
  std::string route_to(const Confined& library, const std::string& path,
                       std::set<std::string>& seen) const {
    if (!seen.insert(path).second) return "";
    for (const Include& include : includes_.at(path)) {
      if (is_ours(include.target)) {
        const std::string rest = route_to(library, include.target, seen);
        if (!rest.empty()) return path + " -> " + rest;
      } else if (starts_with_any(include.target, library.headers)) {
        return path + " -> " + include.target;
      }
    }
    return "";
  }

  void check_circles() {
    Graph files, folders;
    for (const auto& [path, includes] : includes_)
      for (const Include& include : includes) {
        if (!is_ours(include.target)) continue;
        files[path].insert(include.target);
        const Area *from = area_of(path), *to = area_of(include.target);
        if (from != nullptr && to != nullptr && from != to)
          folders[std::string(from->folder)].insert(std::string(to->folder));
      }
    check_circles(files, "files");
    check_circles(folders, "folders");
  }

  void check_circles(const Graph& graph, const std::string& kind) {
    std::set<std::string> done;
    for (const auto& [node, targets] : graph) {
      std::vector<std::string> route;
      find_circle(graph, kind, node, route, done);
    }
  }

  void find_circle(const Graph& graph, const std::string& kind, const std::string& node,
                   std::vector<std::string>& route, std::set<std::string>& done) {
    const auto start = std::ranges::find(route, node);
    if (start != route.end()) {
      std::string text = kind + " include each other in a circle: ";
      for (auto it = start; it != route.end(); ++it) text += *it + " -> ";
      return report(*start, 0, text + node);
    }
    if (done.contains(node) || !graph.contains(node)) return;
    route.push_back(node);
    for (const std::string& target : graph.at(node)) find_circle(graph, kind, target, route, done);
    route.pop_back();
    done.insert(node);
  }

  void report(const std::string& path, int line, const std::string& what) {
    offences_.push_back({path, line, what});
  }

  std::map<std::string, std::vector<Include>> includes_;
  std::vector<Offence> offences_;
};

}  // namespace

std::vector<Offence> check_layering(const SourceTree& tree) { return Layering(tree).check(); }

}  // namespace orrery
