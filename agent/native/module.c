/* agent._native: inner loops that cost too much in Python. Each function works on plain buffers and lists and releases
 * the interpreter lock while it runs; none keeps state between calls and none knows of repositories or snapshots. Two
 * types do keep something: block.c's pool of buffers, and rows.c's table of what is being written; attributes.c's is a
 * value.
 * One file per room: hash.c and hash_lanes.c (keyed BLAKE2b, of one message and of several), scrypt.c (password keys),
 * split.c (content-defined cuts), index.c (key search), rows.c and build.c (new contents and the index of them),
 * tree_read.c, tree_survey.c and tree_write.c (many small files), entry.c and scan.c (directory JSON), memory.c (the
 * allocator), block.c (large buffers used again), read_ahead.c (modules into the page cache).
 * `agent/_native.pyi` is the documentation. */
#include "native.h"

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "agent._native", "Compiled inner loops of the data path.", -1, NULL,
};

static PyMethodDef *const rooms[] = {
    hash_methods,        scrypt_methods,     split_methods, index_methods, tree_read_methods,
    tree_survey_methods, tree_write_methods, entry_methods, scan_methods,  memory_methods,
    read_ahead_methods,
};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *m = PyModule_Create(&module);
    if (m == NULL) return NULL;
    split_prepare();
    for (size_t i = 0; i < sizeof rooms / sizeof rooms[0]; i++) {
        if (PyModule_AddFunctions(m, rooms[i]) < 0) {
            Py_DECREF(m);
            return NULL;
        }
    }
    if (block_add_types(m) < 0 || rows_add_types(m) < 0 || attributes_add_type(m) < 0) {
        Py_DECREF(m);
        return NULL;
    }
    return m;
}
