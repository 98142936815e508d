# What `cmake --install` puts where, and what find_package(moejit) and pkg-config find. The CPU
# module installs itself, beside the library in <libdir>/moejit.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
option(MOEJIT_INSTALL "Install the library, its headers and its package files" ${PROJECT_IS_TOP_LEVEL})

set(MOEJIT_EXPORTS_MAP ${CMAKE_CURRENT_LIST_DIR}/exports.map)
target_link_options(moejit PRIVATE -Wl,--version-script=${MOEJIT_EXPORTS_MAP} -Wl,-z,defs)
if(MOEJIT_SANITIZE)
  # The sanitizer's runtime is in the program, not in the library.
  target_link_options(moejit PRIVATE -Wl,-z,undefs)
endif()
set_target_properties(moejit PROPERTIES LINK_DEPENDS ${MOEJIT_EXPORTS_MAP})

if(NOT MOEJIT_INSTALL)
  return()
endif()

install(TARGETS moejit EXPORT moejitTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/moejit DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h")
if(TARGET moejit_command)
  install(TARGETS moejit_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(MOEJIT_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/moejit)
install(EXPORT moejitTargets NAMESPACE moejit:: DESTINATION ${MOEJIT_PACKAGE_DIR})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/moejitConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/moejitConfig.cmake
                              INSTALL_DESTINATION ${MOEJIT_PACKAGE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/moejitConfigVersion.cmake
                                 COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/moejitConfig.cmake ${PROJECT_BINARY_DIR}/moejitConfigVersion.cmake
        DESTINATION ${MOEJIT_PACKAGE_DIR})

# Relative, so that the tree may be moved after it was installed.
file(RELATIVE_PATH MOEJIT_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(${CMAKE_CURRENT_LIST_DIR}/moejit.pc.in ${PROJECT_BINARY_DIR}/moejit.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/moejit.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
