# Installs the built tree, then builds and runs a project that knows only where it was installed.
set(work ${BUILD}/tests/install)
set(prefix ${work}/prefix)
file(REMOVE_RECURSE ${prefix} ${work}/consumer ${work}/consumer-build)

function(run result)
  execute_process(COMMAND ${CMAKE_COMMAND} -E env --unset=Torch_DIR --unset=CMAKE_PREFIX_PATH ${ARGN}
                  RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT code EQUAL 0)
    list(JOIN ARGN " " command)
    message("${output}")
    message(FATAL_ERROR "exit code ${code}: ${command}")
  endif()
  set(${result} "${output}" PARENT_SCOPE)
endfunction()

run(output ${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix})

# Nothing but the recorded libtorch may refer to this tree, which may be gone when the package is used.
file(GLOB_RECURSE package ${prefix}/*.cmake ${prefix}/*.h)
foreach(file ${package})
  file(READ ${file} text)
  string(REPLACE "${TORCH}" "" text "${text}")
  string(FIND "${text}" "${SOURCE}" source_at)
  string(FIND "${text}" "${BUILD}" build_at)
  if(NOT source_at EQUAL -1 OR NOT build_at EQUAL -1)
    message(FATAL_ERROR "${file} refers to the source or build tree")
  endif()
endforeach()

foreach(page man/man1/lora.1 bash-completion/completions/lora zsh/site-functions/_lora fish/vendor_completions.d/lora.fish)
  if(NOT EXISTS ${prefix}/share/${page})
    message(FATAL_ERROR "share/${page} is not installed")
  endif()
endforeach()

run(output ${prefix}/bin/lora --help)
run(version ${prefix}/bin/lora --version)

file(COPY ${CMAKE_CURRENT_LIST_DIR}/consumer DESTINATION ${work})
run(output ${CMAKE_COMMAND} -G ${GENERATOR} -S ${work}/consumer -B ${work}/consumer-build -DCMAKE_PREFIX_PATH=${prefix}
    -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_BUILD_TYPE=Release)
run(output ${CMAKE_COMMAND} --build ${work}/consumer-build)
run(output ${work}/consumer-build/consumer)
if(NOT output STREQUAL "bad_file bfloat16 0\nnot_found\nbad_key\n${version}")
  message(FATAL_ERROR "the consumer printed: ${output}")
endif()
