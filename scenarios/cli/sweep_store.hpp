// The results of a sweep, in SQLite: each is whole on disk as soon as its point has ended.
//
// Processes that share a sweep write a file each (`part-I-of-N.sqlite`, I from 1) into one folder,
// so that no two write to one; whoever looks sees the files of all. A point is known by its key, a
// digest of everything that decides its result, so a folder may gather several sweeps, and a point
// that is asked for again is there already.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "scenarios/cli/sweep_points.hpp"

namespace orrery::cli {

struct StoredPoint {
  int exit_code = 0;  // that `simulate` would have ended with
  std::string json;   // the result, or the error object
};

class SweepStore {
 public:
  // Opens or creates the part's file in the folder, which is made where it is missing.
  // Error{config} when that fails, or for a file that is no such database.
  SweepStore(const std::string& folder, const SweepPart& part);
  ~SweepStore();
  SweepStore(const SweepStore&) = delete;
  SweepStore& operator=(const SweepStore&) = delete;

  // When it returns, the point is on disk.
  void add(const std::string& key, const StoredPoint& point);
  // Of all parts, by key.
  std::map<std::string, StoredPoint> all() const;

 private:
  class Database;
  std::string folder_;
  std::unique_ptr<Database> own_;
};

}  // namespace orrery::cli
