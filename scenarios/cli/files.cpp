#include "scenarios/cli/files.hpp"

#include <fmt/core.h>
#include <unistd.h>
#include <zlib.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "backend/core/text.hpp"
#include "scenarios/cli/interrupt.hpp"
#include "scenarios/cli/version.hpp"

namespace orrery::cli {

namespace {

std::string memory_csv(const RunReport& report) {
  std::string out = "rank,peak_bytes";
  for (int i = 0; i < label_count; ++i) out += std::string(",") + name(static_cast<Label>(i));
  out += "\n";
  for (std::size_t rank = 0; rank < report.ranks.size(); ++rank) {
    out += fmt::format("{},{}", rank, report.ranks[rank].peak.value);
    for (const Bytes& held : report.ranks[rank].peak_by_label)
      out += fmt::format(",{}", held.value);
    out += "\n";
  }
  return out;
}

// Quoted where it holds what ends a field.
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string links_csv(const std::vector<LinkUse>& links) {
  std::string out = "link,tier,bandwidth_bytes_per_s,bytes,utilisation\n";
  for (const LinkUse& link : links)
    out += fmt::format("{},{},{},{},{}\n", csv_field(link.name), link.tier, link.bandwidth,
                       link.bytes, link.share);
  return out;
}

std::string provenance(const Outcome& outcome, const Scenario& scenario,
                       const Arguments& arguments) {
  nlohmann::ordered_json j;
  j["schema"] = "orrery.provenance/1";
  j["command"] = arguments.command;
  j["scenario_file"] = scenario.file;
  j["set"] = arguments.set;
  j["seed"] = scenario.run.seed;
  j["world"] = outcome.result.input.world;
  j["version"] = version();
  j["build"] = build();
  j["fingerprint"] = nlohmann::json::parse(to_json(outcome.result))["fingerprint"];
  return j.dump(2) + "\n";
}

}  // namespace

void make_result_folder(const std::string& folder) {
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure)
    throw Error(Category::config, "cannot make the folder for results: " + failure.message())
        .with("folder", folder);
  if (access(folder.c_str(), W_OK) != 0)
    throw Error(Category::config, "cannot write to the folder for results").with("folder", folder);
}

void write_result_files(const std::string& folder, const Outcome& outcome, const Scenario& scenario,
                        const Arguments& arguments) {
  make_result_folder(folder);
  const auto file = [&](const char* base) {
    return (std::filesystem::path(folder) / base).string();
  };
  write_file_atomically(file("result.json"), to_json(outcome.result));
  write_file_atomically(file("metrics.csv"), metrics_csv(outcome.report, outcome.result));
  write_file_atomically(file("memory.csv"), memory_csv(outcome.report));
  if (const auto& links = outcome.result.input.link_use; !links.empty())
    write_file_atomically(file("links.csv"), links_csv(links));
  write_file_atomically(file("config.resolved.yaml"), resolved_yaml(scenario));
  write_file_atomically(file("provenance.json"), provenance(outcome, scenario, arguments));
}

GzipTraceSink::GzipTraceSink(std::string path)
    : path_(std::move(path)), temporary_(path_ + ".part" + std::to_string(getpid())) {
  make_result_folder(std::filesystem::absolute(path_).parent_path().string());
  remove_on_interrupt(temporary_);
  file_ = gzopen(temporary_.c_str(), "wb6");
  if (file_ != nullptr) return;
  remove_on_interrupt("");
  throw Error(Category::config, "cannot write the trace").with("file", path_);
}

GzipTraceSink::~GzipTraceSink() {
  if (file_ == nullptr) return;
  gzclose(static_cast<gzFile>(file_));
  std::remove(temporary_.c_str());
  remove_on_interrupt("");
}

void GzipTraceSink::write(std::string_view bytes) {
  if (bytes.empty()) return;
  if (gzwrite(static_cast<gzFile>(file_), bytes.data(), static_cast<unsigned>(bytes.size())) == 0)
    throw Error(Category::config, "cannot write the trace").with("file", path_);
}

void GzipTraceSink::finish() {
  const InterruptGuard guard;
  const int closed = gzclose(static_cast<gzFile>(file_));
  file_ = nullptr;
  remove_on_interrupt("");
  if (closed != Z_OK || std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    std::remove(temporary_.c_str());
    throw Error(Category::config, "cannot write the trace").with("file", path_);
  }
}

}  // namespace orrery::cli
