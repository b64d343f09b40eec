/* How the C library keeps freed memory. Its threshold for giving large blocks back to the system grows with the first
 * of them that is freed, up to 32 MiB, and each thread has an arena of its own: buffers of some MiB that come and go
 * in several threads then leave holes that nothing else fits, and the peak is twice what is in use. */
#include "native.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

enum { LARGE = 1024 * 1024, ARENAS = 2 };

static PyObject *return_large_blocks(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, LARGE);
    mallopt(M_ARENA_MAX, ARENAS);
#endif
    Py_RETURN_NONE;
}

static PyObject *return_free_pages(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
#ifdef __GLIBC__
    Py_BEGIN_ALLOW_THREADS
    malloc_trim(0);
    Py_END_ALLOW_THREADS
#endif
    Py_RETURN_NONE;
}

PyMethodDef memory_methods[] = {
    {"return_large_blocks", return_large_blocks, METH_NOARGS, "Give large blocks back to the system once freed."},
    {"return_free_pages", return_free_pages, METH_NOARGS, "Give pages that hold nothing back to the system now."},
    {NULL, NULL, 0, NULL},
};
