// Networks for learned optimizers, of random weights, in files.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "backend/core/philox.hpp"

namespace orrery {

// Deleted at the end.
class WeightsFile {
 public:
  explicit WeightsFile(const std::string& text)
      : path_(std::filesystem::temp_directory_path() /
              fmt::format("orrery-weights-{}-{}.yaml", getpid(), count_++)) {
    std::ofstream(path_) << text;
  }
  ~WeightsFile() { std::filesystem::remove(path_); }
  WeightsFile(const WeightsFile&) = delete;
  WeightsFile& operator=(const WeightsFile&) = delete;
  std::string path() const { return path_.string(); }

 private:
  static inline int count_ = 0;
  std::filesystem::path path_;
};

inline std::string layer(std::size_t inputs, std::size_t outputs, std::uint32_t seed, double size) {
  std::string rows;
  const Philox random(seed, Purpose::user, 0);
  for (std::size_t i = 0; i < inputs; ++i) {
    std::string row;
    for (std::size_t o = 0; o < outputs; ++o)
      row += fmt::format("{}{:.6f}", o == 0 ? "" : ", ", size * random.normal(i * outputs + o));
    rows += fmt::format("{}[{}]", i == 0 ? "" : ", ", row);
  }
  std::string biases;
  for (std::size_t o = 0; o < outputs; ++o) biases += o == 0 ? "0.01" : ", 0.02";
  return "  - {weights: [" + rows + "], biases: [" + biases + "]}\n";
}

// Of any kind, with a step large enough to be seen.
inline std::string random_network(std::size_t of_workers) {
  return fmt::format("workers: {}\nstep: 0.1\nlayers:\n", of_workers) +
         layer(of_workers + 38, 8, 1, 0.3) + layer(8, 8, 2, 0.5) + layer(8, 2, 3, 0.5);
}

}  // namespace orrery
