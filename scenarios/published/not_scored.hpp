// Why a measured case gets no prediction: one sentence for the scoreboard.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace orrery {

struct NotScored : std::exception {
  explicit NotScored(std::string why) : reason(std::move(why)) {}
  const char* what() const noexcept override { return reason.c_str(); }

  std::string reason;
};

// The same from an error of a reader: all that it refuses, without places. "not available yet:
// tensor parallelism, sequence parallelism; no text 'x'".
std::string one_sentence(const std::exception& error);

}  // namespace orrery
