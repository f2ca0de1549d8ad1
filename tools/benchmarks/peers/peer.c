/* The floor: what recvmmsg(2) and sendmmsg(2) cost from C. See protocol.md for the lines on standard input and output. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 1024, STRIDE = 2048, CONTROL = 128 };

/* What the other contestants make of a datagram. */
struct datagram {
    char *payload;
    size_t length;
    struct sockaddr_in peer;
    struct in_addr dst, local;
    int ttl, ifindex;
};

static struct mmsghdr headers[BATCH];
static struct iovec vectors[BATCH];
static struct sockaddr_in names[BATCH];
static char controls[BATCH][CONTROL] __attribute__((aligned(8)));
static char payloads[BATCH][STRIDE];
static struct datagram datagrams[BATCH];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void parse(struct datagram *datagram, struct mmsghdr *header, int index) {
    free(datagram->payload);
    datagram->length = header->msg_len;
    datagram->payload = malloc(header->msg_len + 1);
    memcpy(datagram->payload, payloads[index], header->msg_len);
    datagram->peer = names[index];
    struct msghdr *message = &header->msg_hdr;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != IPPROTO_IP) continue;
        if (c->cmsg_type == IP_TTL) memcpy(&datagram->ttl, CMSG_DATA(c), sizeof datagram->ttl);
        if (c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            datagram->dst = info.ipi_addr;
            datagram->local = info.ipi_spec_dst;
            datagram->ifindex = info.ipi_ifindex;
        }
    }
}

/* Receive `count` datagrams, or until one of a single octet, up to `limit` a call. */
static void drain(int descriptor, int count, int limit, int parsing) {
    int received = 0, last = 0;
    for (int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){payloads[i], STRIDE};
        headers[i].msg_hdr = (struct msghdr){&names[i], sizeof names[i], &vectors[i], 1, controls[i], CONTROL, 0};
        headers[i].msg_len = 0;
    }
    int64_t wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    while (received < count && headers[last].msg_len != 1) {
        int most = count - received < limit ? count - received : limit;
        for (int i = 0; i < most; i++) {
            headers[i].msg_hdr.msg_namelen = sizeof names[i];
            headers[i].msg_hdr.msg_controllen = CONTROL;
        }
        int got = recvmmsg(descriptor, headers, most, MSG_DONTWAIT, NULL);
        if (got < 0) {
            if (errno != EAGAIN) fail("recvmmsg");
            struct pollfd waiting = {descriptor, POLLIN, 0};
            poll(&waiting, 1, -1);
            continue;
        }
        if (parsing)
            for (int i = 0; i < got; i++) parse(&datagrams[i], &headers[i], i);
        received += got;
        last = got - 1;
    }
    wall = now(CLOCK_MONOTONIC) - wall;
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    if (!parsing) parse(&datagrams[last], &headers[last], last);
    printf("ok %lld %lld %d %zu %d %d\n", (long long)wall, (long long)cpu, received, datagrams[last].length,
           datagrams[last].ttl, datagrams[last].ifindex);
}

/* Send `count` datagrams, `limit` a call, each with a control message that asks for a TTL. */
static void send_all(int descriptor, int count, int limit, int length, struct sockaddr_in to, int with_control) {
    static char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
    int sent = 0, ttl = 7;
    int64_t wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    while (sent < count) {
        int most = count - sent < limit ? count - sent : limit;
        for (int i = 0; i < most; i++) {
            vectors[i] = (struct iovec){payloads[i], length};
            headers[i].msg_hdr = (struct msghdr){&to, sizeof to, &vectors[i], 1, NULL, 0, 0};
            if (with_control) {
                headers[i].msg_hdr.msg_control = control;
                headers[i].msg_hdr.msg_controllen = sizeof control;
                struct cmsghdr *c = CMSG_FIRSTHDR(&headers[i].msg_hdr);
                c->cmsg_level = IPPROTO_IP;
                c->cmsg_type = IP_TTL;
                c->cmsg_len = CMSG_LEN(sizeof ttl);
                memcpy(CMSG_DATA(c), &ttl, sizeof ttl);
            }
        }
        int got = sendmmsg(descriptor, headers, most, 0);
        if (got < 0) fail("sendmmsg");
        sent += got;
    }
    wall = now(CLOCK_MONOTONIC) - wall;
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("ok %lld %lld %d %d 0 0\n", (long long)wall, (long long)cpu, sent, length);
}

/* Send `count` datagrams at `rate` a second, in bursts of what is due every half millisecond. */
static void pace(int descriptor, int count, int rate, int length, struct sockaddr_in to) {
    for (int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){payloads[i], length};
        headers[i].msg_hdr = (struct msghdr){&to, sizeof to, &vectors[i], 1, NULL, 0, 0};
    }
    int64_t wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    int sent = 0;
    while (sent < count) {
        int64_t due = (now(CLOCK_MONOTONIC) - wall) * rate / 1000000000LL;
        if (due > count) due = count;
        int most = due - sent < BATCH ? (int)(due - sent) : BATCH;
        if (most > 0) {
            int got = sendmmsg(descriptor, headers, most, 0);
            if (got < 0) fail("sendmmsg");
            sent += got;
        }
        if (sent < count) nanosleep(&(struct timespec){0, 500000}, NULL);
    }
    wall = now(CLOCK_MONOTONIC) - wall;
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("ok %lld %lld %d %d 0 0\n", (long long)wall, (long long)cpu, sent, length);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int parsing = strcmp(argv[1], "parse") == 0;
    int descriptor = socket(AF_INET, SOCK_DGRAM, 0);
    int on = 1, room = 16 << 20;
    if (descriptor < 0) fail("socket");
    if (strcmp(argv[2], "flow") != 0 && setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) < 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    setsockopt(descriptor, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
    setsockopt(descriptor, IPPROTO_IP, IP_RECVTTL, &on, sizeof on);
    struct sockaddr_in own = {.sin_family = AF_INET};
    socklen_t size = sizeof own;
    if (bind(descriptor, (struct sockaddr *)&own, sizeof own) < 0) fail("bind");
    getsockname(descriptor, (struct sockaddr *)&own, &size);
    memset(payloads, 'x', sizeof payloads);
    printf("ready %d\n", ntohs(own.sin_port));
    fflush(stdout);
    char line[256], command[16], address[64];
    while (fgets(line, sizeof line, stdin) != NULL) {
        int count, limit, length = 0, port = 0;
        if (sscanf(line, "%15s %d %d %d %63s %d", command, &count, &limit, &length, address, &port) < 3) return 2;
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
        if (port != 0) inet_aton(address, &to.sin_addr);
        if (limit > BATCH && strcmp(command, "pace") != 0) limit = BATCH;
        if (strcmp(command, "drain") == 0) drain(descriptor, count, limit, parsing);
        if (strcmp(command, "send") == 0) send_all(descriptor, count, limit, length, to, 1);
        if (strcmp(command, "pace") == 0) pace(descriptor, count, limit, length, to);
        fflush(stdout);
    }
    return 0;
}
