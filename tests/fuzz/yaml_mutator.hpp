// A mutator that knows words, quantities and lines, for fuzz targets that read YAML. Bytes alone
// rarely turn one valid document into another; a quarter of the mutations is left to libFuzzer.
#pragma once

#include <array>
#include <cctype>
#include <cstring>
#include <random>
#include <string>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(unsigned char* data, std::size_t size, std::size_t max);

namespace orrery::fuzz {

struct Vocabulary {
  std::vector<std::string> words;  // keys and values
  std::vector<std::string> units;  // what may follow a number
  std::vector<std::string> lines;  // whole entries of the top level
};

class YamlMutator {
 public:
  YamlMutator(const Vocabulary& vocabulary, unsigned seed) : v_(vocabulary), random_(seed) {}

  std::string operator()(std::string text) {
    switch (below(3)) {
      case 0:
        return insert_line(std::move(text));
      default:
        return change_token(std::move(text));
    }
  }
  bool structural() { return below(4) != 0; }

 private:
  struct Token {
    std::size_t start, end;
  };

  std::size_t below(std::size_t n) { return n == 0 ? 0 : random_() % n; }
  const std::string& pick(const std::vector<std::string>& from) { return from[below(from.size())]; }

  static std::vector<Token> tokens(const std::string& text) {
    std::vector<Token> found;
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t start = i;
      const auto part = [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) || (c != '\0' && std::strchr("._+-", c));
      };
      while (i < text.size() && part(text[i])) ++i;
      if (i > start)
        found.push_back({start, i});
      else
        ++i;
    }
    return found;
  }

  // Another unit or number for a quantity, another word for a word.
  std::string change_token(std::string text) {
    static const std::vector<std::string> numbers{"0",   "-1",   "1e3",      "010",
                                                  "0.5", "1e18", "999999999"};
    const std::vector<Token> all = tokens(text);
    if (all.empty()) return text;
    // Half of the time a number: they are few and have most to go wrong.
    std::vector<Token> numbers_only;
    for (const Token& t : all)
      if (text[t.start] >= '0' && text[t.start] <= '9') numbers_only.push_back(t);
    const auto& from = numbers_only.empty() || below(2) == 0 ? all : numbers_only;
    const Token token = from[below(from.size())];
    const std::string old = text.substr(token.start, token.end - token.start);
    const std::size_t digits = old.find_first_not_of("0123456789.");
    std::string fresh;
    if (digits == 0)
      fresh = pick(v_.words);
    else if (below(4) == 0)
      fresh = pick(numbers) + (digits == std::string::npos ? "" : old.substr(digits));
    else
      fresh = old.substr(0, digits) + pick(v_.units);
    return text.replace(token.start, old.size(), fresh);
  }

  std::string insert_line(std::string text) {
    std::vector<std::size_t> starts{0};
    for (std::size_t i = 0; i < text.size(); ++i)
      if (text[i] == '\n') starts.push_back(i + 1);
    return text.insert(starts[below(starts.size())], pick(v_.lines) + "\n");
  }

  const Vocabulary& v_;
  std::minstd_rand random_;
};

// The body of LLVMFuzzerCustomMutator.
inline std::size_t mutate_yaml(const Vocabulary& vocabulary, unsigned char* data, std::size_t size,
                               std::size_t max, unsigned seed) {
  YamlMutator mutator(vocabulary, seed);
  if (mutator.structural()) {
    const std::string text = mutator(std::string(reinterpret_cast<const char*>(data), size));
    if (text.size() <= max) {
      std::memcpy(data, text.data(), text.size());
      return text.size();
    }
  }
  return LLVMFuzzerMutate(data, size, max);
}

}  // namespace orrery::fuzz
