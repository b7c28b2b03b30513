# The programs bench_twin and bench_rates. They run the built `orrery`; tests run them for their form, `scripts/bench twin` and
# `scripts/bench rates` for their figures.
foreach(name twin rates)
  if(NOT TARGET bench_${name} AND TARGET orrery)
    add_executable(bench_${name} ${CMAKE_CURRENT_LIST_DIR}/${name}_bench.cpp)
    orrery_target(bench_${name})
    target_link_libraries(bench_${name} PRIVATE fmt::fmt nlohmann_json::nlohmann_json)
    target_compile_definitions(bench_${name} PRIVATE ORRERY_PROGRAM="$<TARGET_FILE:orrery>"
                                                     ORRERY_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
    add_dependencies(bench_${name} orrery)
  endif()
endforeach()
