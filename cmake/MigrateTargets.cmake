# How this project makes its targets: one object library a layer, one library for users, one test
# program a folder of tests.

# Warnings and sanitizers for the project's own code; consumers never see them. A folder's MIGRATE_SANITIZE_NOT takes some
# of the sanitizers' checks back.
function(migrate_compile_options target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
    -Wno-sign-conversion -Wnon-virtual-dtor -Woverloaded-virtual -Werror
    $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety -Wno-gnu-zero-variadic-macro-arguments>)
  if(MIGRATE_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${MIGRATE_SANITIZE} ${MIGRATE_SANITIZE_NOT}
      -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=${MIGRATE_SANITIZE})
  endif()
endfunction()

# migrate_layer(wire SOURCES a.cc LINK PkgConfig::XXHASH): objects of src/<layer>, part of migrate.
function(migrate_layer layer)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  string(REPLACE "-" "_" name ${layer})
  add_library(migrate_${name} OBJECT ${ARG_SOURCES})
  target_include_directories(migrate_${name} PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(migrate_${name} PUBLIC Threads::Threads ${ARG_LINK})
  migrate_compile_options(migrate_${name})
  set_property(GLOBAL APPEND PROPERTY MIGRATE_LAYERS migrate_${name})
endfunction()

# libmigrate: all layers in one static library, exported as migrate::migrate.
function(migrate_library)
  get_property(layers GLOBAL PROPERTY MIGRATE_LAYERS)
  set(objects "")
  foreach(layer IN LISTS layers)
    list(APPEND objects $<TARGET_OBJECTS:${layer}>)
  endforeach()
  add_library(migrate STATIC ${objects})
  add_library(migrate::migrate ALIAS migrate)
  set_target_properties(migrate PROPERTIES LINKER_LANGUAGE CXX)
  target_compile_features(migrate PUBLIC cxx_std_20)
  target_include_directories(migrate PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(migrate PUBLIC Threads::Threads PRIVATE PkgConfig::LIBURING
    PkgConfig::XXHASH PkgConfig::ZSTD OpenSSL::SSL)
  if(MIGRATE_SANITIZE)
    target_link_options(migrate PUBLIC $<BUILD_INTERFACE:-fsanitize=${MIGRATE_SANITIZE}>)
  endif()
endfunction()

# Installs libraries and headers (component `library`) with the files that find_package needs.
function(migrate_install)
  include(CMakePackageConfigHelpers)
  set(folder ${CMAKE_INSTALL_LIBDIR}/cmake/migrate)
  install(TARGETS ${ARGN} EXPORT migrateTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    COMPONENT library)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/migrate DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
    COMPONENT library)
  install(EXPORT migrateTargets NAMESPACE migrate:: DESTINATION ${folder} COMPONENT library)
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/migrate-config-version.cmake
    COMPATIBILITY SameMinorVersion)
  # The adapter for containers links more.
  set(MIGRATE_CONTAINERS_LINKED 0)
  if(migrate_containers IN_LIST ARGN)
    set(MIGRATE_CONTAINERS_LINKED 1)
  endif()
  configure_file(${PROJECT_SOURCE_DIR}/cmake/migrate-config.cmake
    ${PROJECT_BINARY_DIR}/migrate-config.cmake @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/migrate-config.cmake
    ${PROJECT_BINARY_DIR}/migrate-config-version.cmake DESTINATION ${folder} COMPONENT library)
endfunction()

# migrate_test(wire_test SOURCES a_test.cc LINK migrate LABELS kvm): a GoogleTest program whose cases
# are ctest tests. Internal headers of src/ and the project's root are on its include path.
# HUGE_PAGES is a filter (as --gtest_filter, without '-') of the cases that take huge pages from the
# host's one pool: ctest runs one of all these at a time, so that none waits within its own time.
function(migrate_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT;HUGE_PAGES" "SOURCES;LINK;LABELS;PROPERTIES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest GTest::gmock GTest::gtest_main)
  migrate_compile_options(${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set(properties TIMEOUT ${ARG_TIMEOUT} ${ARG_PROPERTIES})
  if(ARG_LABELS)
    list(APPEND properties LABELS "${ARG_LABELS}")
  endif()
  set(others)
  if(ARG_HUGE_PAGES)
    gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 TEST_FILTER "${ARG_HUGE_PAGES}"
      TEST_LIST ${name}_HUGE_PAGES PROPERTIES RESOURCE_LOCK huge_pages ${properties})
    set(others TEST_FILTER "-${ARG_HUGE_PAGES}")
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 ${others} PROPERTIES ${properties})
endfunction()
