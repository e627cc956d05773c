#include "verbs.h"

int tetrarch_post_send(struct ibv_qp *qp, struct ibv_send_wr *first, struct ibv_send_wr **bad)
{
    return ibv_post_send(qp, first, bad);
}

int tetrarch_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *first, struct ibv_recv_wr **bad)
{
    return ibv_post_recv(qp, first, bad);
}

int tetrarch_poll_cq(struct ibv_cq *cq, int count, struct ibv_wc *into)
{
    return ibv_poll_cq(cq, count, into);
}

int tetrarch_req_notify_cq(struct ibv_cq *cq, int solicited_only)
{
    return ibv_req_notify_cq(cq, solicited_only);
}

int tetrarch_query_port(struct ibv_context *device, uint8_t port, struct ibv_port_attr *into)
{
    return ibv_query_port(device, port, into);
}

struct ibv_mr *tetrarch_reg_mr(struct ibv_pd *pd, void *address, size_t size, int access)
{
    return ibv_reg_mr(pd, address, size, access);
}

ssize_t tetrarch_query_gid_table(struct ibv_context *device, struct ibv_gid_entry *into, size_t count)
{
    return ibv_query_gid_table(device, into, count, 0);
}
