#include "backend/core/error.hpp"

#include <array>
#include <string_view>

namespace orrery {

namespace {
struct CategoryRow {
  const char* name;
  int exit_code;
};
constexpr std::array<CategoryRow, 14> category_rows{{{"internal", 1},
                                                     {"usage", 2},
                                                     {"config", 3},
                                                     {"out_of_memory", 4},
                                                     {"deadlock", 4},
                                                     {"mismatch", 4},
                                                     {"unordered_access", 4},
                                                     {"livelock", 4},
                                                     {"invalid_program", 4},
                                                     {"rank_lost", 4},
                                                     {"replay", 4},
                                                     {"tolerance", 5},
                                                     {"unavailable", 6},
                                                     {"interrupted", 130}}};
}  // namespace

const char* name(Category category) {
  return category_rows.at(static_cast<std::size_t>(category)).name;
}

int exit_code(Category category) {
  return category_rows.at(static_cast<std::size_t>(category)).exit_code;
}

std::string to_string(Site site) {
  static constexpr std::array<std::string_view, 7> roots{
      "backend/", "sim/", "platforms/", "algorithms/", "tests/", "calibration/", "scenarios/"};
  std::string_view file = site.file;
  std::size_t start = std::string_view::npos;
  for (std::string_view root : roots) {
    const std::size_t at = file.rfind(root);
    if (at != std::string_view::npos && (at == 0 || file[at - 1] == '/') &&
        (start == std::string_view::npos || at < start))
      start = at;
  }
  if (start != std::string_view::npos) file.remove_prefix(start);
  return std::string(file) + ":" + std::to_string(site.line);
}

Error& Error::with(std::string key, std::string value) {
  context_.emplace_back(std::move(key), std::move(value));
  return *this;
}

std::string Error::context(const std::string& key) const {
  for (const auto& [k, v] : context_)
    if (k == key) return v;
  return "";
}

const char* Error::what() const noexcept {
  what_ = message_;
  for (const auto& [key, value] : context_) what_ += "\n  " + key + ": " + value;
  return what_.c_str();
}

void assertion_failed(const char* condition, const char* why, Site site) {
  throw Error(Category::internal, std::string("assertion failed: ") + why)
      .with("condition", condition)
      .with("site", to_string(site));
}

}  // namespace orrery
