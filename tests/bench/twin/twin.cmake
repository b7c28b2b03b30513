# The program bench_twin. It runs the built `orrery`; a test runs it for its form, `scripts/bench twin` for its figures.
if(NOT TARGET bench_twin AND TARGET orrery)
  add_executable(bench_twin ${CMAKE_CURRENT_LIST_DIR}/twin_bench.cpp)
  orrery_target(bench_twin)
  target_link_libraries(bench_twin PRIVATE fmt::fmt nlohmann_json::nlohmann_json)
  target_compile_definitions(bench_twin PRIVATE ORRERY_PROGRAM="$<TARGET_FILE:orrery>"
                                                ORRERY_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_dependencies(bench_twin orrery)
endif()
