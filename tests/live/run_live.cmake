# Runs SCRIPT. A missing interpreter would otherwise be a test that was not run, without a word on what to do.
if(NOT EXISTS ${PYTHON})
  message(FATAL_ERROR "${PYTHON} is not there: run `make test`, which installs the reference")
endif()
execute_process(COMMAND ${PYTHON} ${CMAKE_CURRENT_LIST_DIR}/${SCRIPT} ${PROGRAM} RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${SCRIPT} failed: ${result}")
endif()
