# Fails if an object file of a target defines a weak symbol. The linker keeps one copy of a weak symbol for the whole
# program: a function compiled for a newer instruction set could end up being called everywhere.
#
# cmake -D NM=... -D OBJECTS=... -P check_symbols.cmake
list(FILTER OBJECTS INCLUDE REGEX "/targets/[^/]*$")
list(LENGTH OBJECTS count)
if(count LESS 4)
    message(FATAL_ERROR "There are ${count} object files of targets; there should be one for each of targets/*.cpp.")
endif()
foreach(object IN LISTS OBJECTS)
    execute_process(COMMAND "${NM}" --defined-only "${object}" OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
    if(NOT symbols MATCHES " T ")
        message(FATAL_ERROR "${object} defines no function.")
    endif()
    # W and V are weak, u is unique to the process: merged just as well.
    string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" weak "${symbols}")
    if(weak)
        list(JOIN weak "\n" weak)
        message(FATAL_ERROR "${object} defines weak symbols:\n${weak}")
    endif()
endforeach()
