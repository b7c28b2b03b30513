#include "scenarios/cli/sweep_points.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"

namespace orrery::cli {

namespace {

constexpr std::size_t most_points = 1'000'000;

// At separators that stand outside of brackets, braces and quotes.
std::vector<std::string> split_outside(const std::string& text, char separator) {
  std::vector<std::string> pieces{""};
  int depth = 0;
  char quote = '\0';
  for (const char c : text) {
    if (quote != '\0') {
      if (c == quote) quote = '\0';
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ']' || c == '}') {
      --depth;
    }
    if (c == separator && depth == 0 && quote == '\0')
      pieces.emplace_back();
    else
      pieces.back() += c;
  }
  for (std::string& piece : pieces) piece = trim(piece);
  return pieces;
}

Error usage(const std::string& text) { return Error(Category::usage, text); }

std::optional<std::size_t> number(const std::string& text) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Which of how many, from the first pair of variables of which both are numbers.
struct Pair {
  const char *index, *count, *first;  // `first`: the number of the first, where that is not 0
};
std::optional<SweepPart> told_by(const std::vector<Pair>& pairs,
                                 const char* (*variable)(const char*)) {
  const auto value = [&](const char* name) -> std::optional<std::size_t> {
    const char* text = name == nullptr ? nullptr : variable(name);
    return text == nullptr ? std::nullopt : number(text);
  };
  for (const Pair& pair : pairs) {
    const auto index = value(pair.index), count = value(pair.count);
    const std::size_t first = value(pair.first).value_or(0);
    if (index && count && *index >= first && *index - first < *count)
      return SweepPart{*index - first, *count};
  }
  return std::nullopt;
}

}  // namespace

SweepAxis parse_axis(const std::string& text) {
  SweepAxis axis;
  for (const std::string& assignment : split_outside(text, ';')) {
    const std::size_t equals = assignment.find('=');
    const std::string path(trim(assignment.substr(0, equals)));
    if (equals == std::string::npos || path.empty())
      throw usage(fmt::format(
          "--over takes PATH=VALUE,VALUE,… such as parallel.pipeline=1,2,4, not '{}'", text));
    const std::vector<std::string> values = split_outside(assignment.substr(equals + 1), ',');
    if (std::find(values.begin(), values.end(), "") != values.end())
      throw usage(fmt::format("--over {}: a value is missing", assignment));
    if (axis.paths.empty()) axis.values.resize(values.size());
    if (values.size() != axis.values.size())
      throw usage(fmt::format("--over {}: {} has {} values, {} has {}; they vary together", text,
                              axis.paths.front(), axis.values.size(), path, values.size()));
    axis.paths.push_back(path);
    for (std::size_t i = 0; i < values.size(); ++i) axis.values[i].push_back(values[i]);
  }
  return axis;
}

std::vector<std::vector<std::string>> sweep_points(const std::vector<SweepAxis>& axes) {
  if (axes.empty()) throw usage("a sweep needs at least one --over PATH=VALUE,VALUE,…");
  std::set<std::string> paths;
  std::size_t count = 1;
  for (const SweepAxis& axis : axes) {
    for (const std::string& path : axis.paths)
      if (!paths.insert(path).second) throw usage(fmt::format("--over sets {} twice", path));
    count *= axis.values.size();
    if (count > most_points) throw usage(fmt::format("a sweep has at most {} points", most_points));
  }
  std::vector<std::vector<std::string>> points(count);
  for (std::size_t number = 0; number < count; ++number) {
    std::size_t stride = count;
    for (const SweepAxis& axis : axes) {
      stride /= axis.values.size();
      const std::vector<std::string>& values = axis.values[number / stride % axis.values.size()];
      for (std::size_t i = 0; i < axis.paths.size(); ++i)
        points[number].push_back(axis.paths[i] + "=" + values[i]);
    }
  }
  return points;
}

SweepPart sweep_part(const std::string& option, const char* (*variable)(const char*)) {
  if (!option.empty()) {
    const std::size_t slash = option.find('/');
    const std::size_t index = number(option.substr(0, slash)).value_or(0);
    const std::size_t of =
        number(slash == std::string::npos ? "" : option.substr(slash + 1)).value_or(0);
    if (index < 1 || index > of)
      throw usage(fmt::format("--part takes I/N with I from 1 to N, not '{}'", option));
    return {index - 1, of};
  }
  const SweepPart task =
      told_by({{"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"}}, variable)
          .value_or(SweepPart{});
  const SweepPart rank = told_by({{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", nullptr},
                                  {"PMI_RANK", "PMI_SIZE", nullptr},
                                  {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", nullptr}},
                                 variable)
                             .value_or(SweepPart{});
  return {task.index * rank.of + rank.index, task.of * rank.of};
}

}  // namespace orrery::cli
