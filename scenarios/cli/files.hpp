// The files of `--out DIR`, each under a temporary name that is then renamed: an interrupted run
// leaves whole files or none.
#pragma once

#include <string>

#include "scenarios/cli/simulation.hpp"
#include "sim/trace.hpp"

namespace orrery::cli {

// result.json, metrics.csv (a line per step), memory.csv (a line per rank), links.csv (a line per
// link, where they were counted), config.resolved.yaml
// (every field, defaults included) and provenance.json (command, versions, fingerprint). Makes the
// folder. Error{config} when that fails. README.md describes their content.
void write_result_files(const std::string& folder, const Outcome& outcome, const Scenario& scenario,
                        const Arguments& arguments);

// Makes the folder, so that a command learns before its work that it cannot write there.
// Error{config}.
void make_result_folder(const std::string& folder);

// A gzip-compressed trace file. The same trace gives the same bytes: the header carries no time.
class GzipTraceSink : public TraceSink {
 public:
  explicit GzipTraceSink(std::string path);
  ~GzipTraceSink() override;
  GzipTraceSink(const GzipTraceSink&) = delete;
  GzipTraceSink& operator=(const GzipTraceSink&) = delete;
  void write(std::string_view bytes) override;
  void finish() override;

 private:
  std::string path_, temporary_;
  void* file_ = nullptr;  // gzFile
};

}  // namespace orrery::cli
