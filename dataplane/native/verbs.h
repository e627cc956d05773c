/* What Rust is bound to of libibverbs and librdmacm: their headers, and a function for each call that the
 * headers define as `static inline` or as a macro, which have no symbol to link. Each does what its
 * namesake does and nothing else. */
#ifndef TETRARCH_VERBS_H
#define TETRARCH_VERBS_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

int tetrarch_post_send(struct ibv_qp *qp, struct ibv_send_wr *first, struct ibv_send_wr **bad);
int tetrarch_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *first, struct ibv_recv_wr **bad);
int tetrarch_poll_cq(struct ibv_cq *cq, int count, struct ibv_wc *into);
int tetrarch_req_notify_cq(struct ibv_cq *cq, int solicited_only);
int tetrarch_query_port(struct ibv_context *device, uint8_t port, struct ibv_port_attr *into);
struct ibv_mr *tetrarch_reg_mr(struct ibv_pd *pd, void *address, size_t size, int access);
ssize_t tetrarch_query_gid_table(struct ibv_context *device, struct ibv_gid_entry *into, size_t count);

#endif
