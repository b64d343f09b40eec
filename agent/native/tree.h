/* What both directions of the tree functions share. */
#ifndef LIGHTERAGE_TREE_H
#define LIGHTERAGE_TREE_H
#include "attributes.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* EINVAL for a name that is not one component of a path. */
static inline int entry_name_error(const char *name, Py_ssize_t length) {
    if (length == 0 || memchr(name, '/', length) != NULL || memchr(name, 0, length) != NULL) return EINVAL;
    if (name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.'))) return EINVAL;
    return 0;
}

/* read(2) or write(2) by way of SYS_preadv2 or SYS_pwritev2, whose flags become 0 where the file system does not have
 * them. The system call itself: the oldest C library that wheels are built for does not know its name. */
static inline ssize_t transfer(long call, int fd, void *data, size_t length, int *flags) {
    for (;;) {
        struct iovec vector = {data, length};
        ssize_t done = *flags                ? syscall(call, fd, &vector, 1, -1L, -1L, *flags)
                       : call == SYS_preadv2 ? read(fd, data, length)
                                             : write(fd, data, length);
        if (done >= 0) return done;
        if (errno == EINTR) continue;
        if (!*flags || (errno != EOPNOTSUPP && errno != EINVAL && errno != ENOSYS)) return done;
        *flags = 0;
    }
}

struct kernel_dirent {
    uint64_t ino;
    int64_t off;
    uint16_t reclen;
    uint8_t type;
    char name[];
};

#define LIST_BYTES (128 * 1024)

/* getdents64(2) into LIST_BYTES. */
static inline long next_names(int fd, char *buffer) {
    long got;
    do got = syscall(SYS_getdents64, fd, buffer, LIST_BYTES);
    while (got < 0 && errno == EINTR);
    return got;
}

struct looked_up {
    const char *name;
    int error;
    int too_large;
    int fd;
    struct stat st;
    char *data;
    size_t capacity, length;
};

static inline PyObject *status_object(const struct stat *st) {
    struct attributes values = attributes_of_stat(st);
    return attributes_new(&values);
}

/* Of tree_read.c. A tuple of these fields, which it takes over; one that is NULL has set the error. Made for every file: a
 * format string would be read each time. */
PyObject *packed(PyObject **fields, Py_ssize_t count);

/* Records for a sequence of names; `*keep` holds the names alive until release(). */
struct looked_up *take_names(PyObject *names, PyObject **keep, Py_ssize_t *count);
void release(struct looked_up *items, Py_ssize_t count, PyObject *keep);

#endif
