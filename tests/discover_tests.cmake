# Writes the CTest file of one doctest program: a test per case, in a process of its own. Run after the program is linked:
#   cmake -D PROGRAM=… -D PREFIX=… -D LABELS=a,b -D FILE=… -P discover_tests.cmake
# doctest's own discovery splits names at semicolons and brackets; ours are statements, which use both.

execute_process(COMMAND ${PROGRAM} --list-test-cases OUTPUT_VARIABLE output RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} cannot list its tests (${result}):\n${output}")
endif()
string(REPLACE "," ";" LABELS "${LABELS}")
set(script "")
set(number 0)

# The labels of this case, the number-th from 0: `x/4` is x for each fourth, and nothing for others.
function(labels_of number)
  set(labels "")
  foreach(label ${LABELS})
    if(label MATCHES "^(.*)/([0-9]+)$")
      math(EXPR rest "${number} % ${CMAKE_MATCH_2}")
      if(rest)
        continue()
      endif()
      set(label ${CMAKE_MATCH_1})
    endif()
    list(APPEND labels ${label})
  endforeach()
  set(labels "${labels}" PARENT_SCOPE)
endfunction()

function(add_case name)
  string(REPLACE "," "\\," filter "${name}")  # a comma would part two filters
  set(test "[==[${PREFIX}/${name}]==]")
  labels_of(${number})
  # A case whose name the filter does not match would run nothing and pass: so no case run is a failure.
  set(script "${script}add_test(${test} [==[${PROGRAM}]==] [==[--test-case=${filter}]==])
set_tests_properties(${test} PROPERTIES LABELS \"${labels}\" TIMEOUT 300
  FAIL_REGULAR_EXPRESSION \"test cases: +0 \"
  ENVIRONMENT \"UBSAN_OPTIONS=print_stacktrace=1;TSAN_OPTIONS=halt_on_error=1 second_deadlock_stack=1\")
" PARENT_SCOPE)
endfunction()

# Line by line without making a list, which would split too.
while(NOT output STREQUAL "")
  string(FIND "${output}" "\n" end)
  string(SUBSTRING "${output}" 0 ${end} line)
  if(end EQUAL -1)
    set(output "")
  else()
    math(EXPR end "${end} + 1")
    string(SUBSTRING "${output}" ${end} -1 output)
  endif()
  if(line STREQUAL "")
    message(FATAL_ERROR "${PROGRAM}: a test case without a name")
  elseif(NOT line MATCHES "^(\\[doctest\\] .*|=+)$")
    add_case("${line}")
    math(EXPR number "${number} + 1")
  endif()
endwhile()
file(WRITE ${FILE} "${script}")
