# libibverbs and librdmacm of rdma-core 32 or newer: the first with a table of GIDs that says of each whether
# it is RoCE v2. Defines Verbs::verbs, Verbs_INCLUDE_DIR, Verbs_LIBRARY, RdmaCm_LIBRARY.
include(CheckCSourceCompiles)
include(FindPackageHandleStandardArgs)

find_path(Verbs_INCLUDE_DIR infiniband/verbs.h)
find_path(RdmaCm_INCLUDE_DIR rdma/rdma_cma.h)
find_library(Verbs_LIBRARY ibverbs)
find_library(RdmaCm_LIBRARY rdmacm)

if(Verbs_INCLUDE_DIR AND Verbs_LIBRARY)
    set(CMAKE_REQUIRED_INCLUDES "${Verbs_INCLUDE_DIR}")
    set(CMAKE_REQUIRED_LIBRARIES "${Verbs_LIBRARY}")
    check_c_source_compiles("
        #include <infiniband/verbs.h>
        int main(void) { struct ibv_gid_entry e; return (int)ibv_query_gid_table(0, &e, 1, 0); }"
        Verbs_HAS_GID_TABLE)
endif()

find_package_handle_standard_args(Verbs
    REQUIRED_VARS Verbs_LIBRARY RdmaCm_LIBRARY Verbs_INCLUDE_DIR RdmaCm_INCLUDE_DIR Verbs_HAS_GID_TABLE
    REASON_FAILURE_MESSAGE
    "the RDMA transport needs rdma-core 32 or newer: apt-get install libibverbs-dev librdmacm-dev")

if(Verbs_FOUND AND NOT TARGET Verbs::verbs)
    add_library(Verbs::verbs INTERFACE IMPORTED)
    set_target_properties(Verbs::verbs PROPERTIES
        INTERFACE_INCLUDE_DIRECTORIES "${Verbs_INCLUDE_DIR}"
        INTERFACE_LINK_LIBRARIES "${RdmaCm_LIBRARY};${Verbs_LIBRARY}")
endif()
