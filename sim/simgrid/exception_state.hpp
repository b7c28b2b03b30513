// The C++ runtime keeps the exceptions being handled in one list per thread, while actors are many
// stacks in one thread. An actor that blocks inside a catch block would leave its exception on the
// list of whoever runs next, and either could end the wrong one. So a stack takes its part of the
// state along when it is left.
#pragma once

#include <cxxabi.h>

#include <cstring>

namespace orrery::sim {

struct ExceptionState {
  void* caught =
      nullptr;  // the layout is fixed by the Itanium C++ ABI, section 2.2.2 (exception handling)
  unsigned int uncaught = 0;

  // Sets this thread's state and returns what it was.
  static ExceptionState exchange(const ExceptionState& next) {
    auto* globals = static_cast<void*>(abi::__cxa_get_globals());
    ExceptionState before;
    std::memcpy(&before.caught, globals, sizeof before.caught);
    std::memcpy(&before.uncaught, static_cast<char*>(globals) + sizeof(void*),
                sizeof before.uncaught);
    std::memcpy(globals, &next.caught, sizeof next.caught);
    std::memcpy(static_cast<char*>(globals) + sizeof(void*), &next.uncaught, sizeof next.uncaught);
    return before;
  }
};

}  // namespace orrery::sim
