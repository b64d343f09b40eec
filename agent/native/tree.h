/* What both directions of the tree functions share. */
#ifndef LIGHTERAGE_TREE_H
#define LIGHTERAGE_TREE_H
#include "native.h"

#include <errno.h>
#include <string.h>
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

#endif
