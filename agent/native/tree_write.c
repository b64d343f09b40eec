/* Many small files at once: create them with their metadata; and what large ones need of the file system.
 *
 * Directory descriptors and names as in `tree_read.c`: a name is one component, no call leaves the directory, the system
 * calls of a whole batch run without the interpreter lock. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tree.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>


enum { APPLY_OWNER = 1, APPLY_MODE = 2, APPLY_TIMES = 4, REPLACE = 8 };

#define WRITE_PIECE ((size_t)512 * 1024)

struct created {
    const char *name;
    Py_buffer data;
    unsigned mode, uid, gid;
    long long mtime_ns;
    int outcome; /* 0; an errno: nothing is there; minus an errno: there, but some metadata could not be applied */
};

static void both_times(long long ns, struct timespec times[2]) {
    long long seconds = ns / NS_PER_SECOND, rest = ns % NS_PER_SECOND;
    if (rest < 0) {
        rest += NS_PER_SECOND;
        seconds--;
    }
    times[0].tv_sec = times[1].tv_sec = (time_t)seconds;
    times[0].tv_nsec = times[1].tv_nsec = (long)rest;
}

/* In pieces: for a larger write Linux takes page cache in units of 2 MiB, and those are what a virtual machine gives back
 * to its host and has to ask for again, at ten times the price. */
static int write_all(int fd, const char *data, size_t length, int *flags) {
    while (length > 0) {
        size_t wanted = length < WRITE_PIECE ? length : WRITE_PIECE;
        ssize_t put = transfer(SYS_pwritev2, fd, (char *)data, wanted, flags);
        if (put < 0) return errno;
        if (put == 0) return ENOSPC;
        data += put;
        length -= (size_t)put;
    }
    return 0;
}

static int create_file(int dir_fd, const struct created *item, int flags, int *write_flags) {
    int fd, replaced = 0;
    for (;;) {
        fd = openat(dir_fd, item->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY,
                    flags & APPLY_MODE ? 0600 : 0666);
        if (fd >= 0) break;
        if (errno == EINTR) continue;
        if (errno != EEXIST || !(flags & REPLACE) || replaced++ > 3) return errno;
        if (unlinkat(dir_fd, item->name, 0) < 0 && errno != ENOENT) return errno;
    }
    size_t length = (size_t)item->data.len;
    int plain = 0, error = write_all(fd, item->data.buf, length, length < WRITE_PIECE ? &plain : write_flags);
    int denied = 0;
    unsigned mode = item->mode & 07777;
    if (!error && (flags & APPLY_OWNER) && fchown(fd, item->uid, item->gid) < 0) {
        denied = errno;
        mode &= 01777; /* set-id bits belong to the stored owner, not to whoever restores */
    }
    if (!error && (flags & APPLY_MODE) && fchmod(fd, mode) < 0 && !denied) denied = errno;
    if (!error && (flags & APPLY_TIMES)) {
        struct timespec times[2];
        both_times(item->mtime_ns, times);
        if (futimens(fd, times) < 0 && !denied) denied = errno;
    }
    if (close(fd) < 0 && errno != EINTR && !error) error = errno;
    if (error) {
        unlinkat(dir_fd, item->name, 0);
        return error;
    }
    return -denied;
}

static int create_symlink(int dir_fd, const struct created *item, int flags, int *unused) {
    (void)unused;
    if (item->data.len == 0 || memchr(item->data.buf, 0, (size_t)item->data.len) != NULL) return EINVAL;
    char *target = malloc((size_t)item->data.len + 1);
    if (target == NULL) return ENOMEM;
    memcpy(target, item->data.buf, (size_t)item->data.len);
    target[item->data.len] = 0;
    int error = 0;
    for (int replaced = 0;;) {
        if (symlinkat(target, dir_fd, item->name) == 0) break;
        error = errno;
        if (error == EEXIST && (flags & REPLACE) && replaced++ <= 3) {
            error = 0;
            if (unlinkat(dir_fd, item->name, 0) == 0 || errno == ENOENT) continue;
            error = errno;
        }
        break;
    }
    free(target);
    if (error) return error;
    if (!(flags & (APPLY_OWNER | APPLY_TIMES))) return 0;
    /* By descriptor, so that a link swapped for another file in between is never given away. */
    int fd = openat(dir_fd, item->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0) return -errno;
    int denied = 0;
    if (fstat(fd, &st) < 0 || !S_ISLNK(st.st_mode)) {
        denied = ESTALE;
    } else {
        if ((flags & APPLY_OWNER) && fchownat(fd, "", item->uid, item->gid, AT_EMPTY_PATH) < 0) denied = errno;
        if (flags & APPLY_TIMES) {
            struct timespec times[2];
            both_times(item->mtime_ns, times);
            if (utimensat(fd, "", times, AT_EMPTY_PATH) < 0 &&
                utimensat(dir_fd, item->name, times, AT_SYMLINK_NOFOLLOW) < 0 && !denied)
                denied = errno;
        }
    }
    close(fd);
    return -denied;
}

static PyObject *create_all(PyObject *args, int (*create)(int, const struct created *, int, int *)) {
    int dir_fd, flags, write_flags = 0;
    PyObject *given;
    if (!PyArg_ParseTuple(args, "iOi|i", &dir_fd, &given, &flags, &write_flags)) return NULL;
    PyObject *keep = PySequence_Tuple(given), *result = NULL;
    if (keep == NULL) return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(keep), taken = 0;
    struct created *items = calloc(count ? count : 1, sizeof *items);
    if (items == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (; taken < count; taken++) {
        struct created *item = &items[taken];
        PyObject *tuple = PyTuple_GET_ITEM(keep, taken), *name;
        if (!PyTuple_Check(tuple)) {
            PyErr_SetString(PyExc_TypeError, "an item is a tuple (name, data, mode, uid, gid, mtime_ns)");
            goto done;
        }
        if (!PyArg_ParseTuple(tuple, "Sy*IIIL", &name, &item->data, &item->mode, &item->uid, &item->gid,
                              &item->mtime_ns))
            goto done;
        item->name = PyBytes_AS_STRING(name);
        item->outcome = entry_name_error(item->name, PyBytes_GET_SIZE(name));
    }
    Py_BEGIN_ALLOW_THREADS
    int full = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (items[i].outcome) continue;
        items[i].outcome = full ? full : create(dir_fd, &items[i], flags, &write_flags);
        if (items[i].outcome == ENOSPC || items[i].outcome == EDQUOT) full = items[i].outcome;
    }
    Py_END_ALLOW_THREADS
    result = PyList_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        PyObject *value = PyLong_FromLong(items[i].outcome);
        if (value == NULL)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, value);
    }
done:
    for (Py_ssize_t i = 0; i < taken; i++) PyBuffer_Release(&items[i].data);
    free(items);
    Py_DECREF(keep);
    return result;
}

static PyObject *create_many(PyObject *self, PyObject *args) {
    (void)self;
    return create_all(args, create_file);
}

static PyObject *symlink_many(PyObject *self, PyObject *args) {
    (void)self;
    return create_all(args, create_symlink);
}

static int is_zero(const char *data, size_t length) {
    return length == 0 || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

static PyObject *data_runs(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer data;
    Py_ssize_t block;
    if (!PyArg_ParseTuple(args, "y*n", &data, &block)) return NULL;
    PyObject *result = NULL;
    if (block <= 0) {
        PyErr_SetString(PyExc_ValueError, "a block has at least one byte");
        goto done;
    }
    result = PyList_New(0);
    Py_ssize_t start = -1, at = 0;
    while (result != NULL && (at < data.len || start >= 0)) {
        int boundary;
        Py_BEGIN_ALLOW_THREADS
        for (boundary = 0; !boundary;) {
            Py_ssize_t length = data.len - at < block ? data.len - at : block;
            int zero = is_zero((const char *)data.buf + at, (size_t)length); /* the end counts as zeros */
            if (zero == (start >= 0) || at >= data.len) boundary = 1;
            else at += length;
        }
        Py_END_ALLOW_THREADS
        if (start < 0) {
            start = at < data.len ? at : -1;
            continue;
        }
        PyObject *run = Py_BuildValue("(nn)", start, at - start);
        if (run == NULL || PyList_Append(result, run) < 0) Py_CLEAR(result);
        Py_XDECREF(run);
        start = -1;
    }
done:
    PyBuffer_Release(&data);
    return result;
}

static PyObject *allocate(PyObject *self, PyObject *args) {
    (void)self;
    int fd, mode, status;
    long long offset, length;
    if (!PyArg_ParseTuple(args, "iiLL", &fd, &mode, &offset, &length)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    do status = fallocate(fd, mode, offset, length);
    while (status < 0 && errno == EINTR);
    Py_END_ALLOW_THREADS
    if (status < 0) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *sync_filesystem(PyObject *self, PyObject *args) {
    (void)self;
    int fd, status;
    if (!PyArg_ParseTuple(args, "i", &fd)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = syncfs(fd);
    Py_END_ALLOW_THREADS
    if (status < 0) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyMethodDef tree_write_methods[] = {
    {"create_many", create_many, METH_VARARGS, "Create small files with their metadata."},
    {"symlink_many", symlink_many, METH_VARARGS, "Create symbolic links with their metadata."},
    {"data_runs", data_runs, METH_VARARGS, "Where a buffer is not zero, in whole blocks."},
    {"allocate", allocate, METH_VARARGS, "fallocate(2)."},
    {"sync_filesystem", sync_filesystem, METH_VARARGS, "syncfs(2)."},
    {NULL, NULL, 0, NULL},
};
