// Tokens that are gathered in fp8: where a scenario may ask for them, and how it is refused.
#include <doctest/doctest.h>

#include "scenarios/scenario.hpp"
#include "tests/scenarios/root.hpp"

using namespace orrery;

namespace {

using Texts = std::vector<std::string>;

Texts refusals(const std::string& model, const std::string& parallel, const std::string& products,
               const std::string& sequence = "sequence: 1024, ") {
  const Document document =
      Document::parse_text("model: " + model + "\ndata: {" + sequence +
                               "global_batch: 8}\nparallel: {sequence_gather: fp8, " + parallel +
                               "}\nprecision: {products: " + products +
                               "}\nplatform: {cluster: two-dgx-h100, gpus: 8}\n",
                           "s.yaml");
  try {
    read_scenario(document, root);
  } catch (const ConfigError& e) {
    Texts all;
    for (const ConfigMessage& m : e.messages) all.push_back(m.text);
    return all;
  }
  return {};
}

}  // namespace

TEST_CASE(
    "tokens are gathered in fp8 under sequence parallelism, for fp8 with a scale per tensor") {
  const std::string divided = "tensor: 8, sequence_parallel: true",
                    only = "tokens are gathered where sequence parallelism divides them, only",
                    scale = "one scale for all tokens is that of products in fp8-tensor";
  CHECK(refusals("llama-3-8b", divided, "fp8-tensor") == Texts{});
  CHECK(refusals("llama-3-8b", divided, "fp8-block") == Texts{scale});
  CHECK(refusals("llama-3-8b", "tensor: 8", "as-stored") == Texts{only, scale});
  CHECK(refusals("mixtral-8x7b", divided, "fp8-tensor") ==
        Texts{"not available yet: tokens in fp8 for experts"});
  CHECK(refusals("mlp-bytes", "pipeline: 1", "as-stored", "") ==
        Texts{"not available yet: tokens of mlp-bytes in fp8"});
}
