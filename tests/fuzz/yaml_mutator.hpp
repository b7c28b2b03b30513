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

// Inputs that turned out valid. Most that a fuzzer keeps for their coverage are broken somewhere,
// and a change to them is seen by no code behind the break; so half of the mutations start from
// here.
class ValidInputs {
 public:
  void keep(const std::string& text) {
    constexpr std::size_t most = 256;
    if (kept_.size() < most) kept_.emplace_back();
    kept_[kept_.size() < most ? kept_.size() - 1 : count_ % most] = text;
    ++count_;
  }
  const std::string* pick(unsigned number) const {
    return kept_.empty() ? nullptr : &kept_[number % kept_.size()];
  }

 private:
  std::vector<std::string> kept_;
  std::size_t count_ = 0;
};
inline ValidInputs& valid_inputs() {
  static ValidInputs inputs;
  return inputs;
}

struct Vocabulary {
  std::vector<std::string> words;  // keys and values
  std::vector<std::string> units;  // what may follow a number
  std::vector<std::string> lines;  // whole entries of the top level
};

class YamlMutator {
 public:
  YamlMutator(const Vocabulary& vocabulary, unsigned seed) : v_(vocabulary), random_(seed) {}

  std::string operator()(std::string text) {
    return below(3) == 0 ? insert_entry(std::move(text)) : change_token(std::move(text));
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

  // An entry of the top level anywhere, mostly in the place of the one that has its key: two of
  // one key are an error.
  std::string insert_entry(std::string text) {
    const std::string& entry = pick(v_.lines);
    std::vector<std::size_t> starts{0};
    for (std::size_t i = 0; i < text.size(); ++i)
      if (text[i] == '\n') starts.push_back(i + 1);
    const std::size_t key = entry.find(": ");
    if (key != std::string::npos && below(4) != 0)
      for (const std::size_t start : starts)
        if (text.compare(start, key + 1, entry, 0, key + 1) == 0)
          return text.replace(start, entry_end(text, start) - start, entry + "\n");
    return text.insert(starts[below(starts.size())], entry + "\n");
  }

  // Behind the entry that starts there, with the indented lines that belong to it.
  static std::size_t entry_end(const std::string& text, std::size_t start) {
    do {
      start = text.find('\n', start);
      if (start == std::string::npos) return text.size();
      ++start;
    } while (start < text.size() && (text[start] == ' ' || text[start] == '#'));
    return start;
  }

  const Vocabulary& v_;
  std::minstd_rand random_;
};

// The body of LLVMFuzzerCustomMutator.
inline std::size_t mutate_yaml(const Vocabulary& vocabulary, unsigned char* data, std::size_t size,
                               std::size_t max, unsigned seed) {
  YamlMutator mutator(vocabulary, seed);
  if (mutator.structural()) {
    const std::string* valid = seed % 2 == 0 ? valid_inputs().pick(seed / 2) : nullptr;
    const std::string text =
        mutator(valid != nullptr ? *valid : std::string(reinterpret_cast<const char*>(data), size));
    if (text.size() <= max) {
      std::memcpy(data, text.data(), text.size());
      return text.size();
    }
  }
  return LLVMFuzzerMutate(data, size, max);
}

}  // namespace orrery::fuzz
