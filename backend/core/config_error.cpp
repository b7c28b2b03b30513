#include "backend/core/config_error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "backend/core/document.hpp"
#include "backend/core/text.hpp"

namespace orrery {

namespace {

// The part of a long line around the marked characters, and where they start in it.
struct Window {
  std::string text;
  std::size_t before;  // code points ahead of the mark
  std::size_t marked;  // code points to underline
};

Window window_of(const ConfigMessage& message) {
  constexpr std::size_t widest = 120, lead = 40;
  std::vector<std::string> letters;
  for (std::size_t at = 0; at < message.excerpt.size();) {
    std::size_t end = at + 1;
    while (end < message.excerpt.size() &&
           (static_cast<unsigned char>(message.excerpt[end]) & 0xC0) == 0x80)
      ++end;
    letters.push_back(message.excerpt.substr(at, end - at));
    if (letters.back() == "\t") letters.back() = " ";
    at = end;
  }
  const std::size_t start =
      std::min(static_cast<std::size_t>(std::max(message.column - 1, 0)), letters.size());
  const std::size_t length = static_cast<std::size_t>(std::max(message.length, 1));
  const bool cut = letters.size() > widest;
  const std::size_t first = cut && start > lead ? start - lead : 0;
  const std::size_t last = cut ? std::min(letters.size(), first + widest) : letters.size();
  Window out;
  if (first > 0) out.text += "...";
  for (std::size_t i = first; i < last; ++i) out.text += letters[i];
  if (last < letters.size()) out.text += "...";
  out.before = start - first + (first > 0 ? 3 : 0);
  out.marked = std::max<std::size_t>(1, std::min(length, last - std::min(last, start)));
  return out;
}

std::string render_all(const std::vector<ConfigMessage>& messages) {
  std::vector<std::string> blocks;
  for (const ConfigMessage& message : messages) blocks.push_back(render(message));
  std::string text = join(blocks, "\n");
  if (!text.empty()) text.pop_back();  // what() adds line ends as it needs
  return text;
}

}  // namespace

ConfigMessage message_at(const Mark& at, std::string text, std::string suggestion) {
  ConfigMessage message;
  message.text = std::move(text);
  message.suggestion = std::move(suggestion);
  if (at.source) message.file = at.source->name;
  if (!at) return message;
  message.line = at.line;
  message.column = at.column;
  message.length = at.length;
  if (at.source) message.excerpt = std::string(at.source->line(at.line));
  return message;
}

std::string render(const ConfigMessage& m) {
  std::string out = fmt::format("error[config]: {}\n", m.text);
  if (m.line == 0) {
    if (!m.file.empty()) out += fmt::format("  --> {}\n", m.file);
    if (!m.suggestion.empty()) out += fmt::format("  {}\n", m.suggestion);
    return out;
  }
  const std::string number = std::to_string(m.line);
  const std::string margin(number.size(), ' ');
  const Window window = window_of(m);
  const std::string hint = m.suggestion.empty() ? "" : " " + m.suggestion;
  out += fmt::format("{}--> {}:{}:{}\n", margin, m.file, m.line, m.column);
  out += fmt::format("{} |\n", margin);
  out += window.text.empty() ? fmt::format("{} |\n", number)
                             : fmt::format("{} | {}\n", number, window.text);
  out += fmt::format("{} | {}{}{}\n", margin, std::string(window.before, ' '),
                     std::string(window.marked, '^'), hint);
  return out;
}

ConfigError::ConfigError(std::vector<ConfigMessage> all)
    : Error(Category::config, render_all(all)), messages(std::move(all)) {}

Problems::Problems(const Document& document) { attach(document); }

void Problems::attach(const Document& document) {
  const auto& known = document.problems();
  messages_.insert(messages_.end(), known.begin(), known.end());
  root_ = std::make_shared<Node>(document.root());
}

void Problems::add(const Mark& at, std::string text, std::string suggestion) {
  messages_.push_back(message_at(at, std::move(text), std::move(suggestion)));
}

void Problems::add(std::string_view path, std::string text, std::string suggestion) {
  const Mark nowhere;
  add(root_ ? find_nearest(*root_, path)->where() : nowhere, std::move(text),
      std::move(suggestion));
}

void Problems::merge(const Problems& other) {
  messages_.insert(messages_.end(), other.messages_.begin(), other.messages_.end());
}

std::vector<ConfigMessage> Problems::sorted() const {
  std::map<std::string, std::size_t> files;
  for (const ConfigMessage& m : messages_) files.emplace(m.file, files.size());
  files["--set"] = files.size();  // settings come last, as they do for the user
  std::vector<ConfigMessage> out = messages_;
  std::stable_sort(out.begin(), out.end(), [&](const ConfigMessage& a, const ConfigMessage& b) {
    return std::tuple(files[a.file], a.line, a.column) <
           std::tuple(files[b.file], b.line, b.column);
  });
  std::set<std::tuple<std::string, int, int, std::string>> seen;
  const auto repeated = [&](const ConfigMessage& m) {
    return !seen.emplace(m.file, m.line, m.column, m.text).second;
  };
  out.erase(std::remove_if(out.begin(), out.end(), repeated), out.end());
  return out;
}

void Problems::throw_if_any() const {
  if (!empty()) throw ConfigError(sorted());
}

}  // namespace orrery
