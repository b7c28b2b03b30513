// What tests ask of the errors that a call throws.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <utility>

#include "backend/core/error.hpp"

namespace orrery {

// The Error that `call` throws; the test fails when it throws none.
template <class Call>
Error error_of(Call&& call) {
  try {
    std::forward<Call>(call)();
  } catch (const Error& error) {
    return error;
  }
  FAIL("the call threw no Error");
  return Error(Category::internal, "unreachable");
}

inline bool mentions(const Error& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

// "path/of/this_test.cpp:31", as errors name a call site. Wrap the call and this in one line.
inline std::string site_of(Site site) { return to_string(site); }

}  // namespace orrery
