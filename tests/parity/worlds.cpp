#include "tests/support/worlds.hpp"

#include <bit>
#include <nlohmann/json.hpp>

namespace orrery::detail {

namespace {

nlohmann::json to_json(const WorldResult& result) {
  nlohmann::json j;
  if (result.error) {
    j["error"] = {static_cast<int>(result.error->category()), result.error->message(),
                  result.error->context()};
    return j;
  }
  j["notes"] = nlohmann::json::array();
  for (const RankNotes& notes : result.notes) {
    nlohmann::json bits = nlohmann::json::array(), checkpoints = nlohmann::json::array();
    for (double v : notes.values) bits.push_back(std::bit_cast<std::uint64_t>(v));
    for (const Checkpoint& checkpoint : notes.checkpoints) {
      nlohmann::json fields = nlohmann::json::object();
      for (const auto& [name, bytes] : checkpoint.fields) {
        fields[name] = nlohmann::json::array();
        for (std::byte b : bytes) fields[name].push_back(static_cast<int>(b));
      }
      checkpoints.push_back(fields);
    }
    j["notes"].push_back({bits, checkpoints});
  }
  j["peaks"] = result.peaks;
  j["host_peaks"] = result.host_peaks;
  j["channels"] = result.channels;
  j["steps"] = result.steps;
  j["decisions"] = result.decisions;
  j["end"] = result.end;
  j["trace"] = result.trace;
  return j;
}

WorldResult from_json(const nlohmann::json& j) {
  WorldResult result;
  if (j.contains("error")) {
    Error error(static_cast<Category>(j["error"][0].get<int>()), j["error"][1].get<std::string>());
    for (const auto& entry : j["error"][2])
      error.with(entry[0].get<std::string>(), entry[1].get<std::string>());
    result.error = error;
    return result;
  }
  for (const auto& rank : j["notes"]) {
    RankNotes& notes = result.notes.emplace_back();
    for (const auto& bits : rank[0])
      notes.values.push_back(std::bit_cast<double>(bits.get<std::uint64_t>()));
    for (const auto& fields : rank[1]) {
      Checkpoint& checkpoint = notes.checkpoints.emplace_back();
      for (const auto& [name, bytes] : fields.items())
        for (const auto& b : bytes)
          checkpoint.fields[name].push_back(static_cast<std::byte>(b.get<int>()));
      for (const auto& [name, bytes] : fields.items()) checkpoint.fields[name];
    }
  }
  j["peaks"].get_to(result.peaks);
  j["host_peaks"].get_to(result.host_peaks);
  j["channels"].get_to(result.channels);
  j["steps"].get_to(result.steps);
  j["decisions"].get_to(result.decisions);
  j["end"].get_to(result.end);
  j["trace"].get_to(result.trace);
  return result;
}

}  // namespace

std::string to_text(const WorldResult& result) { return to_json(result).dump(); }
WorldResult from_text(const std::string& text) { return from_json(nlohmann::json::parse(text)); }

}  // namespace orrery::detail
