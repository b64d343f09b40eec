/* agent._native: inner loops that cost too much in Python. Each function works on plain buffers and lists and releases
 * the interpreter lock while it runs; none keeps state between calls and none knows of repositories or snapshots.
 * One file per room: hash.c (keyed BLAKE2b), split.c (content-defined cuts), index.c (key search), build.c (index
 * rows), tree.c (many small files), entry.c (directory JSON). `agent/_native.pyi` is the documentation. */
#include "native.h"

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "agent._native", "Compiled inner loops of the data path.", -1, NULL,
};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *m = PyModule_Create(&module);
    if (m == NULL) return NULL;
    split_prepare();
    if (PyModule_AddFunctions(m, hash_methods) < 0 || PyModule_AddFunctions(m, split_methods) < 0 ||
        PyModule_AddFunctions(m, index_methods) < 0 || PyModule_AddFunctions(m, build_methods) < 0 ||
        PyModule_AddFunctions(m, tree_methods) < 0 || PyModule_AddFunctions(m, entry_methods) < 0) {
        Py_DECREF(m);
        return NULL;
    }
    return m;
}
