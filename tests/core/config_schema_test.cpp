#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "tests/core/sample_config.hpp"

using namespace orrery;
using namespace orrery::sample;
using Json = nlohmann::json;

namespace {
Json schema() { return Json::parse(json_schema<Scenario>("scenario")); }
}  // namespace

TEST_CASE("the schema is draft 7 and closed to unknown keys") {
  const Json s = schema();
  CHECK(s["$schema"] == "http://json-schema.org/draft-07/schema#");
  CHECK(s["title"] == "scenario");
  CHECK(s["type"] == "object");
  CHECK(s["additionalProperties"] == false);
  CHECK(s["required"] == Json{"model"});
}

TEST_CASE("the schema has every registered key") {
  std::vector<std::string> keys;
  const Json properties = schema()["properties"];
  for (const auto& [key, value] : properties.items()) keys.push_back(key);
  CHECK(keys == std::vector<std::string>{"algorithm", "capacity", "data", "links", "mode", "model",
                                         "peak", "power", "recompute", "sizes", "twin", "work"});
}

TEST_CASE("the schema gives types, ranges, defaults, units and meanings") {
  const Json p = schema()["properties"];
  const Json data = p["data"]["anyOf"][0]["properties"];
  CHECK(data["sequence"] ==
        Json::parse(R"({"type": "integer", "minimum": 1, "description": "tokens per sample"})"));
  CHECK(data["micro_batch"]["maximum"] == 64);
  CHECK(data["micro_batch"]["default"] == 1);
  CHECK(data["scale"] ==
        Json::parse(R"({"type": "number", "exclusiveMinimum": 0, "maximum": 2, "default": 0.5})"));
  CHECK(data["shuffle"] == Json::parse(R"({"type": "boolean", "default": true})"));
  CHECK(data["text"] ==
        Json::parse(R"({"anyOf": [{"type": "string"}, {"type": "null"}], "default": null})"));
  CHECK(p["mode"]["enum"] == Json::parse(R"(["none", "selective", "full"])"));
  CHECK(p["mode"]["default"] == "none");
  CHECK(p["capacity"]["default"] == "80GB");
  CHECK(p["capacity"]["description"] == "memory of a device; a size such as 25GB, at least 1MB");
  CHECK(p["links"]["items"]["anyOf"][0]["properties"]["kind"]["default"] == "nvlink");
  CHECK(p["links"]["items"]["anyOf"][0]["properties"]["latency"]["default"] == "5us");
  CHECK(
      p["sizes"] ==
      Json::parse(
          R"({"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "default": [1, 2]})"));
  CHECK(p["algorithm"]["anyOf"][0]["additionalProperties"] == true);
  CHECK(p["recompute"] == Json::object());
  const std::string pattern = p["peak"]["additionalProperties"]["pattern"];
  CHECK(std::regex_match("19.5TFLOPS", std::regex(pattern)));
  CHECK_FALSE(std::regex_match("19.5", std::regex(pattern)));
}

TEST_CASE("with sources every number may be wrapped and every mapping has a source") {
  const Json s = Json::parse(json_schema<Gpu>("gpu", {.sources = Sources::required}));
  CHECK(s["properties"]["source"]["$ref"] == "#/definitions/source");
  CHECK(s["properties"]["count"]["anyOf"][1]["properties"]["value"]["type"] == "integer");
  CHECK(s["properties"]["peak"]["properties"]["source"]["$ref"] == "#/definitions/source");
  CHECK(s["definitions"]["source"]["required"] == Json{"kind"});
  CHECK_FALSE(s["properties"]["name"].contains("anyOf"));
}

TEST_CASE("the key reference has a row per key") {
  const std::string text = key_reference<Scenario>();
  CHECK(text.find("| `data.sequence` | integer | required | at least 1 | tokens per sample |\n") !=
        std::string::npos);
  CHECK(text.find("| `links[].latency` | a time such as 5us or 2.5ms | `\"5us\"` |  |  |\n") !=
        std::string::npos);
  CHECK(
      text.find(
          "| `peak` | mapping to a compute rate such as 312TFLOPS | `{}` | above 0FLOPS |  |\n") !=
      std::string::npos);
}
