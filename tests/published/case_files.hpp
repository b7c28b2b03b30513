// Files of measured cases made in a test, and the predictor of the committed tables.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <string>

#include "backend/core/text.hpp"
#include "scenarios/published/prediction.hpp"

namespace orrery {

inline MeasuredFile file_of(const std::string& yaml) {
  char path[] = "/tmp/orrery_cases_XXXXXX.yaml";
  const int descriptor = mkstemps(path, 5);
  close(descriptor);
  write_file_atomically(path, yaml);
  struct Remove {
    const char* path;
    ~Remove() { std::remove(path); }
  } const remove{path};
  return read_measured_file(path);
}

inline const Predictor& predictor() {
  static const Predictor instance{ORRERY_SOURCE_DIR};
  return instance;
}

// Of the only case of a file with this head and these keys.
inline Prediction prediction_of(const std::string& keys, const std::string& head = "") {
  const MeasuredFile file = file_of(head + "cases:\n- {id: a, " + keys + "}\n");
  return predictor().predict(file, file.cases.at(0));
}

}  // namespace orrery
