// The points of a sweep: the product of its axes, and the share of them that is this process's.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace orrery::cli {

// Fields that vary together: in the n-th value of the axis every path has its n-th value.
struct SweepAxis {
  std::vector<std::string> paths;
  std::vector<std::vector<std::string>> values;  // by value, then by path
};

// "parallel.pipeline=1,2,4", or several such with ';' between, which take their values in step.
// Commas within brackets, braces and quotes belong to a value. Error{usage}.
SweepAxis parse_axis(const std::string& text);

// The settings ("path=value") of every point: all combinations, the last axis varying fastest.
// Error{usage} for no axis, a path that two axes set, or more than a million points.
std::vector<std::vector<std::string>> sweep_points(const std::vector<SweepAxis>& axes);

// The process's part of a sweep that several processes share: points with number % of == index.
struct SweepPart {
  std::size_t index = 0, of = 1;
};

// --part I/N (from 1), or what `variable` (getenv) tells: the ranks of an MPI job (Open MPI, MPICH)
// or of a Slurm job step, the tasks of a Slurm array, or both. Error{usage}.
SweepPart sweep_part(const std::string& option, const char* (*variable)(const char*));

}  // namespace orrery::cli
